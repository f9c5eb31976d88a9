//! Streamed model answers, cut at the output that was reserved.
//!
//! A provider that keeps to the request's limit never meets this. One that ignores it would send, and bill, for ever:
//! [`StreamMeter`] counts what comes, says when it is more than was reserved, and reads no further. It also stops when
//! the run is halted. What it read becomes the [`Report`] of the call.
//!
//! ```no_run
//! # use sift_client::*;
//! # async fn ask(url: &str, _: Vec<u8>) -> reqwest::Result<reqwest::Response> { reqwest::get(url).await }
//! # async fn stream(permit: Permit) -> Result<(), DispatchError> {
//! let Some(mut meter) = permit.meter(StreamFormat::OpenAi) else { return Ok(()) };
//! let done = permit
//!     .dispatch_with(|request| async move {
//!         match ask("https://models.example/v1/chat/completions", request).await {
//!             // The response is dropped, and its connection closed, when the meter cuts it.
//!             Ok(mut response) => meter.read(async || response.chunk().await).await,
//!             Err(error) => Report::error(&error.to_string()),
//!         }
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How tokens are counted
//!
//! * A provider's own `usage` in the stream is exact, and counts from then on ([`StreamFormat::OpenAi`]; ask for it:
//!   `"stream_options": {"include_usage": true}`); but never as less than one token for each event with output.
//! * Until there is one, every byte of output counts as a token. No token is shorter, so the bound holds; but most are
//!   longer, so **an honest answer is cut too early** unless `max_output` leaves room, or [`StreamMeter::count_with`]
//!   is given a tokenizer of the model.
//! * What an event says in a form that is not read here counts byte by byte. All of an answer, with comments and names of
//!   events, is at most 16 MiB.
//!
//! # What is settled
//!
//! What the provider's last `usage` says, if the answer came to its end. A stream that was cut, or broke off, may have
//! been billed for more than was seen: the whole hold. A `usage` above the hold is recorded as it is, and halts the run.
//!
//! # What does not hold
//!
//! Output that a provider bills and never sends, such as hidden reasoning, is not seen before its `usage`. A provider may
//! go on for a while after its connection was closed; what it bills then is its word against the record.

mod openai;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use sift_spec::meter::Usage;
use sift_spec::payload::CONTENT_BYTES_MAX;
use sift_spec::types::Text;

use crate::call::{Payload, Report};
use crate::error::Stop;
use crate::shared::{RunShared, Shared};
use openai::Events;

/// How an answer is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// Server-sent events with chunks as OpenAI's chat completions have them, and those of servers like it.
    OpenAi,
    /// Anything: every byte is output.
    Raw,
}

/// Why a stream is not read any further. Whoever reads it closes the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// More output than was reserved. The provider is at fault, or the count: see [`StreamMeter::count_with`].
    #[error("cut: {counted} output tokens counted where {bound} were reserved")]
    Bound {
        /// Output tokens so far, as they were counted.
        counted: u64,
        /// What was reserved.
        bound: u64,
    },
    /// The run, or the kernel, was halted.
    #[error("cut: {0}")]
    Stopped(Stop),
    /// Longer than a payload may be, or one event is.
    #[error("cut: the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Counts the tokens of a piece of output.
type Counter = Box<dyn FnMut(&str) -> u64 + Send>;

/// Counts a streamed answer against what was reserved for it.
pub struct StreamMeter {
    bound: u64,
    shared: Arc<Shared>,
    run: Arc<RunShared>,
    events: Option<Events>,
    counter: Option<Counter>,
    /// Output tokens so far, those of the last stated usage included.
    counted: u64,
    /// Pieces of output so far, none of which is less than a token.
    pieces: u64,
    bytes: Vec<u8>,
    cut: Option<Cut>,
}

/// What an event of a stream is to the meter.
enum Seen {
    /// Output, as text.
    Output(String),
    /// Something that is not read here; counted by its length.
    Unread(u64),
    /// What has been billed so far.
    Usage(Usage),
}

impl StreamMeter {
    pub(crate) fn new(bound: u64, format: StreamFormat, shared: Arc<Shared>, run: Arc<RunShared>) -> Self {
        let events = (format == StreamFormat::OpenAi).then(Events::default);
        Self {
            bound,
            shared,
            run,
            events,
            counter: None,
            counted: 0,
            pieces: 0,
            bytes: Vec::new(),
            cut: None,
        }
    }

    /// Counts output with the model's own tokenizer instead of one token a byte. It is given each piece of output as it
    /// comes; a count that is too small lets more through than was reserved.
    #[must_use]
    pub fn count_with(mut self, counter: impl FnMut(&str) -> u64 + Send + 'static) -> Self {
        self.counter = Some(Box::new(counter));
        self
    }

    /// Most output tokens, reasoning included: what was reserved.
    #[must_use]
    pub const fn bound(&self) -> u64 {
        self.bound
    }

    /// Output tokens so far, as they were counted.
    #[must_use]
    pub const fn counted(&self) -> u64 {
        self.counted
    }

    /// Takes the next bytes of the answer. Show them to nobody before this has returned. What comes together is judged
    /// together: a usage at the end of it counts in place of all that it covers.
    ///
    /// # Errors
    /// When the stream must not be read any further; from then on always.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), Cut> {
        let cut = match &self.cut {
            Some(cut) => Err(cut.clone()),
            None => self.take(chunk),
        };
        if let Err(cut) = &cut {
            self.cut.get_or_insert_with(|| cut.clone());
        }
        cut
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Cut> {
        self.shared.check(&self.run).map_err(Cut::Stopped)?;
        if self.bytes.len().saturating_add(chunk.len()) > CONTENT_BYTES_MAX {
            return Err(Cut::TooLong(CONTENT_BYTES_MAX));
        }
        self.bytes.extend_from_slice(chunk);
        match &mut self.events {
            // Bytes of a tokenizer's text would be cut anywhere: a raw answer is counted by its length.
            None => self.counted = self.counted.saturating_add(chunk.len() as u64),
            Some(events) => {
                for seen in events.read(chunk)? {
                    match seen {
                        Seen::Output(text) => {
                            let tokens = match &mut self.counter {
                                Some(counter) => counter(&text),
                                None => text.len() as u64,
                            };
                            self.pieces += 1;
                            self.counted = self.counted.saturating_add(tokens);
                        }
                        Seen::Unread(bytes) => self.counted = self.counted.saturating_add(bytes),
                        Seen::Usage(usage) => {
                            // A usage that stays behind must not let a stream go on for ever.
                            self.counted = usage.output.saturating_add(usage.reasoning).max(self.pieces);
                        }
                    }
                }
            }
        }
        if self.counted > self.bound {
            return Err(Cut::Bound { counted: self.counted, bound: self.bound });
        }
        Ok(())
    }

    /// Resolves when the run is halted; for those who wait for the next bytes themselves, and give up then.
    pub fn halted(&self) -> impl Future<Output = Stop> + Send + use<> {
        Arc::clone(&self.shared).until(Arc::clone(&self.run), Shared::halted)
    }

    /// Reads a stream to its end or its cut. `next` gives the next bytes, or `None` at the end, as
    /// `reqwest::Response::chunk` does; it is dropped when this returns, and what it owns with it.
    pub async fn read<B: AsRef<[u8]>, E: std::fmt::Display>(
        self,
        next: impl AsyncFnMut() -> Result<Option<B>, E>,
    ) -> Report {
        self.read_to(next, |_| {}).await
    }

    /// The same, and gives `each` the bytes that may be shown, as they come.
    pub async fn read_to<B: AsRef<[u8]>, E: std::fmt::Display>(
        mut self,
        mut next: impl AsyncFnMut() -> Result<Option<B>, E>,
        mut each: impl FnMut(&[u8]),
    ) -> Report {
        let mut halted: Pin<Box<dyn Future<Output = Stop> + Send>> = Box::pin(self.halted());
        loop {
            let chunk = tokio::select! {
                biased;
                stop = &mut halted => {
                    self.cut.get_or_insert(Cut::Stopped(stop));
                    return self.report();
                }
                chunk = next() => chunk,
            };
            match chunk {
                Ok(Some(chunk)) => match self.feed(chunk.as_ref()) {
                    Ok(()) => each(chunk.as_ref()),
                    Err(_) => return self.report(),
                },
                Ok(None) => return self.report(),
                Err(error) => return self.broken(&error.to_string()),
            }
        }
    }

    /// The report of an answer that has ended, or was cut.
    #[must_use]
    pub fn report(mut self) -> Report {
        self.events.iter_mut().for_each(Events::end);
        match &self.cut {
            Some(cut) => {
                let why = cut.to_string();
                self.broken(&why)
            }
            None if self.events.as_ref().is_some_and(|events| !events.ended()) => {
                self.broken("the stream broke off before its end")
            }
            None => {
                let usage = self.events.as_ref().and_then(Events::usage);
                let events = self.events;
                let report = Report::ok(payload(self.bytes, events.is_some()));
                match (usage, events) {
                    (Some(usage), Some(events)) => stated(report, &events, usage),
                    _ => report,
                }
            }
        }
    }

    /// The report of an answer that did not come to its end: the whole hold is settled, unless more was billed.
    #[must_use]
    pub fn broken(self, why: &str) -> Report {
        let usage = self.events.as_ref().and_then(Events::usage);
        let above = usage.filter(|usage| usage.output.saturating_add(usage.reasoning) > self.bound);
        let events = self.events;
        let report = Report::error(why).with_result(payload(self.bytes, events.is_some()));
        match (above, events) {
            (Some(usage), Some(events)) => stated(report, &events, usage),
            _ => report,
        }
    }
}

fn payload(bytes: Vec<u8>, events: bool) -> Payload {
    let media = if events { "text/event-stream" } else { "application/octet-stream" };
    Payload { media: Text::cut(media), bytes }
}

fn stated(report: Report, events: &Events, usage: Usage) -> Report {
    report.with_model(events.model().unwrap_or(""), events.id(), "provider", usage)
}

impl std::fmt::Debug for StreamMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamMeter")
            .field("bound", &self.bound)
            .field("counted", &self.counted)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}
