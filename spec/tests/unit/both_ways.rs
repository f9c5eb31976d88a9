//! The two ways of reading a record, held against one another. These are unit tests of `spec/src/record/canonical.rs`,
//! and stand here because they read files, which nothing in `src` does.

use std::path::Path;

use super::{Canonical, read_and_compare, read_strictly};
use crate::record::{Body, Delegation, Halt, HaltCause, OperatorRecord, Record, Statement};
use crate::types::{Hash, Seq, Text, UnixMillis};

/// The vectors of a folder, accepted and refused.
fn vectors(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(folder);
    let mut texts = Vec::new();
    for half in ["ok", "bad"] {
        for file in std::fs::read_dir(folder.join(half)).unwrap() {
            let path = file.unwrap().path();
            // Some are refused because they are not UTF-8, before anybody reads a record.
            if let Ok(text) = std::fs::read_to_string(&path) {
                texts.push((format!("{half}/{}", path.file_stem().unwrap().to_str().unwrap()), text));
            }
        }
    }
    texts
}

/// The two ways take the same texts as the same values; gives how many they took and refused.
fn both_ways<T: Canonical + PartialEq + std::fmt::Debug>(name: &str, json: &str) -> [usize; 2] {
    let text = format!("{}\n{json}\n", T::HEADER);
    let (short, long) = (read_strictly::<T>(json), read_and_compare::<T>(&text, json).ok());
    assert_eq!(short, long, "{name}: {json}");
    if short.is_some() { [1, 0] } else { [0, 1] }
}

/// What differs from a text by more than a byte.
const REPLACED: [(&str, &str); 12] = [
    ("\"status\":\"ok\"", "\"status\":{\"ok\":}"),
    ("\"status\":\"ok\"", "\"status\":{\"ok\":null}"),
    ("\"role\":\"kernel\"", "\"role\":{\"kernel\":null}"),
    ("\"role\":\"kernel\"", "\"role\":{\"kernel\":}"),
    ("\"call\":{\"tool\":", "\"call\":{\"model\":1,\"tool\":"),
    ("\"census\":", "\"below\":{},\"census\":"),
    ("\"census\":", "\"below\":{\"agents\":0},\"census\":"),
    ("\"usage\":{", "\"usage\":{\"cache_read\":0,"),
    ("\"reserved\":{", "\"reserved\":{\"agents\":0,"),
    ("\"prev\":\"", "\"open\":null,\"prev\":\""),
    ("\"labels\":{}", "\"labels\":[]"),
    ("\"reasons\":[]", "\"reasons\":{}"),
];

/// Every vector; and of each that is accepted every byte taken away, doubled, and replaced by some characters that
/// JSON is made of.
fn changed_vectors<T: Canonical + PartialEq + std::fmt::Debug>(folder: &str) {
    let mut sums = [0; 2];
    let mut count = |name: &str, json: &str| {
        let seen = both_ways::<T>(name, json);
        sums = [sums[0] + seen[0], sums[1] + seen[1]];
    };
    let vectors = vectors(folder);
    assert!(vectors.len() > 5, "{folder}: {}", vectors.len());
    for (name, text) in &vectors {
        let json = text.strip_prefix(T::HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let Some(json) = json.and_then(|rest| rest.strip_suffix('\n')) else { continue };
        count(name, json);
        if !name.starts_with("ok/") {
            continue;
        }
        for (from, to) in REPLACED {
            count(name, &json.replacen(from, to, 1));
        }
        for at in 0..json.len() {
            let (Some(before), Some(after)) = (json.get(..at), json.get(at + 1..)) else { continue };
            count(name, &format!("{before}{after}"));
            count(name, &format!("{}{}", &json[..=at], &json[at..]));
            for other in "\"\\{}[]:,0192-.eEnrutfb \u{7f}\u{1}aAzZ_/+=\u{e9}".chars() {
                count(name, &format!("{before}{other}{after}"));
                count(name, &format!("{before}{other}{}", &json[at..]));
            }
        }
    }
    println!("{folder}: {} texts taken and {} refused, by both ways", sums[0], sums[1]);
    assert!(sums[0] > 100 && sums[1] > 1000, "{folder}: {sums:?}");
}

#[test]
fn both_ways_of_reading_take_the_same_texts() {
    changed_vectors::<Record>("record");
    changed_vectors::<OperatorRecord>("operator");
    changed_vectors::<Delegation>("delegation");
    changed_vectors::<Statement>("approval");
}

/// Every character that has an escape, and every escape that names one byte: one way to write each, read as it is.
#[test]
fn strings_have_one_spelling_each_way() {
    let halt = Record {
        agent: "airline/bot".parse().unwrap(),
        body: Body::Halt(Halt { cause: HaltCause::Operator, detail: Text::default() }),
        prev: Some(Hash::from_bytes([1; 32])),
        run: "0193a6c4-7b1e-7c3a-9d52-3f0a1b2c3d4e".parse().unwrap(),
        seq: Seq::new(3).unwrap(),
        time: UnixMillis::new(1_764_000_000_000).unwrap(),
    };
    let json_of = |detail: &str| {
        let mut record = halt.clone();
        record.body = Body::Halt(Halt { cause: HaltCause::Operator, detail: detail.parse().unwrap() });
        let mut json = Vec::new();
        record.write(&mut json).unwrap();
        (record, String::from_utf8(json).unwrap())
    };
    for code in 0..=0x2ff_u32 {
        let detail = char::from_u32(code).unwrap().to_string();
        let (record, json) = json_of(&format!("a{detail}b{detail}"));
        // Not by the long way, which would hide that it was refused.
        assert_eq!(read_strictly(&json), Some(record), "U+{code:04X}");
    }
    let (_, json) = json_of("@");
    let mut taken = 0;
    for code in 0..=0xff {
        for escape in [format!("\\u{code:04x}"), format!("\\u{code:04X}"), format!("\\{}", char::from(code))]
        {
            taken += both_ways::<Record>(&escape, &json.replace('@', &escape))[0];
        }
    }
    // Seven have a letter or a sign. The other 27 have digits, which are in lower case: where a hexadecimal letter is
    // among them, only one of the two that were tried is taken.
    let of_digits = (0..0x20).filter(|code| ![0x8, 0x9, 0xa, 0xc, 0xd].contains(code));
    let in_lower_case = of_digits.clone().filter(|code| code % 16 > 9).count();
    assert_eq!(taken, 7 + 2 * of_digits.count() - in_lower_case);
}
