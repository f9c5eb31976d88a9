//! Canonical JSON by another way than the records' own: RFC 8785 for the values that records hold.

use serde_json::Value;
use sift_spec::types::INTEGER_MAX;

/// Checks the text of a record: a header line and one line of canonical JSON.
pub(crate) fn check_text(header: &str, text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    let [first, json, ""] = lines[..] else { panic!("not two lines: {text:?}") };
    assert_eq!(first, header);
    let value: Value = serde_json::from_str(json).expect("JSON");
    assert!(value.is_object());
    check_value(&value);
    let mut printed = String::new();
    print(&value, &mut printed);
    assert_eq!(printed, json, "canonical JSON");
}

fn check_value(value: &Value) {
    match value {
        Value::Null => panic!("null has no place in a record"),
        Value::Number(number) => {
            assert!(number.as_u64().is_some_and(|number| number <= INTEGER_MAX), "{number}");
        }
        Value::Array(items) => items.iter().for_each(check_value),
        Value::Object(members) => members.values().for_each(check_value),
        Value::Bool(_) | Value::String(_) => {}
    }
}

/// Members in the order of their names, whose characters are all ASCII here, and no white space.
fn print(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            assert!(members.iter().all(|(name, _)| name.is_ascii()));
            members.sort_by_key(|(name, _)| *name);
            list('{', '}', &members, out, |(name, value), out| {
                out.push_str(&format!("\"{name}\":"));
                print(value, out);
            });
        }
        Value::Array(items) => list('[', ']', items, out, print),
        Value::String(text) => {
            out.push('"');
            text.chars().for_each(|c| escape(c, out));
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn list<T>(open: char, close: char, items: &[T], out: &mut String, print: impl Fn(&T, &mut String)) {
    out.push(open);
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        print(item, out);
    }
    out.push(close);
}

/// RFC 8785 §3.2.2.2: seven short escapes, `\u00xx` for the other control characters, everything else as it is.
fn escape(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\t' => out.push_str("\\t"),
        '\n' => out.push_str("\\n"),
        '\u{c}' => out.push_str("\\f"),
        '\r' => out.push_str("\\r"),
        control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
        other => out.push(other),
    }
}
