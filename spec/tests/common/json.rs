//! JSON that can be damaged in ways a value cannot say: members out of order, twice, with loose numbers.

/// A value that keeps the order and the spelling of everything.
#[derive(Clone, Debug)]
pub(crate) enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    /// A string or number, spelled out.
    Raw(String),
}

impl Json {
    pub(crate) fn of(text: &str) -> Self {
        Self::from_value(&serde_json::from_str(text).unwrap())
    }

    fn from_value(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Object(members) => {
                let mut members: Vec<_> =
                    members.iter().map(|(name, value)| (name.clone(), Self::from_value(value))).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Object(members)
            }
            Value::Array(items) => Self::Array(items.iter().map(Self::from_value).collect()),
            other => Self::Raw(other.to_string()),
        }
    }

    pub(crate) fn print(&self) -> String {
        match self {
            Self::Object(members) => {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("\"{name}\":{}", value.print())).collect();
                format!("{{{}}}", members.join(","))
            }
            Self::Array(items) => {
                format!("[{}]", items.iter().map(Self::print).collect::<Vec<_>>().join(","))
            }
            Self::Raw(text) => text.clone(),
        }
    }

    /// Every value that `change` makes of one node, put back into the whole. `change` gets each node in turn.
    pub(crate) fn each(&self, change: &dyn Fn(&Json) -> Vec<(String, Json)>) -> Vec<(String, Json)> {
        let mut all = change(self);
        match self {
            Self::Object(members) => {
                for (at, (name, value)) in members.iter().enumerate() {
                    for (what, changed) in value.each(change) {
                        let mut members = members.clone();
                        members[at].1 = changed;
                        all.push((format!("{name}.{what}"), Self::Object(members)));
                    }
                }
            }
            Self::Array(items) => {
                for (at, value) in items.iter().enumerate() {
                    for (what, changed) in value.each(change) {
                        let mut items = items.clone();
                        items[at] = changed;
                        all.push((format!("{at}.{what}"), Self::Array(items)));
                    }
                }
            }
            Self::Raw(_) => {}
        }
        all
    }
}

fn raw(text: impl Into<String>) -> Json {
    Json::Raw(text.into())
}

/// Changes of one node after which nothing may be accepted, by name.
pub(crate) fn refused_changes(node: &Json) -> Vec<(String, Json)> {
    let mut all = vec![("null".to_owned(), raw("null"))];
    match node {
        Json::Object(members) => {
            for at in 0..members.len() {
                let mut twice = members.clone();
                twice.insert(at, members[at].clone());
                all.push((format!("{}-twice", members[at].0), Json::Object(twice)));
                if at > 0 {
                    let mut swapped = members.clone();
                    swapped.swap(at - 1, at);
                    all.push((format!("{}-out-of-order", members[at].0), Json::Object(swapped)));
                }
                let name = &members[at].0;
                let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
                let mut spelled = members.clone();
                spelled[at].0 = escaped;
                all.push((format!("{name}-name-escaped"), Json::Object(spelled)));
                let mut spaced = members.clone();
                spaced[at].1 = raw(format!(" {}", members[at].1.print()));
                all.push((format!("{name}-space-after-colon"), Json::Object(spaced)));
                let mut spaced = members.clone();
                spaced[at].1 = raw(format!("{} ", members[at].1.print()));
                all.push((format!("{name}-space-after-value"), Json::Object(spaced)));
            }
            for unknown in ["zz", "AA"] {
                let mut more = members.clone();
                more.push((unknown.to_owned(), raw("1")));
                more.sort_by(|a, b| a.0.cmp(&b.0));
                all.push((format!("unknown-{unknown}"), Json::Object(more)));
            }
            let values = members.iter().map(|(_, value)| value.clone()).collect();
            all.push(("as-array".to_owned(), Json::Array(values)));
            all.push(("as-string".to_owned(), raw("\"x\"")));
        }
        Json::Array(items) => {
            all.push(("as-object".to_owned(), Json::Object(vec![])));
            let mut comma = Json::Array(items.clone()).print();
            comma.insert(comma.len() - 1, ',');
            all.push(("comma-at-end".to_owned(), raw(comma)));
        }
        Json::Raw(text) if text.starts_with('"') => {
            let inner = &text[1..text.len() - 1];
            if let Some(first) = inner.chars().next().filter(char::is_ascii_alphanumeric) {
                let rest = &inner[first.len_utf8()..];
                all.push(("escaped".to_owned(), raw(format!("\"\\u{:04x}{rest}\"", first as u32))));
            }
            if inner.contains('/') {
                all.push(("solidus-escaped".to_owned(), raw(text.replacen('/', "\\/", 1))));
            }
            all.push(("as-number".to_owned(), raw("7")));
            all.push(("lone-surrogate".to_owned(), raw("\"\\ud800\"")));
            all.push(("control-character".to_owned(), raw("\"\u{1}\"")));
            all.push(("single-quotes".to_owned(), raw(text.replace('"', "'"))));
        }
        Json::Raw(number) => {
            for (what, text) in [
                ("fraction", format!("{number}.0")),
                ("exponent", format!("{number}e0")),
                ("exponent-3", "1e3".to_owned()),
                ("minus-zero", "-0".to_owned()),
                ("minus", format!("-{number}")),
                ("plus", format!("+{number}")),
                ("leading-zero", format!("0{number}")),
                ("2-pow-53", "9007199254740992".to_owned()),
                ("2-pow-64", "18446744073709551616".to_owned()),
                ("as-string", format!("\"{number}\"")),
                ("hexadecimal", "0x1".to_owned()),
                ("not-a-number", "NaN".to_owned()),
                ("true", "true".to_owned()),
            ] {
                all.push((what.to_owned(), raw(text)));
            }
        }
    }
    all
}
