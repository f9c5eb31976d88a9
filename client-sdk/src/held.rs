//! Held calls: what happens between a policy's `hold` and an approver's answer.
//!
//! The request lies in `approvals/<run>.<seq>.request`, answers are expected beside it as `….answer`, `….2.answer` and
//! so on, see [`Request::slots`]. A statement that does not count is moved to `….rejected` and the call waits on.

use std::fmt;
use std::path::{Path, PathBuf};

use sift_spec::meter::Amounts;
use sift_spec::record::{Call, HoldProgress};
use tokio::sync::watch;
use tracing::{Instrument as _, Span};

use crate::approval::{
    ANSWER_BYTES_MAX, ANSWER_SUFFIX, ApprovalError, End, REQUEST_SUFFIX, Request, Told, Waiting,
};
use crate::call::Report;
use crate::error::WaitError;
use crate::files::{PART_SUFFIX, read_plain, write_whole};
use crate::permit::Permit;
use crate::run::Denial;
use crate::shared::OpenCall;
use crate::span;

/// A call that waits for approvals. Dropping it cancels the call.
#[must_use = "a held call that nobody waits for is cancelled"]
pub struct Held {
    /// `None` once the answer was taken.
    open: Option<OpenCall>,
    request: Request,
    /// How far the call is, whoever gave the answers.
    told: watch::Receiver<Told>,
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
    /// Approved by all whose approval it needs: go ahead, once.
    Permitted(Permit),
    /// Refused, or too late.
    Denied(Denial),
}

/// Where request and answers are. All are removed when nobody waits any more.
struct Files {
    request: PathBuf,
    answers: Vec<PathBuf>,
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in self.answers.iter().chain([&self.request]) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Held {
    pub(crate) fn new(
        open: OpenCall,
        waiting: Waiting,
        denial: Denial,
        call: Call,
        reserved: Amounts,
        bytes: Vec<u8>,
    ) -> Result<Self, std::io::Error> {
        let request = *waiting.request;
        let dir = &open.shared.approvals;
        let answers = (1..=request.slots()).map(|slot| request.answer_path(dir, slot)).collect();
        let files = Files { request: dir.join(format!("{}{REQUEST_SUFFIX}", request.stem())), answers };
        write_whole(&files.request, request.text().as_bytes())?;
        let told = waiting.told.subscribe();
        crate::hook::tell(&open.shared, &request);
        Ok(Self { open: Some(open), request, told, denial, call, reserved, bytes, files })
    }

    /// What approvers are asked, and who has approved so far.
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

    /// Waits until all approvals that the call needs have come, or a refusal, at most until the deadline. Looks for
    /// answers in the approvals folder.
    ///
    /// # Errors
    /// When the run stops meanwhile.
    pub async fn wait(self) -> Result<Answered, WaitError> {
        let call = self.open.as_ref().map_or_else(Span::none, |open| open.span.clone());
        let span = span::approval(&call, &crate::approval::list(&self.request.hold.approvals));
        let answered = self.until_answered().instrument(span.clone()).await;
        let (result, kind) = match &answered {
            Ok(Answered::Permitted(_)) => ("approved", None),
            Ok(Answered::Denied(_)) => ("denied", Some("not_approved")),
            Err(_) => ("stopped", Some("stopped")),
        };
        span::approved(&span, result);
        kind.iter().for_each(|kind| span::failed(&call, kind));
        answered
    }

    async fn until_answered(mut self) -> Result<Answered, WaitError> {
        loop {
            for path in self.files.answers.clone() {
                self.take_file(&path).await?;
            }
            if let Some(answered) = self.look().await? {
                return Ok(answered);
            }
            let Some(open) = &self.open else { return Ok(self.deny("it was answered already")) };
            let (shared, run) = (&open.shared, &open.run);
            shared.check(run)?;
            if shared.clock.now() > self.request.hold.deadline {
                return self.give_up("not all approvals came before the deadline").await;
            }
            // Answers may come by another way than the folder.
            let poll = shared.poll;
            let _ = tokio::time::timeout(poll, self.told.changed()).await;
        }
    }

    /// Gives an approver's signed answer directly.
    ///
    /// # Errors
    /// [`WaitError::Statement`] when it does not count, [`WaitError::More`] when it counts and others are missing: then
    /// the call still waits, and `self` is given back. Or the run has stopped.
    pub async fn answer(mut self, note: &str) -> Result<Answered, (Option<Self>, WaitError)> {
        let progress = match self.take(note).await {
            Ok(progress) => progress,
            Err(error @ WaitError::Statement(_)) => return Err((Some(self), error)),
            Err(error) => return Err((None, error)),
        };
        match (self.look().await, progress) {
            (Ok(Some(answered)), _) => Ok(answered),
            (Ok(None), HoldProgress::Waits(missing)) => Err((Some(self), WaitError::More(missing))),
            // Told before it is answered, so this does not happen.
            (Ok(None), _) => Err((None, ApprovalError::NotWaiting.into())),
            (Err(error), _) => Err((None, error)),
        }
    }

    /// Waits no more: the call is cancelled.
    ///
    /// # Errors
    /// When the run has stopped.
    pub async fn give_up(mut self, why: &str) -> Result<Answered, WaitError> {
        if let Some(open) = self.open.take() {
            // A report without a result cannot fail to be kept.
            if let Ok(Err(stop)) = open.finish(&Report::cancelled(why)).await {
                // It may have been refused or withdrawn meanwhile, which is recorded.
                return match (&self.told.borrow().end, stop) {
                    (Some(End::Refused), _) => Ok(self.deny("an approver refused")),
                    (Some(End::Withdrawn(why)), _) => Ok(self.deny(why)),
                    (_, stop) => Err(stop.into()),
                };
            }
        }
        Ok(self.deny(why))
    }

    /// Takes the answer in a file, if one is there. What does not count is put aside.
    async fn take_file(&mut self, path: &Path) -> Result<(), WaitError> {
        let Some(note) = read_answer(path) else { return Ok(()) };
        match self.take(&note).await {
            Ok(_) => {
                let _ = std::fs::remove_file(path);
                Ok(())
            }
            Err(WaitError::Statement(error)) => {
                tracing::warn!(request = %self.request.stem(), %error, "an answer does not count");
                let _ = std::fs::rename(path, path.with_extension("rejected"));
                Ok(())
            }
            Err(stopped) => Err(stopped),
        }
    }

    async fn take(&self, note: &str) -> Result<HoldProgress, WaitError> {
        let Some(open) = &self.open else { return Err(ApprovalError::NotWaiting.into()) };
        open.shared.give_answer(open.run.id, open.intent, note).await
    }

    /// Looks how far the call is. Ends when it waits no more.
    async fn look(&mut self) -> Result<Option<Answered>, WaitError> {
        let told = self.told.borrow_and_update().clone();
        if told.approved.len() > self.request.approved.len() {
            self.request.approved = told.approved;
            // Who looks at the folder sees an older state until this is written; nothing else depends on it.
            if let Err(error) = write_whole(&self.files.request, self.request.text().as_bytes()) {
                tracing::warn!(request = %self.request.stem(), %error, "the request was not brought up to date");
            }
        }
        let Some(end) = told.end else { return Ok(None) };
        let Some(mut open) = self.open.take() else { return Err(ApprovalError::NotWaiting.into()) };
        match end {
            End::Refused => {
                // The outcome is recorded in the transaction that took the answer.
                open.if_dropped = None;
                Ok(Some(self.deny("an approver refused")))
            }
            End::Withdrawn(why) => {
                // So it is here.
                open.if_dropped = None;
                Ok(Some(self.deny(&why)))
            }
            End::Released { position, approvers } => {
                open.if_dropped = Some(Report::cancelled("the permit was dropped before the call started"));
                open.position = position;
                let bytes = std::mem::take(&mut self.bytes);
                let permit = Permit::new(open, self.call.clone(), self.reserved, bytes);
                let permit = permit.approved(self.request.hold.deadline, approvers);
                permit.await_receipt().await?;
                Ok(Some(Answered::Permitted(permit)))
            }
        }
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
