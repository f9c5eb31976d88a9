//! Front ends for approvals other than the folder: a chat, a web page, a pager.
//!
//! A hook is told of every held call and gets a handle to answer with. It runs beside the folder, never instead of it:
//! whatever a hook does or fails to do, the request lies in the folder, and the first answers that count release the
//! call, by whichever way they come. A hook has no authority: it passes on what approvers sign ([`Request::sign_as`]),
//! and the kernel checks each statement as it checks those of the folder.
//!
//! ```
//! use sift_client::{ApprovalHook, Ask};
//!
//! struct Pager;
//!
//! impl ApprovalHook for Pager {
//!     fn asked(&self, ask: Ask) -> Result<(), String> {
//!         // Here the approver is shown exactly this text; what comes back is their signed statement.
//!         println!("{}", ask.request().rendering());
//!         std::thread::spawn(move || {
//!             let statement = String::from("what the approver signed");
//!             // On a runtime: ask.answer(&statement).await
//!             drop((ask, statement));
//!         });
//!         Ok(())
//!     }
//! }
//! ```

use std::fmt;
use std::sync::Arc;

use sift_spec::record::HoldProgress;

use crate::approval::Request;
use crate::error::WaitError;
use crate::shared::Shared;

/// Told of every held call.
pub trait ApprovalHook: Send + Sync + 'static {
    /// A call waits for approvals. Called on a thread where it may block; keep the handle and return.
    ///
    /// # Errors
    /// When nobody can be told. It is logged, and the request stays in the folder.
    fn asked(&self, ask: Ask) -> Result<(), String>;
}

/// A held call, as a hook gets it. Dropping it changes nothing: the call waits on.
#[derive(Clone)]
pub struct Ask {
    request: Arc<Request>,
    shared: Arc<Shared>,
}

/// A hook in a configuration.
#[derive(Clone)]
pub struct Hook(pub Arc<dyn ApprovalHook>);

impl Ask {
    /// What approvers are asked.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Gives an approver's signed answer; how far the call is with it.
    ///
    /// # Errors
    /// [`WaitError::Statement`] when it does not count, which changes nothing. Or the run has stopped.
    pub async fn answer(&self, statement: &str) -> Result<HoldProgress, WaitError> {
        self.shared.give_answer(self.request.run, self.request.intent, statement).await
    }
}

/// Tells the hook, if there is one, of a held call. Neither its errors nor its panics reach the call.
pub(crate) fn tell(shared: &Arc<Shared>, request: &Request) {
    let Some(Hook(hook)) = shared.hook.clone() else { return };
    let ask = Ask { request: Arc::new(request.clone()), shared: Arc::clone(shared) };
    let stem = request.stem();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = hook.asked(ask) {
            tracing::warn!(request = %stem, %error, "the approval hook failed; the request is in the folder");
        }
    });
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("request", &self.request.stem()).finish_non_exhaustive()
    }
}
