//! Held calls: what happens between a policy's `hold` and an approver's answer.
//!
//! The request lies in `approvals/<run>.<seq>.request`, the answer is expected beside it as `….answer`. A statement
//! that does not count is moved to `….rejected` and the call waits on.

use std::fmt;
use std::path::{Path, PathBuf};

use sift_spec::meter::Amounts;
use sift_spec::record::Call;
use tokio::sync::oneshot;

use crate::approval::{ANSWER_BYTES_MAX, ANSWER_SUFFIX, ApprovalError, REQUEST_SUFFIX, Request};
use crate::call::Report;
use crate::error::WaitError;
use crate::files::{PART_SUFFIX, read_plain, write_whole};
use crate::permit::Permit;
use crate::run::Denial;
use crate::shared::OpenCall;
use crate::writer::Op;

/// A call that waits for an approver. Dropping it cancels the call.
#[must_use = "a held call that nobody waits for is cancelled"]
pub struct Held {
    /// `None` once the answer was taken.
    open: Option<OpenCall>,
    request: Request,
    denial: Denial,
    call: Call,
    reserved: Amounts,
    bytes: Vec<u8>,
    files: Files,
}

/// What an approver's answer, or its absence, led to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // matched at once, never kept
pub enum Answered {
    /// Approved: go ahead, once.
    Permitted(Permit),
    /// Refused, or too late.
    Denied(Denial),
}

/// Where request and answer are. Both are removed when nobody waits any more.
struct Files {
    request: PathBuf,
    answer: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.request, &self.answer] {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Held {
    pub(crate) fn new(
        open: OpenCall,
        request: Request,
        denial: Denial,
        call: Call,
        reserved: Amounts,
        bytes: Vec<u8>,
    ) -> Result<Self, std::io::Error> {
        let stem = open.shared.approvals.join(request.stem());
        let path = |suffix: &str| PathBuf::from(format!("{}{suffix}", stem.display()));
        let files = Files { request: path(REQUEST_SUFFIX), answer: path(ANSWER_SUFFIX) };
        write_whole(&files.request, request.text().as_bytes())?;
        Ok(Self { open: Some(open), request, denial, call, reserved, bytes, files })
    }

    /// What the approver is asked.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// What the policy said, as a denial that is not one yet.
    #[must_use]
    pub const fn policy(&self) -> &Denial {
        &self.denial
    }

    /// What is held for the call in every scope while it waits.
    #[must_use]
    pub const fn reserved(&self) -> Amounts {
        self.reserved
    }

    /// Waits for an answer in the approvals folder, at most until the deadline.
    ///
    /// # Errors
    /// When the run stops meanwhile.
    pub async fn wait(mut self) -> Result<Answered, WaitError> {
        loop {
            if let Some(note) = read_answer(&self.files.answer) {
                match self.take(&note).await {
                    Err(WaitError::Statement(error)) => {
                        tracing::warn!(request = %self.request.stem(), %error, "an answer does not count");
                        let rejected = self.files.answer.with_extension("rejected");
                        let _ = std::fs::rename(&self.files.answer, rejected);
                    }
                    answered => return answered,
                }
            }
            let Some(open) = &self.open else { return Ok(self.deny("it was answered already")) };
            let (shared, run) = (&open.shared, &open.run);
            shared.check(run)?;
            if shared.clock.now() > self.request.deadline {
                return self.give_up("no approval came before the deadline").await;
            }
            tokio::time::sleep(shared.poll).await;
        }
    }

    /// Gives an approver's signed answer directly.
    ///
    /// # Errors
    /// [`WaitError::Statement`] when it does not count: then the call still waits, and `self` is given back. Or the
    /// run has stopped.
    pub async fn answer(mut self, note: &str) -> Result<Answered, (Option<Self>, WaitError)> {
        match self.take(note).await {
            Ok(answered) => Ok(answered),
            Err(error @ WaitError::Statement(_)) => Err((Some(self), error)),
            Err(error) => Err((None, error)),
        }
    }

    /// Waits no more: the call is cancelled, which is durable when this returns.
    ///
    /// # Errors
    /// When the run has stopped.
    pub async fn give_up(mut self, why: &str) -> Result<Answered, WaitError> {
        if let Some(open) = self.open.take() {
            // A report without a result cannot fail to be kept.
            if let Ok(finished) = open.finish(&Report::cancelled(why)).await {
                finished?;
            }
        }
        Ok(self.deny(why))
    }

    async fn take(&mut self, note: &str) -> Result<Answered, WaitError> {
        let Some(open) = &self.open else { return Err(ApprovalError::NotWaiting.into()) };
        let (reply, answer) = oneshot::channel();
        let (run, intent, note) = (open.run.id, open.intent, note.to_owned());
        open.shared.send(Op::Answer { run, intent, note, reply })?;
        let answered = open.shared.answer(answer).await?;
        let (approved, position) = answered?;
        let Some(mut open) = self.open.take() else { return Err(ApprovalError::NotWaiting.into()) };
        if !approved {
            // The outcome is recorded in the transaction that took the answer.
            open.if_dropped = None;
            return Ok(self.deny("the approver refused"));
        }
        open.if_dropped = Some(Report::cancelled("the permit was dropped before the call started"));
        open.position = position;
        let bytes = std::mem::take(&mut self.bytes);
        let permit = Permit::new(open, self.call.clone(), self.reserved, bytes).until(self.request.deadline);
        permit.await_receipt().await?;
        Ok(Answered::Permitted(permit))
    }

    fn deny(&self, why: &str) -> Answered {
        Answered::Denied(Denial { unapproved: Some(why.to_owned()), ..self.denial.clone() })
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("request", &self.request).finish_non_exhaustive()
    }
}

/// Removes what an earlier process left in the approvals folder: none of its calls waits any more.
pub(crate) fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if [REQUEST_SUFFIX, ANSWER_SUFFIX, PART_SUFFIX].iter().any(|suffix| name.ends_with(suffix)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The answer, if something is there. What is too long, no text or no file is not one; the writer says so.
fn read_answer(path: &Path) -> Option<String> {
    match read_plain(path, ANSWER_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        answer => Some(String::from_utf8(answer.unwrap_or_default()).unwrap_or_default()),
    }
}
