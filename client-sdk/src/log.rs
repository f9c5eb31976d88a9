//! The log as an HTTP client sees it. What it answers is read here and believed nowhere: see [`crate::follow`].

use std::time::Duration;

use serde::de::DeserializeOwned;
use sift_connect::Connect;
use sift_spec::api::{
    BatchAnswer, ConsistencyAnswer, MEDIA_BYTES, OperatorAnswer, OperatorRecordsAnswer, PolicyAnswer,
    Problem, ProblemKind,
};
use sift_spec::evidence::PACK_BYTES_MAX;
use sift_spec::note::NOTE_BYTES_MAX;
use sift_spec::record::ENTRY_BYTES_MAX;
use sift_spec::tile::push_entry;
use sift_spec::types::{Hash, LeafIndex, RunId, Seq, TreeSize};

/// Longest JSON answer in bytes: a batch of 1,024 refusals with their words, and to spare.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// How long a connection may take to be made.
const CONNECT_SECONDS_MAX: u64 = 5;

/// How long an answer may take.
const ANSWER_SECONDS_MAX: u64 = 30;

/// Why the log gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The HTTP client could not be made.
    #[error("HTTP client: {0}")]
    Client(String),
    /// No connection, no answer in time, or an answer that is none of the log's.
    #[error("no answer from the log at {url}: {why}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        why: String,
    },
    /// The log refused.
    #[error("the log refused: {}: {}", .0.title, .0.detail)]
    Problem(Box<Problem>, Option<Duration>),
}

impl LogError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Client(_) => false,
            Self::Network { .. } => true,
            Self::Problem(problem, _) => is_passing(problem.kind),
        }
    }

    /// When the log asked to be tried again.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(_, after) => *after,
            _ => None,
        }
    }
}

/// Whether a problem lies with the log's state and not with what was sent.
#[must_use]
pub const fn is_passing(kind: ProblemKind) -> bool {
    use ProblemKind::{Busy, DiskFull, Internal, NotWitnessed, NotWriting, RateLimited, TooSlow};
    matches!(kind, Busy | RateLimited | NotWriting | DiskFull | TooSlow | NotWitnessed | Internal)
}

/// A client of one log.
#[derive(Debug, Clone)]
pub struct LogClient {
    http: reqwest::Client,
    url: String,
    /// Whether records are sent with `wait=witnessed`.
    witnessed: bool,
}

impl LogClient {
    /// A client of the log served at `url`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: &str) -> Result<Self, LogError> {
        Self::with(url, &Connect::default())
    }

    /// A client of the log served at `url`, reached in some way.
    ///
    /// # Errors
    /// When TLS cannot be set up, or a file that it needs is not to be had.
    pub fn with(url: &str, connect: &Connect) -> Result<Self, LogError> {
        let http = connect
            .client()
            .map_err(|error| LogError::Client(error.to_string()))?
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .timeout(Duration::from_secs(ANSWER_SECONDS_MAX))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| LogError::Client(error.to_string()))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), witnessed: false })
    }

    /// Whether an answer to records must be under a checkpoint that the log's witnesses have cosigned: what a trust file
    /// with a quorum asks for.
    #[must_use]
    pub fn witnessed(mut self, witnessed: bool) -> Self {
        self.witnessed = witnessed;
        self
    }

    /// `POST /v1/records`: adds entries, all or each refused for itself.
    ///
    /// # Errors
    /// When there is no answer, or the request as a whole was refused.
    pub async fn add(&self, entries: &[&[u8]]) -> Result<BatchAnswer, LogError> {
        let mut body = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 2).sum());
        for entry in entries {
            // An entry that was signed here fits its length prefix.
            let _ = push_entry(&mut body, entry);
        }
        let wait = if self.witnessed { "?wait=witnessed" } else { "" };
        let url = format!("{}/v1/records{wait}", self.url);
        let request = self.http.post(&url).header(reqwest::header::CONTENT_TYPE, MEDIA_BYTES).body(body);
        self.json(url, request).await
    }

    /// `GET /v1/proof/consistency`: that the tree of `new` extends that of `old`.
    ///
    /// # Errors
    /// When there is no answer, or the request was refused.
    pub async fn consistency(&self, old: TreeSize, new: TreeSize) -> Result<ConsistencyAnswer, LogError> {
        let url = format!("{}/v1/proof/consistency?old={old}&new={new}", self.url);
        let request = self.http.get(&url);
        self.json(url, request).await
    }

    /// `GET /v1/runs/{run}/evidence`: the pack of a run, as the log knows it.
    ///
    /// # Errors
    /// When there is no answer, or the log does not know the run.
    pub async fn evidence(&self, run: RunId) -> Result<Vec<u8>, LogError> {
        let url = format!("{}/v1/runs/{run}/evidence", self.url);
        let request = self.http.get(&url);
        self.fetch(&url, request, PACK_BYTES_MAX).await
    }

    /// `GET /v1/policies/{digest}`: where the operator has published a bundle; `None` when the log knows of no such
    /// record, or is of a version that cannot tell.
    ///
    /// # Errors
    /// When there is no answer, or the request was refused.
    pub async fn policy(&self, bundle: &Hash) -> Result<Option<LeafIndex>, LogError> {
        let url = format!("{}/v1/policies/{}", self.url, bundle.hex());
        let request = self.http.get(&url);
        match self.json::<PolicyAnswer>(url, request).await {
            Ok(answer) => Ok(Some(answer.index)),
            Err(LogError::Problem(problem, _)) if problem.kind == ProblemKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/records/{index}`: an entry.
    ///
    /// # Errors
    /// When there is no answer, or no such entry.
    pub async fn record(&self, index: LeafIndex) -> Result<Vec<u8>, LogError> {
        let url = format!("{}/v1/records/{index}", self.url);
        let request = self.http.get(&url);
        self.fetch(&url, request, ENTRY_BYTES_MAX).await
    }

    /// `GET /v1/records/{index}.tlog-proof`: an entry's receipt.
    ///
    /// # Errors
    /// When there is no answer, or no such entry.
    pub async fn receipt(&self, index: LeafIndex) -> Result<Vec<u8>, LogError> {
        let url = format!("{}/v1/records/{index}.tlog-proof", self.url);
        let request = self.http.get(&url);
        self.fetch(&url, request, NOTE_BYTES_MAX).await
    }

    /// `GET /v1/operator`: where the operator's chain ends.
    ///
    /// # Errors
    /// When there is no answer, or the request was refused.
    pub async fn operator(&self) -> Result<OperatorAnswer, LogError> {
        let url = format!("{}/v1/operator", self.url);
        let request = self.http.get(&url);
        self.json(url, request).await
    }

    /// `GET /v1/operator/records`: where the operator's records stand, from `from` on, at most `count`.
    ///
    /// # Errors
    /// When there is no answer, or the request was refused.
    pub async fn operator_records(&self, from: Seq, count: usize) -> Result<OperatorRecordsAnswer, LogError> {
        let url = format!("{}/v1/operator/records?from={from}&limit={count}", self.url);
        let request = self.http.get(&url);
        self.json(url, request).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        url: String,
        request: reqwest::RequestBuilder,
    ) -> Result<T, LogError> {
        let body = self.fetch(&url, request, ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| LogError::Network { url, why: error.to_string() })
    }

    async fn fetch(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        bytes_max: usize,
    ) -> Result<Vec<u8>, LogError> {
        let network = |why: String| LogError::Network { url: url.to_owned(), why };
        let mut response = request.send().await.map_err(|error| network(chain(&error)))?;
        let status = response.status();
        let after = response.headers().get(reqwest::header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| network(chain(&error)))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(network(format!("the answer is longer than {bytes_max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(LogError::Problem(Box::new(problem), after)),
            Err(_) => Err(network(format!("status {status} and no problem the log knows"))),
        }
    }
}

/// An error with what caused it: the HTTP client's own message says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
