//! The operator's side: signs grants, revocations, policies and erasures, and sends them to a log.
//!
//! This needs the operator's key, a trust file and an address: it runs where the key is kept. What the log says about
//! the operator's chain is believed only as far as it is proven, because the operator's signature is the root of all
//! authority:
//!
//! 1. The log is the one of the trust file. Nothing is ever signed for another.
//! 2. The operator's last record is in the log, signed by this key, and is what the next one names.
//! 3. It is no older than the last one that was sent from here, which is kept beside the key: a log that hides
//!    records cannot make the operator sign two for one place.
//! 4. The receipt of the new record verifies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sift_connect::{Connect, ConnectError};
use sift_spec::api::{MEDIA_NOTE, OperatorAnswer, Problem, ProblemKind};
use sift_spec::entry::{Content, Entry, EntryError};
use sift_spec::note::SignerKey;
use sift_spec::receipt::{Receipt, ReceiptError};
use sift_spec::record::{OperatorBody, OperatorRecord};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, KeyName, LeafIndex, Seq, UnixMillis};

/// How far ahead of this clock the last record may be: a day, for clocks that were wrong.
const AHEAD_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why the operator's record is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The log did not answer.
    #[error("the log did not answer: {}", chain(.0))]
    Http(#[from] reqwest::Error),
    /// The log cannot be reached in this way.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The log refused.
    #[error("the log refused: {} ({})", .0.detail, .0.kind.urn())]
    Refused(Box<Problem>),
    /// The log answered with something else.
    #[error("the log's answer makes no sense: {0}")]
    Answer(String),
    /// The log is another one.
    #[error("this is the log {found}, and the trust file is about {expected}: nothing was signed")]
    OtherLog {
        /// What the trust file lists.
        expected: String,
        /// What the log says.
        found: KeyName,
    },
    /// What the log says about the operator's chain does not hold.
    #[error("what the log says about the operator's last record does not hold, so nothing was signed: {0}")]
    Chain(String),
    /// The note about the last record could not be read or written.
    #[error("{path}: {error}", path = .path.display())]
    Last {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The record has no encoding.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The receipt does not prove.
    #[error("the log's receipt does not verify: {0}")]
    Receipt(#[from] ReceiptError),
}

/// An operator who signs: the key, whom it believes, and where it remembers what it signed last.
pub struct Operator<'a> {
    /// The operator's key.
    pub key: &'a SignerKey,
    /// Which log is believed. Lists one, by all keys that it may have.
    pub trust: &'a TrustPolicy,
    /// File that holds seq and leaf hash of the last record that was sent from here.
    pub last: PathBuf,
    /// How the log is reached.
    pub connect: Connect,
}

impl<'a> Operator<'a> {
    /// An operator whose key lies in this file; what it signed last is remembered beside it.
    #[must_use]
    pub fn beside(key_file: &Path, key: &'a SignerKey, trust: &'a TrustPolicy) -> Self {
        Self { key, trust, last: key_file.with_extension("last"), connect: Connect::default() }
    }

    /// Signs `body` as the operator's next record at `now` and sends it to the log at `url`.
    ///
    /// # Errors
    /// When the log is another one, does not answer, refuses, or proves less than it says.
    pub async fn submit(
        &self,
        url: &str,
        body: OperatorBody,
        now: UnixMillis,
    ) -> Result<LeafIndex, OperatorError> {
        let url = url.trim_end_matches('/');
        let client =
            self.connect.client()?.redirect(reqwest::redirect::Policy::none()).timeout(ANSWER).build()?;
        let next: OperatorAnswer = json(client.get(format!("{url}/v1/operator")).send().await?).await?;
        // 1. The log of the trust file.
        let Some(log) = self.trust.origin() else {
            return Err(OperatorError::Chain("the trust file must list one log".to_owned()));
        };
        if *log != next.log {
            return Err(OperatorError::OtherLog { expected: log.to_string(), found: next.log });
        }
        // 2. The last record, proven.
        self.check_last(&client, url, &next, now).await?;
        // 3. No older than what was sent from here.
        if let Some((seq, leaf)) = self.recall()? {
            let same = next.next_seq.get() == seq.get() + 1 && next.prev == Some(leaf);
            if !same && next.next_seq.get() <= seq.get() + 1 {
                let why = format!("record {seq} was sent from here, and the log does not show it");
                return Err(OperatorError::Chain(why));
            }
        }
        let time = next.time.max(now);
        let record = OperatorRecord { body, log: next.log, prev: next.prev, seq: next.next_seq, time };
        let entry = Entry::sign_operator(&record, self.key)?;
        let leaf = entry.leaf();
        // A trust file with a quorum believes no receipt without one.
        let wait = if self.trust.quorum().is_some() { "?wait=witnessed" } else { "" };
        let request = client.post(format!("{url}/v1/records{wait}")).header("content-type", MEDIA_NOTE);
        let answer = accepted(request.body(entry.into_bytes()).send().await?).await;
        if let Err(OperatorError::Refused(problem)) = &answer
            && problem.kind == ProblemKind::NotWitnessed
        {
            // The log says that it has the record: nothing else may be signed for its place.
            self.remember(record.seq, leaf)?;
        }
        let answer = answer?;
        // 4. The receipt.
        let receipt = Receipt::parse(&answer.bytes().await?)?;
        let index = receipt.verify(leaf, self.trust)?.index();
        self.remember(record.seq, leaf)?;
        Ok(index)
    }

    async fn check_last(
        &self,
        client: &reqwest::Client,
        url: &str,
        next: &OperatorAnswer,
        now: UnixMillis,
    ) -> Result<(), OperatorError> {
        let wrong = |why: &str| OperatorError::Chain(why.to_owned());
        let (index, prev) = match (next.index, next.prev) {
            (None, None) if next.next_seq == Seq::ZERO && next.time == UnixMillis::ZERO => return Ok(()),
            (Some(index), Some(prev)) => (index, prev),
            _ => return Err(wrong("it says that there is one and does not say which")),
        };
        let entry = accepted(client.get(format!("{url}/v1/records/{index}")).send().await?).await?;
        let entry = Entry::parse(entry.bytes().await?.to_vec())?;
        entry.verify(self.key.verifier())?;
        let Content::Operator(record) = entry.content() else { return Err(wrong("it is a record of a run")) };
        if entry.leaf() != prev || record.seq.next() != Some(next.next_seq) || record.time != next.time {
            return Err(wrong("leaf hash, seq or time are not those of the record it names"));
        }
        if record.time.get() > now.get().saturating_add(AHEAD_MS_MAX) {
            return Err(wrong("it is more than a day ahead of this clock"));
        }
        let receipt =
            accepted(client.get(format!("{url}/v1/records/{index}.tlog-proof")).send().await?).await?;
        Receipt::parse(&receipt.bytes().await?)?.verify(prev, self.trust)?;
        Ok(())
    }

    fn recall(&self) -> Result<Option<(Seq, Hash)>, OperatorError> {
        let text = match std::fs::read_to_string(&self.last) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OperatorError::Last { path: self.last.clone(), error }),
        };
        let parts = text.trim_end().split_once(' ');
        let parsed =
            parts.and_then(|(seq, leaf)| Some((Seq::new(seq.parse().ok()?).ok()?, leaf.parse().ok()?)));
        let damaged =
            || OperatorError::Last { path: self.last.clone(), error: std::io::ErrorKind::InvalidData.into() };
        parsed.map(Some).ok_or_else(damaged)
    }

    fn remember(&self, seq: Seq, leaf: Hash) -> Result<(), OperatorError> {
        let failed = |error| OperatorError::Last { path: self.last.clone(), error };
        let part = self.last.with_extension("last.part");
        std::fs::write(&part, format!("{seq} {leaf}\n")).map_err(failed)?;
        std::fs::rename(&part, &self.last).map_err(failed)
    }
}

/// An error with what caused it: the HTTP client's own message says only that something failed.
fn chain(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn accepted(answer: reqwest::Response) -> Result<reqwest::Response, OperatorError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.bytes().await?;
    match serde_json::from_slice(&body) {
        Ok(problem) => Err(OperatorError::Refused(problem)),
        Err(_) => {
            Err(OperatorError::Answer(format!("HTTP status {status}; is this the address of a Sift log?")))
        }
    }
}

async fn json<T: serde::de::DeserializeOwned>(answer: reqwest::Response) -> Result<T, OperatorError> {
    let body = accepted(answer).await?.bytes().await?;
    serde_json::from_slice(&body).map_err(|error| OperatorError::Answer(error.to_string()))
}
