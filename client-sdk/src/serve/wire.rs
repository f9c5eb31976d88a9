//! Requests and answers as they stand on the wire.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sift_rules::json;
use sift_spec::meter::{Amounts, Meter, Usage};
use sift_spec::record::{CloseReason, Delegate, Needed, Status};
use sift_spec::types::{AgentName, RunId, Seq, Text, UnixMillis, Word};

use super::Limits;
use crate::call::{AgentCall, ModelCall, Payload, Proposal, ToolCall};

/// Longest `id` in bytes.
const ID_BYTES_MAX: usize = 128;

/// Bytes: as a string where they are UTF-8, else in base64.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Bytes {
    Text(String),
    Base64(Base64),
}

#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base64 {
    base64: String,
}

impl Bytes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(Base64 { base64: STANDARD.encode(bytes) }),
        }
    }

    /// The bytes, and the media type that nothing says otherwise about.
    fn read(self) -> Result<(Vec<u8>, &'static str), Failed> {
        match self {
            Self::Text(text) => Ok((text.into_bytes(), "text/plain; charset=utf-8")),
            Self::Base64(Base64 { base64 }) => match STANDARD.decode(base64) {
                Ok(bytes) => Ok((bytes, "application/octet-stream")),
                Err(error) => Err(Failed::malformed(format!("base64: {error}"))),
            },
        }
    }

    pub(super) fn payload(self, media: Option<Text<64>>) -> Result<Payload, Failed> {
        let (bytes, default) = self.read()?;
        Ok(Payload { media: media.unwrap_or_else(|| Text::cut(default)), bytes })
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    Open(Open),
    Propose(Box<Propose>),
    Wait(Wait),
    Start(Handle),
    Delegate(Handle),
    Finish(Box<Finish>),
    Cancel(Handle),
    Halt(Halt),
    Watch(Watch),
    Close(Close),
    Status(StatusAsked),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Open {
    pub(super) agent: AgentName,
    #[serde(default)]
    pub(super) labels: BTreeMap<Word, Text<256>>,
    pub(super) parent: Option<String>,
    pub(super) delegation: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Propose {
    pub(super) run: RunId,
    tool: Option<Tool>,
    model: Option<Model>,
    agent: Option<Agent>,
    #[serde(default)]
    pub(super) start: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    name: String,
    id: String,
    args: Bytes,
    proposed_by: Option<Seq>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    provider: String,
    model: String,
    request: Bytes,
    max_output: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    name: AgentName,
    task: Bytes,
    media: Option<Text<64>>,
    delegate: Option<Delegate>,
}

impl Propose {
    pub(super) fn proposal(self) -> Result<Proposal, Failed> {
        match (self.tool, self.model, self.agent) {
            (Some(Tool { name, id, args, proposed_by }), None, None) => {
                Ok(ToolCall { name, id, args: args.read()?.0, proposed_by }.into())
            }
            (None, Some(Model { provider, model, request, max_output }), None) => {
                Ok(ModelCall { provider, model, request: request.read()?.0, max_output }.into())
            }
            (None, None, Some(Agent { name, task, media, delegate })) => {
                Ok(AgentCall { agent: name, task: task.payload(media)?, delegate }.into())
            }
            _ => Err(Failed::malformed("propose exactly one of tool, model, agent")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    pub(super) handle: String,
    #[serde(default)]
    pub(super) start: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handle {
    pub(super) handle: String,
}

/// How a client says that a call ended. `cancelled` is not among them: what was started may have acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    Ok,
    Error,
    Timeout,
    Unknown,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finish {
    pub(super) handle: String,
    pub(super) status: Ended,
    pub(super) why: Option<String>,
    pub(super) result: Option<Bytes>,
    pub(super) media: Option<Text<64>>,
    pub(super) model: Option<Served>,
    pub(super) close: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Served {
    pub(super) served: String,
    pub(super) id: Option<String>,
    pub(super) method: String,
    pub(super) usage: Usage,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Halt {
    pub(super) run: RunId,
    pub(super) detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    pub(super) run: RunId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    pub(super) run: RunId,
    #[serde(default)]
    reason: Reason,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    #[default]
    Done,
    Failed,
}

impl Close {
    pub(super) const fn reason(&self) -> CloseReason {
        match self.reason {
            Reason::Done => CloseReason::Done,
            Reason::Failed => CloseReason::Failed,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusAsked {}

/// Reads a line. The identifier is given back wherever it can be read, so that an error can be told to whom it concerns.
pub(super) fn read(line: &[u8]) -> (Value, Result<Request, Failed>) {
    let mut object = match json::read_object(line) {
        Ok(object) => object,
        Err(why) => return (Value::Null, Err(Failed::malformed(why))),
    };
    let id = match object.remove("id") {
        Some(Value::String(id)) if id.len() <= ID_BYTES_MAX => Value::String(id),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Value::Number(id),
        _ => {
            let why = "\"id\" is not a string of at most 128 bytes or an integer";
            return (Value::Null, Err(Failed::malformed(why)));
        }
    };
    let request = serde_json::from_value(Value::Object(object)).map_err(Failed::malformed);
    (id, request)
}

/// An answer.
#[derive(Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Answer {
    Opened {
        run: RunId,
    },
    Permitted(Permitted),
    Started(Started),
    Denied(Denied),
    Held(Box<HeldCall>),
    Finished(Finished),
    Cancelled {},
    Halted {
        detail: String,
    },
    Delegated {
        note: String,
    },
    Closed {
        settled: Amounts,
        #[serde(skip_serializing_if = "Option::is_none")]
        close: Option<String>,
    },
    Status(Box<StatusReport>),
    Error(Failed),
}

#[derive(Debug, Serialize)]
pub(super) struct Permitted {
    pub(super) run: RunId,
    pub(super) intent: Seq,
    pub(super) handle: String,
    pub(super) bytes: Bytes,
    pub(super) reserved: Amounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_output: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Permit {
    Whole(Permitted),
    Handle { handle: String },
}

#[derive(Debug, Serialize)]
pub(super) struct Started {
    #[serde(flatten)]
    pub(super) permit: Permit,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) child: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Denied {
    pub(super) run: RunId,
    pub(super) intent: Seq,
    pub(super) reason: String,
    pub(super) rules: Vec<Text<128>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) unapproved: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct HeldCall {
    pub(super) run: RunId,
    pub(super) intent: Seq,
    pub(super) handle: String,
    pub(super) request: String,
    /// Whose approvals it needs.
    pub(super) approvals: Vec<Needed>,
    pub(super) deadline: UnixMillis,
    pub(super) rules: Vec<Text<128>>,
    pub(super) reasons: Vec<Text<512>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Finished {
    pub(super) intent: Seq,
    pub(super) outcome: Seq,
    pub(super) status: Status,
    pub(super) settled: Amounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) overspent: Option<Meter>,
}

#[derive(Debug, Serialize)]
pub(super) struct StatusReport {
    pub(super) protocol: &'static str,
    pub(super) bundle: String,
    pub(super) engine: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
    pub(super) unlogged: u64,
    pub(super) runs: Vec<RunId>,
    pub(super) calls: usize,
    pub(super) limits: Limits,
}

/// Who has to do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    Client,
    Run,
    Kernel,
}

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failed {
    pub(super) kind: &'static str,
    pub(super) fault: Fault,
    pub(super) detail: String,
}

impl Failed {
    pub(super) fn new(kind: &'static str, fault: Fault, detail: impl std::fmt::Display) -> Self {
        Self { kind, fault, detail: detail.to_string() }
    }

    pub(super) fn malformed(detail: impl std::fmt::Display) -> Self {
        Self::new("malformed", Fault::Client, detail)
    }
}

/// The line of an answer, with its newline.
pub(super) fn line(id: &Value, answer: &Answer) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        id: &'a Value,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    // Every key is a string and every number finite, so this cannot fail; an empty line would be no answer.
    let mut line = serde_json::to_vec(&Line { id, answer }).unwrap_or_default();
    line.push(b'\n');
    line
}
