//! Approvers' statements: what an approver signs about one exact action (SPEC §3.6).

use std::io;

use serde::{Deserialize, Serialize};

use super::canonical::{Canonical, parse_text, print_text, write_json};
use super::{APPROVAL_HEADER, RecordError};
use crate::types::{Hash, KeyName, RunId, Seq, UnixMillis, Word};

/// What an approver signs: an answer about one exact action (SPEC §3.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Digest of the action.
    pub action: Hash,
    /// The answer.
    pub answer: Answer,
    /// The intent's deadline, so that the approver knows what they sign.
    pub deadline: UnixMillis,
    /// Seq of the held intent.
    pub intent: Seq,
    /// Origin of the log.
    pub log: KeyName,
    /// The role in which the approver answers.
    pub role: Word,
    /// The run.
    pub run: RunId,
    /// SHA-256 of exactly what the approver was shown.
    pub shown: Hash,
}

/// An approver's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The call may run, once.
    Approve,
    /// It may not.
    Refuse,
}

impl Canonical for Statement {
    const HEADER: &'static str = APPROVAL_HEADER;

    type Wire = Self;

    fn build(wire: Self) -> Result<Self, RecordError> {
        Ok(wire)
    }

    fn check(&self) -> Result<(), RecordError> {
        Ok(())
    }

    fn write(&self, target: &mut impl io::Write) -> Result<(), RecordError> {
        write_json(target, self)
    }
}

impl Statement {
    /// Reads the text of an approver's note.
    ///
    /// # Errors
    /// When the text is not the one encoding of a statement.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        parse_text(text)
    }

    /// The text of this statement's note.
    ///
    /// # Errors
    /// When the text would not fit an entry.
    pub fn text(&self) -> Result<String, RecordError> {
        print_text(self)
    }
}
