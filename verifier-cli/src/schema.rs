//! The schema of all that is printed with `--json`: JSON Schema 2020-12, one line of output at a time.

use serde_json::{Value, json};

use crate::finding::{Code, Gap};

/// Where the schema says it comes from.
const ID: &str = "urn:sift:schema:sift-verify:1";

/// The schema. Members of an object are listed in the order in which they are printed; no other members are.
#[must_use]
pub fn schema() -> String {
    let findings: Vec<&str> = Code::ALL.iter().map(|code| code.code()).collect();
    let gaps: Vec<&str> = Gap::ALL.iter().map(|gap| gap.code()).collect();
    // Objects are written as text: the order of members is part of what is published.
    let text = include_str!("../report.schema.json");
    text.replace("\"$ID\"", &Value::from(ID).to_string())
        .replace("\"$FINDINGS\"", &json!(findings).to_string())
        .replace("\"$UNCHECKED\"", &json!(gaps).to_string())
}
