//! The published schema, and a reader that holds lines of `--json` against it, member by member and in its order.
//!
//! The reader takes the part of JSON Schema that the schema uses, and fails on a keyword that it does not know. That the
//! schema means the same to a validator by others is tested end to end.

use std::fmt;
use std::sync::OnceLock;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Holds a line of `--json` against the schema, and what is nearly the same line, too: one with a member more, one less
/// or two exchanged is something else. Gives its kind: the name that the schema has for it.
pub fn hold(line: &str) -> String {
    let value: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let kind = kind_of(&value).unwrap_or_else(|why| panic!("{why}\n{line}"));
    let Json::Object(members) = value else { panic!("{line}") };
    let refused = |changed: Vec<(String, Json)>| kind_of(&Json::Object(changed)).is_err();
    assert!(refused([members.clone(), vec![("more".to_owned(), Json::Null)]].concat()), "one more: {line}");
    assert!(refused(members[1..].to_vec()), "one less: {line}");
    let mut exchanged = members;
    exchanged.swap(0, 1);
    assert!(refused(exchanged), "exchanged: {line}");
    kind
}

/// Holds each of these lines against the schema.
pub fn hold_all(lines: &str) {
    lines.lines().for_each(|line| drop(hold(line)));
}

/// Every kind of line that the schema has.
pub fn kinds() -> Vec<String> {
    published().get("oneOf").unwrap().items().iter().map(|one| kind_named(one).to_owned()).collect()
}

/// The schema, as the program prints it.
fn published() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| serde_json::from_str(&sift_verify::schema::schema()).unwrap())
}

/// The one kind that a line is of, or why it is of none.
fn kind_of(value: &Json) -> Result<String, String> {
    let schema = published();
    check(schema, schema, value)?;
    let kinds = schema.get("oneOf").unwrap().items();
    let kind = kinds.iter().find(|one| check(schema, one, value).is_ok());
    kind.map(|one| kind_named(one).to_owned()).ok_or_else(|| "of no kind".to_owned())
}

fn kind_named(reference: &Json) -> &str {
    reference.get("$ref").unwrap().text().strip_prefix("#/$defs/").unwrap()
}

/// JSON that remembers the order of members.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Number(f64),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Integer(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Integer(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::String(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Json::Array(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Json {
    fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    fn items(&self) -> &[Self] {
        let Self::Array(items) = self else { panic!("{self:?} is no array") };
        items
    }

    fn names(&self) -> Vec<&str> {
        let Self::Object(members) = self else { panic!("{self:?} is no object") };
        members.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn text(&self) -> &str {
        let Self::String(text) = self else { panic!("{self:?} is no string") };
        text
    }

    fn is(&self, kind: &str) -> bool {
        match self {
            Self::Null => kind == "null",
            Self::Bool(_) => kind == "boolean",
            Self::Integer(_) => kind == "integer" || kind == "number",
            Self::Number(_) => kind == "number",
            Self::String(_) => kind == "string",
            Self::Array(_) => kind == "array",
            Self::Object(_) => kind == "object",
        }
    }
}

/// Why a value is not what a schema says.
fn check(root: &Json, schema: &Json, value: &Json) -> Result<(), String> {
    let demand = |holds: bool, why: &str| if holds { Ok(()) } else { Err(format!("{why}: {value:?}")) };
    for (keyword, rule) in schema.names().iter().map(|name| (*name, schema.get(name).unwrap())) {
        match keyword {
            "$schema" | "$id" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let name = rule.text().strip_prefix("#/$defs/").unwrap();
                check(root, root.get("$defs").unwrap().get(name).unwrap(), value)?;
            }
            "oneOf" => {
                let failures: Vec<String> =
                    rule.items().iter().filter_map(|one| check(root, one, value).err()).collect();
                let fits = rule.items().len() - failures.len();
                demand(fits == 1, &format!("{fits} of several fit ({})", failures.join("; ")))?;
            }
            "const" => demand(rule == value, "another constant")?,
            "enum" => demand(rule.items().contains(value), "not one of the list")?,
            "type" => {
                let kinds = match rule {
                    Json::Array(kinds) => kinds.iter().map(Json::text).collect(),
                    kind => vec![kind.text()],
                };
                demand(kinds.iter().any(|kind| value.is(kind)), "another type")?;
            }
            "minimum" => {
                let small = matches!((value, rule), (Json::Integer(a), Json::Integer(b)) if a < b);
                demand(!small && !matches!(value, Json::Number(n) if *n < 0.0), "too small")?;
            }
            "minLength" | "maxLength" | "maxItems" => {
                let Json::Integer(bound) = rule else { panic!("{rule:?}") };
                let length = match value {
                    Json::String(text) => text.chars().count(),
                    Json::Array(items) => items.len(),
                    _ => continue,
                } as i128;
                demand(if keyword == "minLength" { length >= *bound } else { length <= *bound }, "length")?;
            }
            "items" => value.items().iter().try_for_each(|item| check(root, rule, item))?,
            "required" => {
                let missing = rule.items().iter().find(|name| value.get(name.text()).is_none());
                demand(missing.is_none(), &format!("{missing:?} is missing"))?;
            }
            "properties" => {
                // The order is ours to promise, and no keyword's.
                let order = rule.names();
                let places: Vec<_> =
                    value.names().iter().map(|name| order.iter().position(|other| other == name)).collect();
                demand(places.is_sorted(), "members in another order")?;
                for name in value.names() {
                    if let Some(rule) = rule.get(name) {
                        check(root, rule, value.get(name).unwrap())
                            .map_err(|why| format!("{name}: {why}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").map(Json::names).unwrap_or_default();
                for name in value.names().into_iter().filter(|name| !known.contains(name)) {
                    demand(*rule != Json::Bool(false), &format!("{name} has no place"))?;
                    check(root, rule, value.get(name).unwrap())?;
                }
            }
            other => panic!("a keyword that is not read here: {other}"),
        }
    }
    Ok(())
}
