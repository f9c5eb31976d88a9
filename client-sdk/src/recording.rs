//! Recorded conversations, in the format of OpenAI's chat messages: what `sift-kernel replay` plays and
//! `sift-kernel policy simulate` decides.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sift_spec::meter::Usage;

/// Largest file of recordings in bytes: 1 GiB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why a file holds no recordings. Whoever made the file is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct RecordingError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and where.
    pub why: String,
}

/// A recorded conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Where it was recorded: file and position.
    pub name: String,
    /// The messages in their order.
    pub messages: Vec<Message>,
}

/// A recorded message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// As it was recorded.
    pub value: Value,
    /// What it is.
    pub kind: MessageKind,
}

/// Whose words a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageKind {
    /// From the system or the user.
    Given,
    /// An answer of the model.
    Assistant(Assistant),
    /// The result of the tool call with this id.
    Tool {
        /// The id.
        call: String,
        /// What the tool answered.
        content: String,
    },
}

/// What a recorded answer of the model says besides its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Assistant {
    /// The tool calls that it proposes.
    pub calls: Vec<RecordedCall>,
    /// The model, if the recording names it.
    pub model: Option<String>,
    /// The provider's identifier of the answer.
    pub response: Option<String>,
    /// What the provider said it used.
    pub usage: Option<Usage>,
}

/// A tool call that the model proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// Its id, which the tool's message names.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The argument bytes, exactly as the model wrote them.
    pub arguments: String,
}

/// Reads the conversations of a file.
///
/// # Errors
/// When the file cannot be read, is longer than 1 GiB, or is not an array of conversations or messages; says where.
pub fn read(path: &Path) -> Result<Vec<Conversation>, RecordingError> {
    let at = |why: String| RecordingError { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(|error| at(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(at("longer than 1 GiB".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| at(error.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| at(error.to_string()))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let conversations: Vec<Value> = match value {
        // An array of messages is one conversation, an array of conversations several.
        Value::Array(items) if items.first().is_some_and(|item| item.get("role").is_some()) => {
            vec![Value::Array(items)]
        }
        Value::Array(items) => items,
        object @ Value::Object(_) => vec![object],
        _ => return Err(at("neither an array nor an object".to_owned())),
    };
    let named = conversations.into_iter().enumerate().map(|(position, value)| {
        let name = format!("{stem}#{position}");
        let messages = conversation(value).map_err(|why| at(format!("conversation {position}: {why}")))?;
        Ok(Conversation { name, messages })
    });
    named.collect()
}

impl Conversation {
    /// The recorded result of a tool call: the first one with its id after the message at `position` that proposes it.
    #[must_use]
    pub fn result(&self, position: usize, call: &RecordedCall) -> Option<&str> {
        self.messages.iter().skip(position.saturating_add(1)).find_map(|message| match &message.kind {
            MessageKind::Tool { call: id, content } if *id == call.id => Some(content.as_str()),
            _ => None,
        })
    }
}

fn conversation(value: Value) -> Result<Vec<Message>, String> {
    let messages = match value {
        Value::Array(messages) => messages,
        Value::Object(mut object) => match object.remove("traj").or_else(|| object.remove("messages")) {
            Some(Value::Array(messages)) => messages,
            _ => return Err("no array \"traj\" or \"messages\"".to_owned()),
        },
        _ => return Err("neither an array nor an object".to_owned()),
    };
    let read = |(position, value)| message(value).map_err(|why| format!("message {position}: {why}"));
    messages.into_iter().enumerate().map(read).collect()
}

fn message(value: Value) -> Result<Message, String> {
    let object = value.as_object().ok_or("not an object")?;
    let kind = match text(object, "role").as_deref() {
        Some("system" | "developer" | "user") => MessageKind::Given,
        Some("assistant") => MessageKind::Assistant(Assistant {
            calls: calls(object)?,
            model: text(object, "model"),
            response: text(object, "id"),
            usage: object.get("usage").filter(|usage| !usage.is_null()).map(usage).transpose()?,
        }),
        Some("tool") => MessageKind::Tool {
            call: text(object, "tool_call_id").ok_or("a tool message without \"tool_call_id\"")?,
            content: match object.get("content") {
                Some(Value::String(content)) => content.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            },
        },
        Some(other) => return Err(format!("unknown role {other:?}")),
        None => return Err("no \"role\"".to_owned()),
    };
    Ok(Message { value, kind })
}

fn calls(object: &Map<String, Value>) -> Result<Vec<RecordedCall>, String> {
    let calls = match object.get("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(_) => return Err("\"tool_calls\" is not an array".to_owned()),
    };
    let read = |call: &Value| {
        let function = call.get("function")?.as_object()?;
        let arguments = match function.get("arguments")? {
            Value::String(arguments) => arguments.clone(),
            other => other.to_string(),
        };
        Some(RecordedCall {
            id: call.get("id")?.as_str()?.to_owned(),
            name: text(function, "name")?,
            arguments,
        })
    };
    calls
        .iter()
        .map(|call| read(call).ok_or_else(|| "a tool call without id, name or arguments".to_owned()))
        .collect()
}

/// Token usage as OpenAI reports it: cached tokens are part of the prompt, reasoning is part of the completion. The
/// classes of [`Usage`] do not overlap, so both are subtracted.
fn usage(value: &Value) -> Result<Usage, String> {
    let count = |path: &[&str]| {
        let found = path.iter().try_fold(value, |value, name| value.get(name));
        found.and_then(Value::as_u64).unwrap_or(0)
    };
    let (prompt, completion) = (count(&["prompt_tokens"]), count(&["completion_tokens"]));
    let cache_read = count(&["prompt_tokens_details", "cached_tokens"]);
    let reasoning = count(&["completion_tokens_details", "reasoning_tokens"]);
    let input = prompt.checked_sub(cache_read).ok_or("more cached tokens than prompt tokens")?;
    let output = completion.checked_sub(reasoning).ok_or("more reasoning than completion tokens")?;
    Ok(Usage { cache_read, cache_write: 0, input, output, reasoning })
}

fn text(object: &Map<String, Value>, name: &str) -> Option<String> {
    object.get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages() -> Value {
        json!([
            { "role": "user", "content": "hello" },
            { "role": "assistant", "content": null, "model": "gpt-4o-2024-08-06", "id": "chatcmpl-1",
              "tool_calls": [{ "id": "c1", "type": "function",
                "function": { "name": "look", "arguments": "{\"id\": \"A\"}" } }],
              "usage": { "prompt_tokens": 100, "completion_tokens": 20,
                "prompt_tokens_details": { "cached_tokens": 64 },
                "completion_tokens_details": { "reasoning_tokens": 5 } } },
            { "role": "tool", "tool_call_id": "c1", "name": "look", "content": "{}" }
        ])
    }

    fn read_value(value: &Value) -> Result<Vec<Conversation>, RecordingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        std::fs::write(&path, value.to_string()).unwrap();
        read(&path)
    }

    #[test]
    fn all_shapes_of_a_file() {
        let one = read_value(&messages()).unwrap();
        assert_eq!((one.len(), one[0].messages.len(), one[0].name.as_str()), (1, 3, "x#0"));
        for shape in [
            json!({ "traj": messages() }),
            json!({ "messages": messages() }),
            json!([{ "traj": messages() }]),
        ] {
            assert_eq!(read_value(&shape).unwrap()[0].messages, one[0].messages);
        }
        assert_eq!(read_value(&json!([{ "traj": messages() }, messages()])).unwrap().len(), 2);
        let MessageKind::Assistant(assistant) = &one[0].messages[1].kind else { panic!() };
        let usage = Usage { cache_read: 64, cache_write: 0, input: 36, output: 15, reasoning: 5 };
        assert_eq!(assistant.usage, Some(usage));
        assert_eq!(assistant.calls[0].arguments, "{\"id\": \"A\"}");
    }

    #[test]
    fn what_is_no_recording_is_said_where() {
        for (value, part) in [
            (json!("x"), "neither"),
            (json!({ "x": [] }), "traj"),
            (json!([{ "role": "robot" }]), "message 0: unknown role"),
            (json!([{ "traj": [{ "content": "x" }] }]), "conversation 0: message 0: no \"role\""),
            (json!([{ "role": "assistant", "tool_calls": [{ "id": "x" }] }]), "a tool call without"),
            (json!([{ "role": "tool", "content": "x" }]), "tool_call_id"),
        ] {
            let why = read_value(&value).unwrap_err().why;
            assert!(why.contains(part), "{why}");
        }
    }
}
