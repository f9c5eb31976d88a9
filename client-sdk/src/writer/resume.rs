//! Runs of an earlier process that wait: resumed, or closed when nobody came.

use std::sync::Arc;

use sift_spec::record::{Beat, Body, CloseReason};
use sift_spec::types::{RunId, UnixMillis};
use tokio::sync::oneshot;

use super::Writer;
use crate::error::ResumeError;
use crate::shared::RunShared;

impl Writer {
    /// Gives a run that waits to somebody who goes on with it, once.
    pub(super) fn resume(&mut self, run: RunId, reply: oneshot::Sender<Result<Arc<RunShared>, ResumeError>>) {
        let resumed = self.try_resume(run);
        self.reply(reply, resumed);
    }

    fn try_resume(&mut self, run: RunId) -> Result<Arc<RunShared>, ResumeError> {
        let now = self.now();
        match self.shared.waiting().get(&run) {
            None => return Err(ResumeError::NotWaiting(run)),
            Some(Err(why)) => return Err(ResumeError::Cannot { run, why: why.clone() }),
            Some(Ok(_)) => {}
        }
        let shared = self.run_of(run).ok_or(ResumeError::NotWaiting(run))?;
        self.shared.check(&shared)?;
        self.shared.waiting().remove(&run);
        let records = shared.view().next.get();
        self.append(run, Body::Beat(Beat { records }), now)?;
        tracing::info!(%run, "a run of an earlier process is resumed");
        Ok(shared)
    }

    fn run_of(&self, run: RunId) -> Option<Arc<RunShared>> {
        self.lines.get(&run).map(|line| Arc::clone(&line.run))
    }

    /// Closes what nobody has resumed in time, those below others first.
    pub(super) fn give_up_waiting(&mut self, now: UnixMillis) {
        if self.shared.resume_ms == 0 {
            return;
        }
        let over = |(run, until): (&RunId, &Result<UnixMillis, String>)| {
            until.as_ref().is_ok_and(|until| now > *until).then_some(*run)
        };
        let runs: Vec<RunId> = self.shared.waiting().iter().filter_map(over).collect();
        let mut runs: Vec<_> =
            runs.into_iter().filter_map(|run| Some((self.run_of(run)?.depth, run))).collect();
        runs.sort_unstable_by(|a, b| b.cmp(a));
        for (_, run) in runs {
            self.shared.waiting().remove(&run);
            match self.try_close(run, CloseReason::Abandoned) {
                Ok(_) => tracing::info!(%run, "nobody resumed a run in time; it is closed as abandoned"),
                // A failure halts the kernel, which says why.
                Err(error) => tracing::error!(%run, %error, "a run that nobody resumed was not closed"),
            }
        }
    }
}
