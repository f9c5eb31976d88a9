//! What can go wrong, and the one place where it becomes an HTTP answer.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sift_spec::api::{MEDIA_PROBLEM, Problem, ProblemKind};
use sift_spec::chain::ChainError;
use sift_spec::entry::EntryError;
use sift_spec::keys::{AuthorityError, GrantError};
use sift_spec::types::{Hash, KeyName, LeafIndex, Seq};

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
    #[error("{0}")]
    Internal(&'static str),
}

impl Refusal {
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
        };
        let mut problem = Problem::new(kind, self.to_string());
        match self {
            Self::Chain(ChainError::Gap { expected, .. }) => problem.expected_seq = Some(*expected),
            Self::Chain(ChainError::Prev { expected, .. }) => problem.expected_prev = Some(*expected),
            Self::Equivocation { index, .. } => problem.index = Some(*index),
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
            Self::Store(_) | Self::Internal(_) => ProblemKind::Internal,
        };
        let mut problem = Problem::new(kind, self.to_string());
        if let Self::NotWitnessed { index, .. } = self {
            problem.index = Some(*index);
        }
        problem
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "a request failed");
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
        // Seconds. A queue is emptied at once, a disk by somebody; a log that stops is back when it is started again.
        let retry_after = match self {
            Self::Busy | Self::Streams(_) | Self::NotWitnessed { .. } => Some("1"),
            Self::NotWriting => Some("5"),
            Self::DiskFull => Some("10"),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
