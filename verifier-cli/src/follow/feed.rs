//! The feed of a Sift log: server-sent events of its checkpoints (SPEC §10.3), as they are published.
//!
//! What comes is only a head more to judge, and polling goes on beside it: a feed that lies, stalls, floods or ends costs
//! nothing but time. Other logs have none, and are asked for it seldom.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use sift_connect::Connect;
use sift_spec::api::CheckpointItem;
use sift_spec::types::{KeyName, TreeSize};

use super::book::Book;
use super::judge::claims;
use super::tell::{Teller, Told};
use super::{CHECKPOINT_BYTES_MAX, Message};
use crate::error::CannotCheck;
use crate::http::chain;

/// A log that lives sends something every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Pauses before a feed is opened again: from the first to the last, doubling.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pause where there seems to be no feed.
const PAUSE_NONE: Duration = Duration::from_secs(600);

/// Longest line of an event in bytes: a checkpoint whose line feeds and quotes JSON escapes.
const LINE_BYTES_MAX: usize = 2 * CHECKPOINT_BYTES_MAX;

/// What it takes to listen.
pub(super) struct Feed {
    url: Url,
    client: Client,
    origin: KeyName,
    book: Arc<Book>,
    teller: Teller,
    messages: SyncSender<Message>,
}

/// Why a feed was not opened, or ended.
struct Ended {
    why: String,
    /// There seems to be none.
    none: bool,
}

impl Feed {
    /// The feed of the log at a URL.
    pub(super) fn new(
        place: &str,
        connect: &Connect,
        patience: Duration,
        origin: KeyName,
        book: Arc<Book>,
        teller: Teller,
        messages: SyncSender<Message>,
    ) -> Result<Self, CannotCheck> {
        let fail =
            |why: String| CannotCheck::Setup(format!("the feed of {place} cannot be asked for: {why}"));
        let url = format!("{}/v1/checkpoints/stream", place.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| fail(error.to_string()))?;
        let client = connect.client().map_err(|error| fail(error.to_string()))?;
        let client = client
            .connect_timeout(patience)
            .read_timeout(SILENCE_MAX)
            .redirect(Policy::none())
            .user_agent(concat!("sift-verify/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { url, client, origin, book, teller, messages })
    }

    /// Listens for as long as the process lives, in a thread of its own.
    pub(super) fn listen(self) -> Result<(), CannotCheck> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CannotCheck::Setup(error.to_string()))?;
        std::thread::spawn(move || {
            let (mut pause, mut said) = (PAUSE_MIN, None);
            loop {
                let begun = Instant::now();
                let Ended { why, none } = runtime.block_on(self.follow(&mut said));
                // The same reason over and over is one thing to say.
                if said.as_deref() != Some(why.as_str()) {
                    self.teller.tell(&Told::Feed { open: false, detail: why.clone() });
                    said = Some(why);
                }
                pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { PAUSE_MAX.min(pause * 2) };
                std::thread::sleep(if none { PAUSE_NONE } else { pause });
            }
        });
        Ok(())
    }

    /// Opens the feed and takes events until it ends.
    async fn follow(&self, said: &mut Option<String>) -> Ended {
        let ended = |why: String| Ended { why, none: false };
        let last = self.book.known(&self.origin).believed.map(|believed| believed.head.size);
        let mut url = self.url.clone();
        if let Some(last) = last {
            url.query_pairs_mut().append_pair("after", &last.to_string());
        }
        let answer = match self.client.get(url).header(ACCEPT, "text/event-stream").send().await {
            Ok(answer) => answer,
            Err(error) => return ended(chain(&error.without_url())),
        };
        let media = answer.headers().get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let is_stream = media.is_some_and(|media| media.starts_with("text/event-stream"));
        match answer.status() {
            StatusCode::OK if is_stream => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return ended(format!("the log answered {status}"));
            }
            status => return Ended { why: format!("the log has none: it answered {status}"), none: true },
        }
        self.teller.tell(&Told::Feed { open: true, detail: self.url.to_string() });
        *said = None;
        ended(self.events(answer, last).await)
    }

    /// Takes events; gives why there are no more.
    async fn events(&self, mut answer: Response, mut last: Option<TreeSize>) -> String {
        let mut lines = Lines::default();
        loop {
            let bytes = match answer.chunk().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return "the log ended it".to_owned(),
                Err(error) => return chain(&error.without_url()),
            };
            for note in lines.take(&bytes) {
                let Some(note) = note else { return "it sent what is no checkpoint".to_owned() };
                let size = claims(note.as_bytes()).map(|(_, head)| head.size);
                let log = self.book.log(&self.origin);
                let signed = log.is_some_and(|log| log.verify(note.as_bytes()).is_ok());
                // Whatever it is, it is judged.
                if self.messages.send(Message::Fed(note.into_bytes())).is_err() {
                    return "nobody listens any more".to_owned();
                }
                // Whoever is not the log cannot keep a follower busy; and the log's sizes only grow.
                if !signed {
                    return "it sent a head that the log did not sign".to_owned();
                }
                if size <= last {
                    return "it sent a head that is no larger than the one before".to_owned();
                }
                last = size;
            }
        }
    }
}

/// The lines of a stream, as they come in pieces.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The notes of the events in what has come; `None` for what is none, after which nothing is to be read.
    fn take(&mut self, bytes: &[u8]) -> Vec<Option<String>> {
        self.rest.extend_from_slice(bytes);
        let mut notes = Vec::new();
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in self.rest.drain(..whole).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            // The log writes an event's data as one line of JSON; its name and id say no more than that.
            if let Some(data) = line.strip_prefix(b"data:") {
                let item: Option<CheckpointItem> = serde_json::from_slice(data.trim_ascii()).ok();
                notes.push(item.map(|item| item.note).filter(|note| note.len() <= CHECKPOINT_BYTES_MAX));
            }
        }
        if self.rest.len() > LINE_BYTES_MAX {
            notes.push(None);
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let stream = "event: checkpoint\nid: 3\ndata: {\"size\":3,\"note\":\"a\\nb\\n\"}\n\n: beat\n\n\
                      event: checkpoint\nid: 4\ndata:{\"size\":4,\"note\":\"c\"}\r\n\n";
        for piece in 1..stream.len() {
            let mut lines = Lines::default();
            let notes: Vec<_> = stream.as_bytes().chunks(piece).flat_map(|bytes| lines.take(bytes)).collect();
            assert_eq!(notes, [Some("a\nb\n".to_owned()), Some("c".to_owned())], "{piece}");
        }
        assert_eq!(Lines::default().take(b"data: nothing\n"), [None]);
        assert_eq!(Lines::default().take(&vec![b'x'; LINE_BYTES_MAX + 1]), [None]);
        let long = format!("data: {{\"size\":1,\"note\":\"{}\"}}\n", "x".repeat(CHECKPOINT_BYTES_MAX + 1));
        assert_eq!(Lines::default().take(long.as_bytes()), [None]);
    }
}
