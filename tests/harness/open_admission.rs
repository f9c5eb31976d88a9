//! A door that takes anything: `POST /add` with raw bytes, as load testers for tiled logs expect it.
//!
//! The log itself admits only signed records of granted keys, and this changes nothing about that. The door
//! stands before a log as one more of its clients: it wraps what it is given into the next record of one of its
//! own runs, signs it, sends it, believes the receipt only once it verifies, and answers with the index.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use sift_spec::entry::Entry;
use sift_spec::hash::object_digest;
use sift_spec::receipt::Receipt;
use sift_spec::record::Record;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, Seq};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http::Http;
use crate::log::TestLog;
use crate::writer::{Writer, now, proposal};

/// Runs that the door writes in turn, so that callers wait for a record of theirs and not for each other.
const RUNS: usize = 64;

/// An open door before a log, shut when dropped.
pub struct OpenAdmission {
    url: String,
    door: Arc<Door>,
    task: JoinHandle<()>,
}

/// Raw bytes that were answered with an index, and the entry that stands for them.
#[derive(Debug, Clone)]
pub struct Added {
    /// Where it is in the log.
    pub index: LeafIndex,
    /// The entry's bytes.
    pub entry: Vec<u8>,
}

struct Door {
    http: Http,
    trust: TrustPolicy,
    writer: Writer,
    runs: Vec<tokio::sync::Mutex<Record>>,
    next: AtomicUsize,
    /// What was added, by the digest of the raw bytes: the log's clients send a record again, not a new one.
    added: Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<Option<Added>>>>>,
    refused: Mutex<Vec<String>>,
}

impl OpenAdmission {
    /// Opens a door, with a kernel's key of its own, on a port of its own.
    ///
    /// # Panics
    /// When the log does not take the first records of its runs, or no port is to be had.
    pub async fn start(log: &TestLog) -> Self {
        let writer = log.writer("test/open-admission").await;
        // Each run is its `open`; what comes through the door follows.
        let opens: Vec<Record> = (0..RUNS).filter_map(|_| writer.run(0).into_iter().next()).collect();
        let answer = log.http.add_all(&writer.entries(&opens)).await.expect("an answer");
        assert!(
            answer.results.iter().all(|result| matches!(result, sift_spec::api::BatchResult::Index(_))),
            "{answer:?}"
        );
        let door = Arc::new(Door {
            http: log.http.clone(),
            trust: log.trust(),
            writer,
            runs: opens.into_iter().map(tokio::sync::Mutex::new).collect(),
            next: AtomicUsize::new(0),
            added: Mutex::default(),
            refused: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().route("/add", post(add)).with_state(Arc::clone(&door));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("a door") });
        Self { url, door, task }
    }

    /// Where the door is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that was answered with an index, in the order of the log. Waits for requests that are under way.
    ///
    /// # Panics
    /// When a request panicked.
    pub async fn added(&self) -> Vec<(Hash, Added)> {
        let slots: Vec<_> = self
            .door
            .added
            .lock()
            .expect("a lock")
            .iter()
            .map(|(raw, slot)| (*raw, Arc::clone(slot)))
            .collect();
        let mut added = Vec::new();
        for (raw, slot) in slots {
            added.extend(slot.lock().await.clone().map(|added| (raw, added)));
        }
        added.sort_by_key(|(_, added)| added.index);
        added
    }

    /// What the log, or the door's own checks, refused.
    ///
    /// # Panics
    /// When a request panicked.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.door.refused.lock().expect("a lock").clone()
    }
}

impl Drop for OpenAdmission {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why there is no index.
struct Refused {
    status: StatusCode,
    why: String,
}

impl Refused {
    fn because(why: impl ToString) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, why: why.to_string() }
    }
}

async fn add(State(door): State<Arc<Door>>, raw: Bytes) -> (StatusCode, String) {
    // A caller that goes away does not leave a run without the record that the log may have taken.
    let added = tokio::spawn(async move {
        let added = door.add(&raw).await;
        if let Err(Refused { status, why }) = &added
            && *status != StatusCode::TOO_MANY_REQUESTS
        {
            door.refused.lock().expect("a lock").push(why.clone());
        }
        added
    });
    match added.await.expect("no panic") {
        Ok(added) => (StatusCode::OK, format!("{}\n", added.index)),
        Err(Refused { status, why }) => (status, why),
    }
}

impl Door {
    async fn add(&self, raw: &[u8]) -> Result<Added, Refused> {
        let digest = object_digest(raw);
        let slot = Arc::clone(self.added.lock().expect("a lock").entry(digest).or_default());
        let mut slot = slot.lock().await;
        if let Some(added) = &*slot {
            // The same bytes have the same index for ever, whoever asks.
            let entry = Entry::parse(added.entry.clone()).map_err(Refused::because)?;
            let again = self.send(&entry).await?;
            if again != added.index {
                let why = format!("the entry at {} is at {again} when it is sent again", added.index);
                return Err(Refused::because(why));
            }
            return Ok(added.clone());
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = self.runs[turn % self.runs.len()].lock().await;
        let record = Record {
            body: proposal(digest, raw.len() as u64),
            prev: Some(self.writer.sign(&last).leaf()),
            seq: Seq::new(last.seq.get() + 1).map_err(Refused::because)?,
            time: now().max(last.time),
            ..last.clone()
        };
        let entry = self.writer.sign(&record);
        let index = self.send(&entry).await?;
        *last = record;
        let added = Added { index, entry: entry.into_bytes() };
        *slot = Some(added.clone());
        Ok(added)
    }

    /// Sends an entry and believes its receipt if it verifies.
    async fn send(&self, entry: &Entry) -> Result<LeafIndex, Refused> {
        let answer = self.http.add(entry.bytes()).await.map_err(Refused::because)?;
        match answer.status {
            200 => {
                let receipt = Receipt::parse(&answer.body).map_err(Refused::because)?;
                Ok(receipt.verify(entry.leaf(), &self.trust).map_err(Refused::because)?.index())
            }
            // The log is busy: nothing was written, and the caller may try again.
            429 => Err(Refused { status: StatusCode::TOO_MANY_REQUESTS, why: answer.text() }),
            status => Err(Refused::because(format!("{status}: {}", answer.text()))),
        }
    }
}
