//! Cases: what a bundle's author expects of it, as files `tests/*.json` of the bundle.
//!
//! ```json
//! [
//!   {
//!     "name": "a booking is paid from the profile",
//!     "given": [
//!       {
//!         "call": { "tool": "get_user_details", "args": { "user_id": "ada" } },
//!         "result": { "user_id": "ada", "payment_methods": { "credit_card_1": {} } }
//!       }
//!     ],
//!     "call": { "tool": "book_reservation", "args": { "user_id": "ada", "payment_methods": [] } },
//!     "expect": { "effect": "deny", "rules": ["arguments-complete"] }
//!   }
//! ]
//! ```
//!
//! A file holds a list of cases; each name is used once in a bundle. Members that are not listed here are errors.
//!
//! | member of a case | |
//! | --- | --- |
//! | `name` | what the case shows |
//! | `agent` | the agent; default `test/agent` |
//! | `labels`, `depth` | of the run; default none and 0 |
//! | `time` | when the run opens, in milliseconds since 1970; each step is a second later; default 1,700,000,000,000 |
//! | `given` | what happened in the run before, in its order |
//! | `call` | the call in question |
//! | `expect` | what is to become of it |
//!
//! A call is a tool's, with `tool` and `args` (an object; or `args_text`, the exact argument text); a model's, with
//! `model`, `provider`, `input_tokens` and `max_output` (default 0); or a sub-agent's, with `agent`.
//!
//! A step of `given` has `call`, and may have `effect`, what is to become of it (default `allow`; a call that waits for an
//! approval, `hold`, counts as approved), `result` (a JSON value; or `result_text`), `status` (default `ok`), `usage` of a
//! model call, `after_seconds` (default 1) and `repeat` (default 1). Every step is decided by the bundle itself: a case
//! cannot rest on a history that its policy would not have let happen.
//!
//! `expect` has `effect`, which counts the budget's refusals as denials, and may have `rules` (all that decided, in any
//! order), `reasons`, `hold` (`approvals`, each with `count` and `role`, and `seconds`), and `refused`, the limit that the
//! budget refuses by, as in `run tool_calls per run`, `identical_calls`, `wall_clock`, or `no price for gpt-4o`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use sift_rules::{CallInput, HoldFor, identity, json};
use sift_spec::bundle::Bundle;
use sift_spec::meter::Usage;
use sift_spec::record::{Effect, Status};
use sift_spec::types::{AgentName, Hash, Text, UnixMillis, Word};

/// Most cases of a bundle.
pub const CASES_MAX: usize = 10_000;

/// Most times that a step of a case is repeated.
pub const REPEAT_MAX: u32 = 10_000;

/// Deepest nesting of runs in a case.
pub const DEPTH_MAX: u32 = 64;

/// When the run of a case opens, in milliseconds since 1970, if the case does not say.
pub const TIME_MS: u64 = 1_700_000_000_000;

/// A case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The agent.
    #[serde(default = "agent")]
    pub agent: AgentName,
    /// Labels of the run.
    #[serde(default)]
    pub labels: BTreeMap<Word, Text<256>>,
    /// Nesting depth of the run.
    #[serde(default)]
    pub depth: u32,
    /// When the run opens.
    #[serde(default = "time")]
    pub time: UnixMillis,
    /// What happened before.
    #[serde(default)]
    pub given: Vec<Given>,
    /// The call in question.
    pub call: CaseCall,
    /// What is to become of it.
    pub expect: Expect,
    /// The file it is from.
    #[serde(skip)]
    pub file: String,
}

/// What happened before the call in question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The call.
    pub call: CaseCall,
    /// What is to become of it.
    #[serde(default = "allow")]
    pub effect: Effect,
    /// What came back, as a JSON value.
    #[serde(default, deserialize_with = "present")]
    pub result: Option<Value>,
    /// What came back, as it is.
    pub result_text: Option<String>,
    /// How it ended.
    #[serde(default = "ok")]
    pub status: Status,
    /// What a model call was billed; its worst case, if this is not given.
    pub usage: Option<Usage>,
    /// Seconds since the step before.
    #[serde(default = "one")]
    pub after_seconds: u64,
    /// How many times it happened.
    #[serde(default = "once")]
    pub repeat: u32,
}

/// A call of a case.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseCall {
    agent: Option<AgentName>,
    args: Option<Value>,
    args_text: Option<String>,
    input_tokens: Option<u64>,
    max_output: Option<u64>,
    model: Option<Text<128>>,
    provider: Option<Text<64>>,
    tool: Option<Text<128>>,
}

/// What is to become of a call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Allow, deny or hold; a refusal by the budget is a denial.
    pub effect: Effect,
    /// All rules that decided, in any order.
    pub rules: Option<BTreeSet<String>>,
    /// All reasons, in their order.
    pub reasons: Option<Vec<String>>,
    /// Who must approve, and how soon.
    pub hold: Option<HoldFor>,
    /// The limit that the budget refuses by.
    pub refused: Option<String>,
}

fn agent() -> AgentName {
    // INVARIANT: this is a name.
    "test/agent".parse().expect("a name")
}

fn time() -> UnixMillis {
    UnixMillis::new(TIME_MS).unwrap_or(UnixMillis::ZERO)
}

const fn allow() -> Effect {
    Effect::Allow
}

const fn ok() -> Status {
    Status::Ok
}

const fn one() -> u64 {
    1
}

const fn once() -> u32 {
    1
}

/// `null` is a result too, and not the absence of one.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl CaseCall {
    /// Reads a call on its own: the JSON of `call` in a case.
    ///
    /// # Errors
    /// When it is not one; says why.
    pub fn parse(text: &str) -> Result<(CallInput, Option<Hash>), String> {
        let value = json::read(text.as_bytes())?;
        let call: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        call.input()
    }

    /// The call as the policy sees it, and what identical calls share.
    ///
    /// # Errors
    /// When its members do not make one call; says why.
    pub fn input(&self) -> Result<(CallInput, Option<Hash>), String> {
        let Self { agent, args, args_text, input_tokens, max_output, model, provider, tool } = self;
        let no_args = args.is_none() && args_text.is_none();
        let no_model = input_tokens.is_none() && max_output.is_none() && provider.is_none();
        match (tool, model, agent) {
            (Some(tool), None, None) if no_model => {
                let args = match (args, args_text) {
                    (Some(args), None) => json::print(args),
                    (None, Some(text)) => text.clone(),
                    (None, None) => "{}".to_owned(),
                    (Some(_), Some(_)) => return Err("args and args_text are both given".to_owned()),
                };
                let identity = identity(tool.as_str(), args.as_bytes());
                Ok((CallInput::tool(tool.clone(), args.as_bytes()), Some(identity)))
            }
            (None, Some(model), None) if no_args => {
                let provider = provider.clone().ok_or("a model call names its provider")?;
                let (input_tokens, max_output) = (input_tokens.unwrap_or(0), max_output.unwrap_or(0));
                Ok((CallInput::Model { input_tokens, max_output, model: model.clone(), provider }, None))
            }
            (None, None, Some(name)) if no_args && no_model => {
                Ok((CallInput::Agent { delegate: None, name: name.clone() }, None))
            }
            _ => {
                Err("a call is a tool with args, a model with its provider and tokens, or an agent"
                    .to_owned())
            }
        }
    }
}

/// The cases of a bundle, in the order of files and places; and what is wrong with its files, as file and words.
#[must_use]
pub fn read(bundle: &Bundle) -> (Vec<Case>, Vec<(String, String)>) {
    let (mut cases, mut wrong) = (Vec::new(), Vec::new());
    for (path, content) in bundle.files() {
        if !path.starts_with("tests/") || !path.ends_with(".json") {
            continue;
        }
        match read_file(path, content) {
            Ok(mut of_file) => cases.append(&mut of_file),
            Err(why) => wrong.push((path.clone(), why)),
        }
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        if !names.insert(case.name.as_str()) {
            wrong.push((case.file.clone(), format!("case {:?}: the name is used twice", case.name)));
        }
    }
    if cases.len() > CASES_MAX {
        wrong.push(("tests".to_owned(), format!("more than {CASES_MAX} cases")));
    }
    (cases, wrong)
}

fn read_file(path: &str, content: &[u8]) -> Result<Vec<Case>, String> {
    // One reading, as for the calls themselves: no member twice, no number that loses digits.
    let Value::Array(values) = json::read(content)? else { return Err("not a list of cases".to_owned()) };
    let mut cases = Vec::with_capacity(values.len());
    for (position, value) in values.into_iter().enumerate() {
        let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
        let at = |why: String| match &name {
            Some(name) => format!("case {name:?}: {why}"),
            None => format!("case {position}: {why}"),
        };
        let mut case: Case = serde_json::from_value(value).map_err(|error| at(error.to_string()))?;
        path.clone_into(&mut case.file);
        case.check().map_err(at)?;
        cases.push(case);
    }
    Ok(cases)
}

impl Case {
    fn check(&self) -> Result<(), String> {
        if self.depth > DEPTH_MAX {
            return Err(format!("depth is above {DEPTH_MAX}"));
        }
        self.call.input().map_err(|why| format!("call: {why}"))?;
        for (position, given) in self.given.iter().enumerate() {
            let at = |why: &str| format!("given[{position}]: {why}");
            given.call.input().map_err(|why| at(&why))?;
            if given.result.is_some() && given.result_text.is_some() {
                return Err(at("result and result_text are both given"));
            }
            if !(1..=REPEAT_MAX).contains(&given.repeat) {
                return Err(at("repeat is not from 1 to 10,000"));
            }
            let came_back = given.result.is_some() || given.result_text.is_some() || given.usage.is_some();
            if given.effect == Effect::Deny && came_back {
                return Err(at("a call that is denied has no result"));
            }
        }
        if self.expect.refused.is_some() && self.expect.effect != Effect::Deny {
            return Err("expect: what the budget refuses is denied".to_owned());
        }
        if self.expect.hold.is_some() && self.expect.effect != Effect::Hold {
            return Err("expect: hold belongs to the effect hold".to_owned());
        }
        Ok(())
    }
}
