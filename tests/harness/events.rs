//! A reader of server-sent events (WHATWG HTML §9.2), as strict as the log has to be for the laxest.

use std::time::Duration;

use sift_spec::api::CheckpointItem;

/// How long a test waits for an event that must come.
const WAIT: Duration = Duration::from_secs(60);

/// An open stream.
pub struct Events {
    answer: reqwest::Response,
    read: Vec<u8>,
}

impl Events {
    pub(crate) const fn new(answer: reqwest::Response) -> Self {
        Self { answer, read: Vec::new() }
    }

    /// The next checkpoint, or none when the log ended the stream. Comments are passed over.
    ///
    /// # Panics
    /// When nothing comes for a minute, or something that is no checkpoint.
    pub async fn next(&mut self) -> Option<CheckpointItem> {
        loop {
            while let Some(end) = self.read.windows(2).position(|bytes| bytes == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                if let Some(checkpoint) = parse(&String::from_utf8(event).expect("UTF-8")) {
                    return Some(checkpoint);
                }
            }
            let more =
                tokio::time::timeout(WAIT, self.answer.chunk()).await.expect("an event within a minute");
            match more {
                Ok(Some(bytes)) => self.read.extend_from_slice(&bytes),
                // A log that is killed ends a stream in the middle.
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Reads an event of three fields; a comment is none.
fn parse(event: &str) -> Option<CheckpointItem> {
    let lines: Vec<&str> = event.trim_end_matches('\n').split('\n').collect();
    if lines.iter().all(|line| line.starts_with(':')) {
        return None;
    }
    let field = |name: &str| {
        let mut found = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = found.next().unwrap_or_else(|| panic!("no {name} in {event:?}"));
        assert_eq!(found.next(), None, "two {name} in {event:?}");
        value
    };
    assert_eq!((lines.len(), field("event")), (3, "checkpoint"), "{event:?}");
    let checkpoint: CheckpointItem = serde_json::from_str(field("data")).expect("a checkpoint");
    assert_eq!(field("id"), checkpoint.size.to_string());
    Some(checkpoint)
}
