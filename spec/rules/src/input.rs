//! The document that a policy sees.
//!
//! Its canonical bytes are what the kernel commits to and what an auditor evaluates again. Policies see it as
//! `input` in Rego and as `context` in Cedar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sift_spec::record::{Call, Delegate};
use sift_spec::types::{AgentName, RunId, Seq, Text, UnixMillis, Word};

use crate::fact::Fact;
use crate::{input_print, json};

/// Longest input document in bytes; a longer one is denied: 256 KiB. One step of a policy may read the whole of it, so
/// this bounds what a step costs.
pub const INPUT_BYTES_MAX: usize = 256 << 10;

/// The document that a policy sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    /// The agent that proposes the call.
    pub agent: AgentName,
    /// The proposed call.
    pub call: CallInput,
    /// What tools reported earlier in this run, by the names that the bundle's `facts.toml` gives.
    pub facts: BTreeMap<String, Arc<Fact>>,
    /// The run so far.
    pub run: RunInput,
    /// The kernel's clock at the decision.
    pub time: UnixMillis,
}

/// A proposed call, as policies see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CallInput {
    /// Start a sub-agent.
    Agent {
        /// To which kernel its run is delegated, until when, and what it may spend there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delegate: Option<Delegate>,
        /// Name of the sub-agent.
        name: AgentName,
    },
    /// Ask a model.
    Model {
        /// Upper bound of the input in tokens.
        input_tokens: u64,
        /// Most output tokens, reasoning included.
        max_output: u64,
        /// The model asked for.
        model: Text<128>,
        /// The provider.
        provider: Text<64>,
    },
    /// Use a tool.
    Tool {
        /// The arguments, when they are a JSON object.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        args: Option<Map<String, Value>>,
        /// Why there are no arguments: they are not a JSON object that has one reading.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        args_error: Option<Text<512>>,
        /// Name of the tool.
        name: Text<128>,
    },
}

impl CallInput {
    /// A call as its record proposes it; `args` are the exact bytes that a tool call's record commits to, and are not
    /// looked at for other calls.
    #[must_use]
    pub fn of(call: &Call, args: &[u8]) -> Self {
        match call {
            Call::Agent(call) => Self::Agent { delegate: call.delegate.clone(), name: call.agent.clone() },
            Call::Model(call) => Self::Model {
                input_tokens: call.input.tokens,
                max_output: call.max_output,
                model: call.model.clone(),
                provider: call.provider.clone(),
            },
            Call::Tool(call) => Self::tool(call.name.clone(), args),
        }
    }

    /// A tool call from the exact argument bytes that the record commits to.
    #[must_use]
    pub fn tool(name: Text<128>, args: &[u8]) -> Self {
        match json::read_object(args) {
            Ok(args) => Self::Tool { args: Some(args), args_error: None, name },
            Err(why) => Self::Tool { args: None, args_error: Some(Text::cut(&why)), name },
        }
    }

    /// The tool and its arguments, if this is a tool call.
    #[must_use]
    pub fn as_tool(&self) -> Option<(&str, Option<&Map<String, Value>>)> {
        match self {
            Self::Tool { args, name, .. } => Some((name.as_str(), args.as_ref())),
            _ => None,
        }
    }
}

/// The run so far, before the proposed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInput {
    /// Calls of this run before this one.
    pub calls: CallCounts,
    /// Nesting depth: 0 for a run without parent.
    pub depth: u32,
    /// The run.
    pub id: RunId,
    /// Labels of the run's `open` record.
    pub labels: Arc<BTreeMap<Word, Text<256>>>,
    /// The tool whose call was let through last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_tool: Option<Text<128>>,
    /// The marks that calls left on the run; absent where the bundle has no entry `[[mark]]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Arc<BTreeSet<String>>>,
    /// By name, how the call's arguments relate to what the run has seen; absent where the bundle has no entry `[[seen]]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<BTreeMap<String, SeenInput>>,
    /// Position in the run that the call's intent will have.
    pub seq: Seq,
    /// Time of the run's `open` record.
    pub started: UnixMillis,
    /// Counts by tool.
    pub tools: Arc<BTreeMap<Text<128>, ToolCounts>>,
}

/// How a call's arguments relate to a set of values that the run has seen: see [`crate::seen`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenInput {
    /// Whether the set holds all that it should, and the lists all that the arguments hold.
    pub complete: bool,
    /// What the arguments hold that is in the set: strings and numbers, each once, in the order of their JSON text.
    pub known: Vec<Value>,
    /// What they hold that is not.
    pub new: Vec<Value>,
}

/// How many calls a run has proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallCounts {
    /// Sub-agents that were not denied.
    pub agent: u64,
    /// Proposals of any kind that policy or budget denied.
    pub denied: u64,
    /// Proposals of any kind that were held for approval, whatever the answer.
    pub held: u64,
    /// Model calls that were not denied.
    pub model: u64,
    /// Tool calls that were not denied.
    pub tool: u64,
}

/// How many calls of one tool a run has proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCounts {
    /// Not denied: allowed, or held for approval.
    pub allowed: u64,
    /// Denied by policy or budget.
    pub denied: u64,
    /// Ended with the status `ok`.
    pub ok: u64,
}

impl PolicyInput {
    /// The one encoding: JSON without white space, members sorted by name.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        input_print::print(self)
    }

    /// Reads what [`PolicyInput::to_bytes`] prints.
    ///
    /// # Errors
    /// When the bytes are longer than [`INPUT_BYTES_MAX`] or are not the one encoding of a policy input.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > INPUT_BYTES_MAX {
            return Err("longer than 256 KiB".to_owned());
        }
        let document = Value::Object(json::read_input(bytes)?);
        let input: Self = serde_json::from_value(document).map_err(|error| error.to_string())?;
        if input.to_bytes() != bytes {
            return Err("not in canonical form".to_owned());
        }
        Ok(input)
    }
}
