//! Facts: what tools have reported earlier in a run, remembered for the policy.
//!
//! `facts.toml` lists which results to remember:
//!
//! ```toml
//! [[fact]]
//! name = "reservation"              # facts.reservation in the policy
//! tool = "get_reservation_details"  # remembered when a call of this tool succeeds with a JSON object
//! key = "reservation_id"            # under the value of this argument, or else of this member of the result
//! latest = false                    # true: a call without this argument sees the most recent one
//! ```
//!
//! Several entries may share a name, when several tools report the same thing; they then share `key` and `latest`.
//! A policy so relies on what tools reported, not on what the model claims.
//!
//! The same file lists the sets of values that a run has seen and the marks that tools leave on it: [`crate::seen`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bundle::CompileError;
use crate::json;
use crate::seen::{self, MarkRule, SeenRule};

/// Largest result in bytes that is remembered; a larger one makes the policy see none: 64 KiB.
pub const FACT_BYTES_MAX: usize = 64 << 10;

/// Most results remembered under one name; the oldest is forgotten first.
pub const FACTS_PER_NAME_MAX: usize = 64;

/// What `facts.toml` says is to be remembered of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactRules {
    /// The entries `[[fact]]`.
    #[serde(default, rename = "fact")]
    pub facts: Vec<FactRule>,
    /// The entries `[[mark]]`.
    #[serde(default, rename = "mark")]
    pub marks: Vec<MarkRule>,
    /// The entries `[[seen]]`.
    #[serde(default)]
    pub seen: Vec<SeenRule>,
}

impl FactRules {
    /// Whether arguments and result of this tool's calls change what later calls see, apart from counters and marks.
    #[must_use]
    pub fn read_calls_of(&self, tool: &str) -> bool {
        let facts = self.facts.iter().any(|rule| rule.tool == tool);
        facts || self.seen.iter().any(|rule| rule.tools.iter().any(|name| name == tool))
    }
}

/// One entry `[[fact]]` of `facts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactRule {
    /// Name of the fact in policies.
    pub name: String,
    /// The tool whose results are remembered.
    pub tool: String,
    /// The argument that tells results apart.
    pub key: String,
    /// Whether a call without this argument sees the most recent result.
    #[serde(default)]
    pub latest: bool,
}

/// Reads `facts.toml`.
pub(crate) fn parse(file: &str, text: &str) -> Result<FactRules, CompileError> {
    let invalid = |why: String| CompileError::Setting { file: file.to_owned(), why };
    let rules = toml::from_str::<FactRules>(text).map_err(|error| invalid(error.to_string()))?;
    let facts = &rules.facts;
    for (position, rule) in facts.iter().enumerate() {
        if [&rule.name, &rule.tool, &rule.key].into_iter().any(String::is_empty) {
            return Err(invalid(format!("fact {position}: name, tool and key must not be empty")));
        }
        let mut same_name = facts.iter().filter(|other| other.name == rule.name);
        if same_name.any(|other| (&other.key, other.latest) != (&rule.key, rule.latest)) {
            return Err(invalid(format!("fact {:?}: key and latest differ between entries", rule.name)));
        }
        if facts.iter().filter(|other| (&other.name, &other.tool) == (&rule.name, &rule.tool)).count() > 1 {
            return Err(invalid(format!("fact {:?}: tool {:?} is listed twice", rule.name, rule.tool)));
        }
    }
    seen::check(&rules.seen, &rules.marks).map_err(invalid)?;
    Ok(rules)
}

/// A remembered result, as the JSON text that every policy input prints which it is part of: without white space, members
/// sorted by name. It is printed once, when it is remembered, and never read here again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct Fact(String);

impl Fact {
    /// Its JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    pub(crate) fn of(report: &Map<String, Value>) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        json::print_object(report, &mut bytes);
        // What is printed is UTF-8.
        Self(String::from_utf8(bytes).unwrap_or_default())
    }
}

impl From<Value> for Fact {
    fn from(value: Value) -> Self {
        Self(json::print(&value))
    }
}

impl From<Fact> for Value {
    fn from(fact: Fact) -> Self {
        // What is printed can be read.
        json::read(fact.0.as_bytes()).unwrap_or_default()
    }
}

/// Bytes that most facts fit in.
const USUAL_BYTES: usize = 1024;

/// The facts of one run.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Facts {
    /// By name: key and result, the most recent last.
    remembered: BTreeMap<String, VecDeque<(String, Arc<Fact>)>>,
}

/// Whether a result of this tool, of so many bytes, is remembered if it is a JSON object.
pub(crate) fn remembers(rules: &[FactRule], tool: &str, bytes: usize) -> bool {
    bytes <= FACT_BYTES_MAX && rules.iter().any(|rule| rule.tool == tool)
}

impl Facts {
    /// Takes in the result of a tool call that ended well: what of it is remembered, with its members.
    pub(crate) fn learn(
        &mut self,
        rules: &[FactRule],
        tool: &str,
        args: Option<&Map<String, Value>>,
        report: Option<(&Arc<Fact>, &Map<String, Value>)>,
    ) {
        for rule in rules.iter().filter(|rule| rule.tool == tool) {
            let argument = args.and_then(|args| args.get(&rule.key));
            let member = report.and_then(|(_, members)| members.get(&rule.key));
            let Some(key) = argument.or(member).and_then(key_text) else { continue };
            let of_name = self.remembered.entry(rule.name.clone()).or_default();
            // What was known is out of date, even where the new report cannot be remembered.
            of_name.retain(|(known, _)| *known != key);
            if let Some((fact, _)) = report {
                of_name.push_back((key, Arc::clone(fact)));
            }
            if of_name.len() > FACTS_PER_NAME_MAX {
                of_name.pop_front();
            }
        }
    }

    /// The facts that a call with these arguments sees.
    pub(crate) fn seen_by(
        &self,
        rules: &[FactRule],
        args: Option<&Map<String, Value>>,
    ) -> BTreeMap<String, Arc<Fact>> {
        let mut seen = BTreeMap::new();
        for rule in rules {
            let Some(known) = self.remembered.get(&rule.name) else { continue };
            let fact = match args.and_then(|args| args.get(&rule.key)) {
                Some(value) => key_text(value).and_then(|key| known.iter().find(|(name, _)| *name == key)),
                None if rule.latest => known.back(),
                None => None,
            };
            if let Some((_, fact)) = fact {
                seen.insert(rule.name.clone(), Arc::clone(fact));
            }
        }
        seen
    }
}

/// Only strings, numbers and booleans tell results apart.
fn key_text(value: &Value) -> Option<String> {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_)).then(|| json::print(value))
}
