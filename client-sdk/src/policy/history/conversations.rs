//! Conversations as history: each one a run, as `sift-kernel replay` would play it.

use std::collections::BTreeMap;

use serde_json::json;
use sift_rules::{CallInput, identity};
use sift_spec::meter::Usage;
use sift_spec::record::Status;
use sift_spec::types::{AgentName, RunId, Seq, Text, UnixMillis, ValueError};

use super::{Came, Event, Happened, Proposed};
use crate::recording::{Assistant, Conversation, MessageKind, RecordedCall};

/// What recordings do not say.
#[derive(Debug, Clone)]
pub struct Told {
    /// Name of the agent.
    pub agent: AgentName,
    /// Provider of the models.
    pub provider: Text<64>,
    /// Model of conversations that name none.
    pub model: Text<128>,
    /// Output limit of every request, in tokens.
    pub max_output: u64,
    /// When the first conversation starts; each record is a millisecond later.
    pub time: UnixMillis,
}

/// Gives conversations as history, one after the other.
///
/// Requests are those of a replay: the messages so far with model and parameters, one token for every byte at most;
/// answers are billed as the recording says, or one token for every four bytes.
///
/// # Errors
/// When a name in a conversation is none that a record could state; names the conversation.
pub fn conversations(
    conversations: &[Conversation],
    told: &Told,
    mut each: impl FnMut(Happened),
) -> Result<(), (String, ValueError)> {
    let mut time = told.time.get();
    for (number, conversation) in conversations.iter().enumerate() {
        let at = |error| (conversation.name.clone(), error);
        let start = UnixMillis::new(time).map_err(at)?;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(number as u64).to_be_bytes());
        let run = RunId::from_parts(start, &random);
        let mut scene = Scene { told, run, time, seq: 0, each: &mut each, sizes: Vec::new() };
        scene.play(conversation).map_err(at)?;
        time = scene.time;
    }
    Ok(())
}

struct Scene<'a, F> {
    told: &'a Told,
    run: RunId,
    time: u64,
    seq: u64,
    each: &'a mut F,
    /// Bytes of the messages so far, printed.
    sizes: Vec<u64>,
}

impl<F: FnMut(Happened)> Scene<'_, F> {
    fn play(&mut self, conversation: &Conversation) -> Result<(), ValueError> {
        self.give(Event::Open {
            agent: self.told.agent.clone(),
            depth: 0,
            labels: BTreeMap::new(),
            parent: None,
            policy: None,
            name: Some(conversation.name.clone()),
        })?;
        for (position, message) in conversation.messages.iter().enumerate() {
            let size = sift_rules::json::print(&message.value).len() as u64;
            match &message.kind {
                MessageKind::Given => self.sizes.push(size),
                // Told with the call that it answers.
                MessageKind::Tool { .. } => {}
                MessageKind::Assistant(assistant) => {
                    self.model(assistant, size)?;
                    self.sizes.push(size);
                    for call in &assistant.calls {
                        self.tool(call, conversation.result(position, call))?;
                    }
                }
            }
        }
        self.give(Event::Close).map(drop)
    }

    fn model(&mut self, assistant: &Assistant, answer: u64) -> Result<(), ValueError> {
        let model = match &assistant.model {
            Some(model) => model.parse()?,
            None => self.told.model.clone(),
        };
        let around = json!({
            "max_completion_tokens": self.told.max_output, "messages": [], "model": model, "temperature": 0,
        });
        let commas = (self.sizes.len() as u64).saturating_sub(1);
        let request = sift_rules::json::print(&around).len() as u64 + commas + self.sizes.iter().sum::<u64>();
        let counted = || Usage { input: request.div_ceil(4), output: answer.div_ceil(4), ..Usage::default() };
        let usage = assistant.usage.unwrap_or_else(counted);
        let (max_output, provider) = (self.told.max_output, self.told.provider.clone());
        let name = model.to_string();
        let call = CallInput::Model { input_tokens: request, max_output, model, provider };
        let call = Proposed { name, call: Some(call), identity: None, decided: None };
        let intent = self.give(Event::Call(Box::new(call)))?;
        // No decision rests on what a model answered.
        let result = Some(Vec::new());
        let came = Came { intent, status: Status::Ok, result, usage: Some(usage), settled: None };
        self.give(Event::Outcome(Box::new(came))).map(drop)
    }

    fn tool(&mut self, call: &RecordedCall, result: Option<&str>) -> Result<(), ValueError> {
        let args = call.arguments.as_bytes();
        let proposed = Proposed {
            name: call.name.clone(),
            call: Some(CallInput::tool(call.name.parse()?, args)),
            identity: Some(identity(&call.name, args)),
            decided: None,
        };
        let intent = self.give(Event::Call(Box::new(proposed)))?;
        // As a replay reports it: the recorded tools say so when they fail.
        let failed = result.is_none_or(|result| result.starts_with("Error"));
        let status = if failed { Status::Error } else { Status::Ok };
        let bytes = result.unwrap_or_default().as_bytes().to_vec();
        let name = json!({ "content": result.unwrap_or_default(), "name": call.name, "role": "tool", "tool_call_id": call.id });
        self.sizes.push(sift_rules::json::print(&name).len() as u64);
        let came = Came { intent, status, result: Some(bytes), usage: None, settled: None };
        self.give(Event::Outcome(Box::new(came))).map(drop)
    }

    fn give(&mut self, event: Event) -> Result<Seq, ValueError> {
        let (seq, time) = (Seq::new(self.seq)?, UnixMillis::new(self.time)?);
        (self.each)(Happened { run: self.run, seq, time, event });
        (self.seq, self.time) = (self.seq + 1, self.time + 1);
        Ok(seq)
    }
}
