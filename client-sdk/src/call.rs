//! What an agent proposes, what comes back, and how both become payloads and commitments.

use serde::Deserialize;
use serde_json::Value;
use sift_rules::{CallInput, PolicyBundle, identity};
use sift_spec::meter::Usage;
use sift_spec::payload::{Commitment, Object, SALT_BYTES};
use sift_spec::record::{self, CLOSE_BYTES_MAX, Call, Delegate, InputBound, ModelAnswer, Status};
use sift_spec::types::{AgentName, Hash, RunId, Seq, Text, UnixMillis, ValueError};

use crate::error::CallError;

/// The method that bounds the input tokens of a request by its length: no token is shorter than one byte.
pub const METHOD_UTF8_BYTES: &str = "utf8-bytes";

/// Most output tokens that a model call may ask for. No model has more, and sums over calls stay far below 2^53.
pub const OUTPUT_TOKENS_MAX: u64 = 100_000_000;

/// Most tokens of one class that a provider is believed to have billed for one call; more counts as this.
const USAGE_TOKENS_MAX: u64 = 1 << 40;

/// Bytes with their media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Media type, such as `application/json`.
    pub media: Text<64>,
    /// The exact bytes.
    pub bytes: Vec<u8>,
}

impl Payload {
    /// JSON text.
    #[must_use]
    pub fn json(bytes: impl Into<Vec<u8>>) -> Self {
        Self { media: Text::cut("application/json"), bytes: bytes.into() }
    }

    /// Plain text.
    #[must_use]
    pub fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Self { media: Text::cut("text/plain; charset=utf-8"), bytes: bytes.into() }
    }

    /// The object under a fresh salt, and the commitment to it.
    pub(crate) fn commit(&self, name: &str) -> Result<(Object, Commitment), CallError> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| CallError::Random(error.to_string()))?;
        let object = Object::new(salt, &self.bytes)?;
        let commitment = object.commit(Text::cut(name), self.media.clone());
        Ok((object, commitment))
    }
}

/// A tool call that an agent proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of the tool (`gen_ai.tool.name`), at most 128 bytes.
    pub name: String,
    /// Identifier given by the model (`gen_ai.tool.call.id`), at most 128 bytes.
    pub id: String,
    /// The exact argument bytes, usually a JSON object.
    pub args: Vec<u8>,
    /// Seq of the model call whose answer proposed this.
    pub proposed_by: Option<Seq>,
}

/// A request to a model that an agent proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// Provider (`gen_ai.provider.name`), at most 64 bytes.
    pub provider: String,
    /// Model (`gen_ai.request.model`), at most 128 bytes.
    pub model: String,
    /// The exact request bytes: prompt, model and every parameter.
    pub request: Vec<u8>,
    /// The request's own limit of output tokens, reasoning included. A request without one is held for the bundle's
    /// `default_max_output`, and then the caller must put that limit into the request. A request that is a JSON object
    /// and says otherwise (`model`, `max_tokens`, `max_completion_tokens`, `max_output_tokens`, `n`) is refused.
    pub max_output: Option<u64>,
}

/// A sub-agent that an agent wants to start. Its run gets its identifier from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCall {
    /// Name of the sub-agent.
    pub agent: AgentName,
    /// What it is told to do.
    pub task: Payload,
    /// Present when the sub-agent runs under another kernel, which [`crate::InFlight::delegate`] lets open its run.
    /// The budget is held from this call's permission to its outcome, in every scope.
    pub delegate: Option<Delegate>,
}

impl AgentCall {
    /// A sub-agent that runs under this kernel.
    #[must_use]
    pub const fn new(agent: AgentName, task: Payload) -> Self {
        Self { agent, task, delegate: None }
    }

    /// The same under another kernel.
    #[must_use]
    pub fn at(self, delegate: Delegate) -> Self {
        Self { delegate: Some(delegate), ..self }
    }
}

/// Anything that an agent may propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// Start a sub-agent.
    Agent(AgentCall),
    /// Ask a model.
    Model(ModelCall),
    /// Use a tool.
    Tool(ToolCall),
}

impl Proposal {
    /// The bytes that are decided on: arguments, request or task.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Agent(call) => call.task.bytes,
            Self::Model(call) => call.request,
            Self::Tool(call) => call.args,
        }
    }
}

impl From<AgentCall> for Proposal {
    fn from(call: AgentCall) -> Self {
        Self::Agent(call)
    }
}

impl From<ModelCall> for Proposal {
    fn from(call: ModelCall) -> Self {
        Self::Model(call)
    }
}

impl From<ToolCall> for Proposal {
    fn from(call: ToolCall) -> Self {
        Self::Tool(call)
    }
}

/// A proposal, ready to be decided and recorded.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// As the record states it.
    pub(crate) call: Call,
    /// As the policy sees it.
    pub(crate) input: CallInput,
    /// What identical tool calls share.
    pub(crate) identity: Option<Hash>,
    /// The arguments, the request or the task.
    pub(crate) object: Object,
}

impl Prepared {
    pub(crate) fn new(
        proposal: &Proposal,
        bundle: &PolicyBundle,
        time: UnixMillis,
    ) -> Result<Self, CallError> {
        match proposal {
            Proposal::Tool(tool) => {
                let name = tool.name.parse().map_err(CallError::Value)?;
                let id = tool.id.parse().map_err(CallError::Value)?;
                let (object, args) = Payload::json(tool.args.clone()).commit("arguments")?;
                let identity = Some(identity(&tool.name, &tool.args));
                let call = Call::Tool(record::ToolCall { args, id, name, proposed_by: tool.proposed_by });
                Ok(Self::of(call, identity, object))
            }
            Proposal::Model(asked) => {
                let model = asked.model.parse().map_err(CallError::Value)?;
                let provider = asked.provider.parse().map_err(CallError::Value)?;
                let (object, request) = Payload::json(asked.request.clone()).commit("request")?;
                let input = InputBound { method: Text::cut(METHOD_UTF8_BYTES), tokens: request.size };
                let max_output = asked.max_output.unwrap_or(bundle.budget().default_max_output());
                if max_output > OUTPUT_TOKENS_MAX {
                    return refuse("max_output", "above 100,000,000 tokens");
                }
                check_request(&asked.request, &asked.model, max_output)?;
                let call = Call::Model(record::ModelCall { input, max_output, model, provider, request });
                Ok(Self::of(call, None, object))
            }
            Proposal::Agent(asked) => {
                let (object, task) = asked.task.commit("task")?;
                let mut random = [0; 10];
                getrandom::fill(&mut random).map_err(|error| CallError::Random(error.to_string()))?;
                let run = RunId::from_parts(time, &random);
                let call = Call::Agent(record::AgentCall {
                    agent: asked.agent.clone(),
                    delegate: asked.delegate.clone(),
                    run,
                    task,
                });
                Ok(Self::of(call, None, object))
            }
        }
    }

    fn of(call: Call, identity: Option<Hash>, object: Object) -> Self {
        let input = CallInput::of(&call, object.content());
        Self { call, input, identity, object }
    }
}

/// What a request says about itself, whatever the provider: these members, where they are.
#[derive(Deserialize)]
struct Request {
    model: Option<Value>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
    max_output_tokens: Option<Value>,
    n: Option<Value>,
}

/// Checks that a request asks for no other model and no more output than its proposal, where it is a JSON object.
fn check_request(request: &[u8], model: &str, max_output: u64) -> Result<(), CallError> {
    if request.trim_ascii_start().first() != Some(&b'{') {
        return Ok(());
    }
    // A member that is there twice is an error here, and has another reading elsewhere.
    let Ok(asked) = serde_json::from_slice::<Request>(request) else {
        return refuse("request", "starts like a JSON object and is not one with a single reading");
    };
    if asked.model.is_some_and(|asked| asked != model) {
        return refuse("request", "asks for another model than the proposal");
    }
    let choices = asked.n.map_or(Some(1), |n| n.as_u64());
    for limit in
        [asked.max_tokens, asked.max_completion_tokens, asked.max_output_tokens].into_iter().flatten()
    {
        let most = limit.as_u64().zip(choices).and_then(|(limit, choices)| limit.checked_mul(choices));
        if most.is_none_or(|most| most > max_output) {
            return refuse("request", "asks for more output than max_output");
        }
    }
    Ok(())
}

fn refuse<T>(what: &'static str, why: &'static str) -> Result<T, CallError> {
    Err(CallError::Value(ValueError { what, why }))
}

/// What a call came back with, as its caller reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub(crate) status: Status,
    pub(crate) error: Option<Text<512>>,
    pub(crate) result: Option<Payload>,
    pub(crate) model: Option<ModelAnswer>,
    pub(crate) close: Option<Text<CLOSE_BYTES_MAX>>,
}

impl Report {
    /// It answered.
    #[must_use]
    pub const fn ok(result: Payload) -> Self {
        Self { status: Status::Ok, error: None, result: Some(result), model: None, close: None }
    }

    /// It answered with an error.
    #[must_use]
    pub fn error(why: &str) -> Self {
        Self { status: Status::Error, error: Some(Text::cut(why)), result: None, model: None, close: None }
    }

    /// It did not answer in time, and may have acted.
    #[must_use]
    pub fn timeout(why: &str) -> Self {
        Self { status: Status::Timeout, error: Some(Text::cut(why)), result: None, model: None, close: None }
    }

    /// The same with the bytes that came back.
    #[must_use]
    pub fn with_result(mut self, result: Payload) -> Self {
        self.result = Some(result);
        self
    }

    /// The same with what the provider said about a model call. Without it the whole hold is settled.
    #[must_use]
    pub fn with_model(mut self, served: &str, id: Option<&str>, method: &str, usage: Usage) -> Self {
        let bounded = |tokens: u64| tokens.min(USAGE_TOKENS_MAX);
        let usage = Usage {
            cache_read: bounded(usage.cache_read),
            cache_write: bounded(usage.cache_write),
            input: bounded(usage.input),
            output: bounded(usage.output),
            reasoning: bounded(usage.reasoning),
        };
        let id = id.map(Text::cut);
        self.model = Some(ModelAnswer { id, method: Text::cut(method), served: Text::cut(served), usage });
        self
    }

    /// The same with the `close` entry of a sub-agent's run that was delegated to another kernel, exactly as that
    /// kernel signed it. With it the sub-agent's own sums are settled; without it, or where it does not verify, the
    /// whole hold is.
    #[must_use]
    pub fn with_close(mut self, entry: &str) -> Self {
        // Longer than any close: not one, and so as good as none.
        self.close = entry.parse().ok();
        self
    }

    /// Nobody knows whether it acted.
    pub(crate) fn unknown(why: &str) -> Self {
        Self { status: Status::Unknown, error: Some(Text::cut(why)), result: None, model: None, close: None }
    }

    /// It was not dispatched.
    pub(crate) fn cancelled(why: &str) -> Self {
        Self {
            status: Status::Cancelled,
            error: Some(Text::cut(why)),
            result: None,
            model: None,
            close: None,
        }
    }

    /// How the call ended.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// What went wrong, unless the status is ok.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.error.as_ref().map(Text::as_str)
    }

    /// The bytes that came back.
    #[must_use]
    pub const fn result(&self) -> Option<&Payload> {
        self.result.as_ref()
    }
}
