//! Server-sent events with chunks as OpenAI's chat completions have them: what of them is output, and what was billed.

use serde_json::{Map, Value};
use sift_spec::meter::Usage;

use super::{Cut, Seen};

/// Longest line of a stream in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of what counts as output.
const DEPTH_MAX: usize = 16;

/// Members of a chunk's `delta` that name or number something, and hold no output.
const NAMES: [&str; 4] = ["id", "index", "role", "type"];

/// Members of a chunk that hold no output.
const PLAIN: [&str; 8] =
    ["created", "id", "model", "object", "provider", "service_tier", "system_fingerprint", "usage"];

/// Members of a choice that hold no output of their own: probabilities repeat what `delta` says.
const CHOICE_PLAIN: [&str; 4] = ["finish_reason", "index", "logprobs", "stop_reason"];

/// What was read of a stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The line under way.
    line: Vec<u8>,
    id: Option<String>,
    model: Option<String>,
    usage: Option<Usage>,
    done: bool,
    finished: bool,
}

impl Events {
    /// Reads the next bytes, wherever they were cut.
    pub(super) fn read(&mut self, chunk: &[u8]) -> Result<Vec<Seen>, Cut> {
        let mut seen = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n' || *byte == b'\r') {
            if self.line.len().saturating_add(part.len()) > LINE_BYTES_MAX {
                return Err(Cut::TooLong(LINE_BYTES_MAX));
            }
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") || self.line.ends_with(b"\r") {
                let line = std::mem::take(&mut self.line);
                self.line(line.trim_ascii_end(), &mut seen);
            }
        }
        Ok(seen)
    }

    fn line(&mut self, line: &[u8], seen: &mut Vec<Seen>) {
        // Names of events, comments that keep the connection open, and the empty lines between.
        let passed: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];
        if line.is_empty() || passed.iter().any(|field| line.starts_with(field)) {
            return;
        }
        let data = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start);
        match data {
            Some(b"[DONE]") => self.done = true,
            Some(data) => match serde_json::from_slice::<Map<String, Value>>(data) {
                Ok(event) => self.event(&event, seen),
                Err(_) => seen.push(Seen::Unread(data.len() as u64)),
            },
            None => seen.push(Seen::Unread(line.len() as u64)),
        }
    }

    fn event(&mut self, event: &Map<String, Value>, seen: &mut Vec<Seen>) {
        for (name, kept) in [("id", &mut self.id), ("model", &mut self.model)] {
            if let (None, Some(value)) = (&kept, event.get(name).and_then(Value::as_str)) {
                *kept = Some(value.to_owned());
            }
        }
        let mut output = String::new();
        for (name, value) in event {
            match name.as_str() {
                "choices" => value.as_array().into_iter().flatten().for_each(|choice| {
                    let Some(choice) = choice.as_object() else { return strings(choice, 0, &mut output) };
                    self.finished |= choice.get("finish_reason").is_some_and(Value::is_string);
                    for (_, value) in choice.iter().filter(|(name, _)| !CHOICE_PLAIN.contains(&name.as_str()))
                    {
                        strings(value, 0, &mut output);
                    }
                }),
                name if PLAIN.contains(&name) => {}
                // Not of a chunk as it is known here: whatever it says counts.
                _ => strings(value, 0, &mut output),
            }
        }
        if !output.is_empty() {
            seen.push(Seen::Output(output));
        }
        if let Some(usage) = event.get("usage").and_then(usage) {
            self.usage = Some(usage);
            seen.push(Seen::Usage(usage));
        }
    }

    /// Reads a last line that has no end.
    pub(super) fn end(&mut self) {
        // What it says is counted no more: nothing follows it.
        let _ = self.read(b"\n");
    }

    /// Whether the provider said that it has said all.
    pub(super) const fn ended(&self) -> bool {
        self.done || self.finished
    }

    pub(super) const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// Collects every text and number in a value, names aside. What is nested too deeply counts as it is printed.
fn strings(value: &Value, depth: usize, output: &mut String) {
    match value {
        Value::String(text) => output.push_str(text),
        _ if depth > DEPTH_MAX => output.push_str(&value.to_string()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, depth + 1, output)),
        Value::Object(members) => {
            for (_, value) in members.iter().filter(|(name, _)| !NAMES.contains(&name.as_str())) {
                strings(value, depth + 1, output);
            }
        }
        Value::Number(number) => output.push_str(&number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

/// What OpenAI's interface says was billed, without what it counts twice. `None` for a `usage` that is none yet.
fn usage(stated: &Value) -> Option<Usage> {
    let stated = stated.as_object()?;
    let tokens = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_u64);
    let detail = |of: &str, name: &str| {
        let details = stated.get(of).and_then(Value::as_object);
        details.and_then(|details| tokens(details, name)).unwrap_or(0)
    };
    let (input, output) = (tokens(stated, "prompt_tokens")?, tokens(stated, "completion_tokens")?);
    let cache_read = detail("prompt_tokens_details", "cached_tokens").min(input);
    let reasoning = detail("completion_tokens_details", "reasoning_tokens").min(output);
    Some(Usage {
        cache_read,
        cache_write: 0,
        input: input.saturating_sub(cache_read),
        output: output.saturating_sub(reasoning),
        reasoning,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &[u8], step: usize) -> (String, u64, Option<Usage>, bool) {
        let mut events = Events::default();
        let (mut said, mut unread) = (String::new(), 0);
        for chunk in text.chunks(step) {
            for seen in events.read(chunk).unwrap() {
                match seen {
                    Seen::Output(text) => said += &text,
                    Seen::Unread(bytes) => unread += bytes,
                    Seen::Usage(_) => {}
                }
            }
        }
        (said, unread, events.usage(), events.ended())
    }

    const STREAM: &str = ": keep-alive\r\n\r\n\
        data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"é\"}}],\"usage\":null}\r\n\r\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":4},\"completion_tokens_details\":{\"reasoning_tokens\":2}}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn wherever_the_bytes_are_cut_they_say_the_same() {
        let usage = Usage { cache_read: 4, cache_write: 0, input: 6, output: 5, reasoning: 2 };
        for step in 1..=STREAM.len() {
            let read = output(STREAM.as_bytes(), step);
            assert_eq!(read, ("éhmf{}".to_owned(), 0, Some(usage), true), "{step}");
        }
    }

    #[test]
    fn nothing_is_said_for_nothing() {
        for (line, bytes) in [
            ("data: {\"choices\":[{\"delta\":{\"new_member\":{\"deep\":[\"12345\"]}}}]}\n", 5),
            ("data: {\"choices\":[{\"text\":\"12345\"}]}\n", 5),
            ("data: {\"choices\":[\"12345\"]}\n", 5),
            ("data: {\"delta\":\"12345\"}\n", 5),
            ("data: 12345\n", 5),
            ("data: {\"choices\":\n", 11),
            ("12345\n", 5),
        ] {
            let (said, unread, ..) = output(line.as_bytes(), 3);
            assert_eq!(said.len() as u64 + unread, bytes, "{line}");
        }
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert!(Events::default().read(&long).is_err());
    }
}
