//! What can go wrong, and the one place where it becomes an HTTP answer.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sift_spec::api::{MEDIA_PROBLEM, Problem, ProblemKind};
use sift_spec::chain::ChainError;
use sift_spec::entry::EntryError;
use sift_spec::keys::{AuthorityError, GrantError};
use sift_spec::types::{Hash, KeyName, LeafIndex, Seq};

use crate::payloads::PayloadError;
use crate::routes::answer::UNSTORED;
use crate::store::StoreError;

/// Why the log does not admit an entry. Whoever sent it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The bytes are not an entry.
    #[error(transparent)]
    Malformed(EntryError),
    /// The signature does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(KeyName),
    /// The key does not count here.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// An operator's record by another key than the operator's.
    #[error("only the operator's key signs operator records; {0} is not it")]
    NotOperator(KeyName),
    /// The record does not continue its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Another record has this place.
    #[error(
        "seq {seq} of this chain is in the log with other bytes, at index {index}; both are kept as evidence"
    )]
    Equivocation {
        /// The place.
        seq: Seq,
        /// The admitted entry.
        index: LeafIndex,
    },
    /// The operator's record cannot be applied.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The policy bundle is not published.
    #[error("the operator has not published the policy bundle {0}")]
    PolicyNotPublished(Hash),
    /// The key adds records faster than it may.
    #[error("this key adds records faster than it may; the next one is taken in {} ms", .0.as_millis())]
    RateLimited(Duration),
}

/// Why a request has no answer of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{0}")]
    MethodNotAllowed(&'static str),
    #[error("at most {0} bytes are taken here")]
    TooLarge(usize),
    #[error("the body did not arrive within {0} seconds")]
    TooSlow(u64),
    #[error("{0}")]
    UnsupportedMedia(&'static str),
    #[error("the queue is full; try again in a second")]
    Busy,
    #[error("{0} streams are open, and that is the most; try again later, or ask for pages")]
    Streams(usize),
    #[error("too many records from this address were nobody's; the next one is looked at in {} s", seconds(.0))]
    RateLimited(Duration),
    #[error("{}", if *.shown { "this token is not known here" } else { "this path needs a token: Authorization: Bearer" })]
    Unauthorized {
        /// Whether the request had a token.
        shown: bool,
    },
    #[error("requests that write need a client certificate here")]
    CertificateNeeded,
    #[error("the log accepts no records now: it is stopping, or stopped after a failed write")]
    NotWriting,
    #[error(
        "the disk of the log is full: records are refused until there is space, and reads are answered; try again later"
    )]
    DiskFull,
    #[error("the log would not take a record now: {0}")]
    NotReady(String),
    #[error(
        "in the log and durable, the last at index {index} ({count} in all), and not cosigned by enough witnesses in time: ask \
         again, the same bytes have the same place"
    )]
    NotWitnessed { index: LeafIndex, count: usize },
    #[error("the store could not be read")]
    Store(#[from] StoreError),
    #[error("{}", payload_detail(.0))]
    Payload(#[from] PayloadError),
    #[error("{0}")]
    Internal(&'static str),
}

impl Refusal {
    /// Whether the entry is not that of any key that was ever enrolled, as far as anybody can tell.
    pub(crate) const fn is_by_nobody(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::Signature(_)
                | Self::NotOperator(_)
                | Self::Authority(AuthorityError::NotGranted { .. })
        )
    }

    /// The problem that the sender is told.
    pub(crate) fn problem(&self) -> Problem {
        let kind = match self {
            Self::Malformed(_) => ProblemKind::MalformedRecord,
            Self::Signature(_) => ProblemKind::SignatureInvalid,
            Self::Authority(_) | Self::NotOperator(_) => ProblemKind::KeyNotGranted,
            Self::Chain(ChainError::Log(_)) => ProblemKind::WrongLog,
            Self::Chain(_) => ProblemKind::ChainBroken,
            Self::Equivocation { .. } => ProblemKind::Equivocation,
            Self::Grant(_) => ProblemKind::GrantRefused,
            Self::PolicyNotPublished(_) => ProblemKind::PolicyNotPublished,
            Self::RateLimited(_) => ProblemKind::RateLimited,
        };
        let mut problem = Problem::new(kind, self.to_string());
        match self {
            Self::Chain(ChainError::Gap { expected, .. }) => problem.expected_seq = Some(*expected),
            Self::Chain(ChainError::Prev { expected, .. }) => problem.expected_prev = Some(*expected),
            Self::Equivocation { index, .. } => problem.index = Some(*index),
            Self::RateLimited(wait) => problem.retry_after = Some(seconds(wait)),
            _ => {}
        }
        problem
    }
}

impl RequestError {
    fn problem(&self) -> Problem {
        let kind = match self {
            Self::Refused(refusal) => return refusal.problem(),
            Self::Malformed(_) => ProblemKind::MalformedRequest,
            Self::NotFound(_) => ProblemKind::NotFound,
            Self::MethodNotAllowed(_) => ProblemKind::MethodNotAllowed,
            Self::TooLarge(_) => ProblemKind::TooLarge,
            Self::TooSlow(_) => ProblemKind::TooSlow,
            Self::UnsupportedMedia(_) => ProblemKind::UnsupportedMedia,
            Self::Busy | Self::Streams(_) => ProblemKind::Busy,
            Self::NotWriting | Self::NotReady(_) => ProblemKind::NotWriting,
            Self::DiskFull => ProblemKind::DiskFull,
            Self::NotWitnessed { .. } => ProblemKind::NotWitnessed,
            Self::RateLimited(_) => ProblemKind::RateLimited,
            Self::Unauthorized { .. } => ProblemKind::Unauthorized,
            Self::CertificateNeeded => ProblemKind::CertificateNeeded,
            Self::Payload(PayloadError::Erased) => ProblemKind::Erased,
            Self::Payload(PayloadError::NotErased(_)) => ProblemKind::NotErased,
            Self::Payload(PayloadError::Differs(_)) => ProblemKind::PayloadDiffers,
            Self::Payload(PayloadError::Full) => ProblemKind::StorageFull,
            Self::Payload(PayloadError::Damaged | PayloadError::Io(_)) => ProblemKind::Internal,
            Self::Store(_) | Self::Internal(_) => ProblemKind::Internal,
        };
        let mut problem = Problem::new(kind, self.to_string());
        problem.retry_after = match self {
            // A queue is emptied at once, a disk by somebody; a log that stops is back when it is started again.
            Self::Busy | Self::Streams(_) | Self::NotWitnessed { .. } => Some(1),
            Self::NotWriting | Self::NotReady(_) => Some(5),
            Self::DiskFull => Some(10),
            Self::RateLimited(wait) => Some(seconds(wait)),
            _ => None,
        };
        if let Self::NotWitnessed { index, .. } = self {
            problem.index = Some(*index);
        }
        problem
    }
}

/// What the sender is told: nothing of this machine's files.
fn payload_detail(error: &PayloadError) -> String {
    match error {
        PayloadError::Io(_) => "the payload store could not be used".to_owned(),
        error => error.to_string(),
    }
}

/// Whole seconds to wait, as `Retry-After` has them: at least one, and never too few.
fn seconds(wait: &Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        match &self {
            Self::Store(error) => tracing::error!(%error, "a request failed"),
            Self::Payload(error @ (PayloadError::Damaged | PayloadError::Io(_))) => {
                tracing::error!(%error, "a payload was not to be had");
            }
            _ => {}
        }
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        // For those who count.
        response.extensions_mut().insert(problem.kind);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_PROBLEM));
        // What went wrong once need not go wrong again.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(UNSTORED));
        if let Some(seconds) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Unauthorized { shown } = self {
            // RFC 6750 §3: without a token there is no error to name.
            let challenge = if shown {
                "Bearer realm=\"sift\", error=\"invalid_token\""
            } else {
                "Bearer realm=\"sift\""
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_come_again_is_told_when() {
        let come_again = [
            RequestError::Busy,
            RequestError::Streams(1),
            RequestError::NotWriting,
            RequestError::NotReady("a test".to_owned()),
            RequestError::DiskFull,
        ];
        for error in come_again {
            let (text, response) = (error.to_string(), error.into_response());
            assert!(matches!(response.status().as_u16(), 429 | 503), "{text}");
            let seconds = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>();
            assert!(seconds.is_ok_and(|seconds| (1..=60).contains(&seconds)), "{text}");
        }
        let response = RequestError::Internal("a test").into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }

    /// What to do about each problem is in the operator's manual, and nothing else is.
    #[test]
    fn the_manual_tells_what_to_do_about_every_problem() {
        let manual = include_str!("../OPERATING.md");
        let (_, section) = manual.split_once("## Errors and what to do").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let mut listed: Vec<(String, String)> = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 5, "{row}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
            listed.push((format!("urn:sift:problem:{}", cells[0].trim_matches('`')), cells[1].to_owned()));
        }
        let mut known: Vec<_> =
            ProblemKind::ALL.iter().map(|kind| (kind.urn().to_owned(), kind.status().to_string())).collect();
        known.sort();
        listed.sort();
        assert_eq!(listed, known);
    }
}
