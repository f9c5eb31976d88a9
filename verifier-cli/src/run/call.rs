//! Calls against what they name: a request's bytes against its bounds, a tool call against the answer that proposed it.
//!
//! What was sent and what came back are a kernel's and a provider's word. But where they are disclosed, a record that
//! says something else of them is false.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sift_rules::json;
use sift_spec::record::{Body, Call, Effect, Intent, ModelCall, Status, ToolCall};
use sift_spec::types::{Hash, Seq};

use super::entries::RunEntry;
use super::payload::Payloads;
use super::record::Story;
use crate::finding::{Code, Concern, Gap};
use crate::report::Report;
use crate::text::Many;

/// The one method of bounding an input that can be made again: a token is at least one byte.
const METHOD_UTF8_BYTES: &str = "utf8-bytes";

/// Members of a request that limit its output, in the interfaces of several providers.
const OUTPUT_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// Checks model calls against their requests, and tool calls against the answers that they say proposed them.
pub(super) fn verify(story: &Story<'_>, payloads: &Payloads, report: &mut Report) {
    let mut calls = Calls { story, payloads, requests: BTreeMap::new(), answers: BTreeMap::new() };
    let (mut bounds, mut proposals) = (0, 0);
    for record in story.records {
        let Body::Intent(intent) = &record.record.body else { continue };
        match &intent.call {
            Call::Model(call) => bounds += u64::from(!calls.model(record, intent, call, report)),
            Call::Tool(call) => proposals += u64::from(!calls.tool(record, call, report)),
            Call::Agent(_) => {}
        }
    }
    for (code, number, noun) in
        [(Gap::BoundUnchecked, bounds, "model call"), (Gap::ProposalUnchecked, proposals, "tool call")]
    {
        if number > 0 {
            report.leave(code, Concern::run(story.run), Many(number, noun));
        }
    }
}

/// Payloads that many calls may name are read once.
struct Calls<'a> {
    story: &'a Story<'a>,
    payloads: &'a Payloads,
    /// What is read of requests, by digest; `None` where they are no JSON objects.
    requests: BTreeMap<Hash, Option<Request>>,
    /// Calls proposed by answers, by digest; `None` where they are not read.
    answers: BTreeMap<Hash, Option<Vec<Proposed>>>,
}

/// What a request asks for.
struct Request {
    model: Option<Value>,
    limits: Vec<(&'static str, Value)>,
}

/// A call that a model's answer proposes.
struct Proposed {
    id: String,
    name: String,
    arguments: Value,
}

impl<'a> Calls<'a> {
    /// Checks a model call; whether its bounds could be checked, as far as its request is disclosed.
    fn model(&mut self, record: &RunEntry, intent: &Intent, call: &ModelCall, report: &mut Report) -> bool {
        // 1. The bound of the input is at least what its method gives.
        let counted = call.input.method.as_str() == METHOD_UTF8_BYTES;
        let (bound, size) = (call.input.tokens, call.request.size);
        if counted && bound < size && intent.effect() != Effect::Deny {
            let detail = format!("an input of at most {bound} tokens, where the request has {size} bytes");
            report.reject(Code::ReservationDiffers, record.concern(), detail);
        }
        // 2. The request names the model and allows no more output.
        let Some(content) = self.payloads.content(&call.request) else { return counted };
        let request = self.requests.entry(call.request.digest).or_insert_with(|| Request::read(content));
        let Some(request) = request else { return false };
        if let Some(model) =
            request.model.as_ref().filter(|model| model.as_str() != Some(call.model.as_str()))
        {
            let detail = format!("the request is for {model}, the record says {:?}", call.model.as_str());
            report.reject(Code::RequestDiffers, record.concern(), detail);
        }
        for (name, limit) in &request.limits {
            if limit.as_u64().is_none_or(|limit| limit > call.max_output) {
                let detail = format!("the request has {name} {limit}, the record says {}", call.max_output);
                report.reject(Code::RequestDiffers, record.concern(), detail);
            }
        }
        counted && !request.limits.is_empty()
    }

    /// Checks where a tool call comes from; whether that could be checked.
    fn tool(&mut self, record: &RunEntry, call: &ToolCall, report: &mut Report) -> bool {
        let Some(proposer) = call.proposed_by else { return true };
        let mut differs = |why: &str| {
            let detail = format!("said to be proposed by call {proposer}: {why}");
            report.reject(Code::ProposalDiffers, record.concern(), detail);
            true
        };
        // 1. It names a model call that was answered before.
        let seq = record.record.seq;
        let Some(answer) = self.answer(proposer, seq) else {
            return differs("no model call with this seq was answered before");
        };
        // 2. The answer proposes it: this id, tool and arguments.
        let Some((digest, content)) = answer else { return false };
        let proposed = self.answers.entry(digest).or_insert_with(|| Proposed::read(content));
        let Some(proposed) = proposed else { return false };
        let args = self.payloads.content(&call.args);
        let same = |proposed: &&Proposed| {
            (proposed.id.as_str(), proposed.name.as_str()) == (call.id.as_str(), call.name.as_str())
        };
        let mut same = proposed.iter().filter(same).peekable();
        if same.peek().is_none() {
            return differs("its answer proposes no call with this id of this tool");
        }
        match args {
            Some(args) if !same.any(|proposed| proposed.gives(args)) => {
                differs("its answer proposes the call with other arguments")
            }
            args => args.is_some(),
        }
    }

    /// The answer of a model call before `seq`, where it is disclosed; `None` when there is no such call.
    #[allow(clippy::option_option)] // no answer, and one that is withheld
    fn answer(&self, call: Seq, seq: Seq) -> Option<Option<(Hash, &'a [u8])>> {
        let (_, intent) = self.story.intent_before(call, seq)?;
        let (at, outcome) = self.story.outcomes.get(&call)?;
        let answered = matches!(intent.call, Call::Model(_))
            && at.record.seq < seq
            && outcome.status != Status::Cancelled;
        let result = outcome.result.as_ref();
        answered.then(|| result.and_then(|result| Some((result.digest, self.payloads.content(result)?))))
    }
}

impl Request {
    fn read(content: &[u8]) -> Option<Self> {
        let mut object = json::read_object(content).ok()?;
        let limits = OUTPUT_LIMITS.into_iter().filter_map(|name| Some((name, object.remove(name)?)));
        let limits = limits.filter(|(_, limit)| !limit.is_null()).collect();
        Some(Self { limits, model: object.remove("model") })
    }
}

impl Proposed {
    /// The `tool_calls` of a message as OpenAI's interface gives it, alone or within the choices of a response.
    fn read(content: &[u8]) -> Option<Vec<Self>> {
        let object = json::read_object(content).ok()?;
        let choices = object.get("choices").and_then(Value::as_array).into_iter().flatten();
        let messages = choices.filter_map(|choice| choice.get("message")?.as_object());
        let calls: Vec<&Vec<Value>> = messages
            .chain([&object])
            .filter_map(|message: &Map<_, _>| message.get("tool_calls")?.as_array())
            .collect();
        if calls.is_empty() {
            return None;
        }
        calls.into_iter().flatten().map(Self::of).collect()
    }

    fn of(call: &Value) -> Option<Self> {
        let function = call.get("function")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (id, name) = (text(call.get("id")?)?, text(function.get("name")?)?);
        Some(Self { id, name, arguments: function.get("arguments")?.clone() })
    }

    /// Whether the proposed arguments are these: the same bytes, or the same JSON value in another spelling.
    fn gives(&self, args: &[u8]) -> bool {
        let proposed = match &self.arguments {
            Value::String(text) if text.as_bytes() == args => return true,
            Value::String(text) => json::read(text.as_bytes()).ok(),
            value => Some(value.clone()),
        };
        proposed.is_some() && proposed == json::read(args).ok()
    }
}
