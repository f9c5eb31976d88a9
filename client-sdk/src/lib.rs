//! The enforcement kernel: policy, budgets and signed records, before an agent's calls reach anything.
//!
//! # The main path
//!
//! 1. [`Kernel::open`] with a [`Config`], the kernel's key and a clock. Without a policy it does not start.
//! 2. [`Kernel::open_run`] for each run of an agent.
//! 3. [`Run::propose`] for each call: the policy decides, the ledger holds the worst case in every scope, and the
//!    signed intent is durable before a [`Verdict`] comes back. Refusals are recorded too.
//! 4. [`Permit::dispatch`] makes the call, once; the signed outcome is durable before its result comes back, and
//!    the hold is settled. [`Held::wait`] turns an approver's signed answer into a permit, or a denial.
//! 5. [`Run::close`] ends the run with a census. In the background everything goes to the log, whose every answer is
//!    verified; [`evidence::collect`] then makes a pack that strangers can check.
//!
//! ```no_run
//! # use sift_client::*;
//! # fn cancel(args: &[u8]) -> Report { Report::ok(Payload::text("cancelled")) }
//! # async fn agent(config: Config, key: sift_spec::note::SignerKey) -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = Kernel::open(config, key, SystemClock).await?;
//! let run = kernel.open_run(OpenRun::of("airline/gpt-4o".parse()?)).await?;
//! let (name, id, args) = ("cancel_reservation".into(), "call_1".into(), br#"{"reservation_id":"XEWRD9"}"#.to_vec());
//! match run.propose(ToolCall { name, id, args, proposed_by: None }).await? {
//!     Verdict::Permitted(permit) => {
//!         // The call gets the very bytes that were decided on.
//!         let done = permit.dispatch_with(|args| async move { cancel(&args) }).await?;
//!         println!("{:?}, settled {:?}", done.report.status(), done.settled);
//!     }
//!     Verdict::Denied(denial) => println!("{denial}"),
//!     Verdict::Held(held) => println!("{:?}", held.wait().await?),
//! }
//! run.close(CloseReason::Done).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! * No record, no action: a [`Permit`] exists only after its intent is on disk and, in [`Mode::Log`], proven to be in
//!   the log. If a record cannot be made, the run halts.
//! * No budget, no call: one thread reserves, in every scope or in none, before it answers.
//! * A streamed answer is read no further than the output that was reserved for it: [`Permit::meter`].
//! * kill -9 at any point loses no record that was answered and no hold: what is unfinished becomes `unknown`, and its
//!   hold is settled in full.
//!
//! * An approval counts when a key that `kernel.toml` lists for the role, and for the agent where it says which, signed
//!   it. **The kernel does not read the operator's records**: that an approver's grant was revoked in the log is noticed
//!   only by a restart with a changed `kernel.toml`. An auditor notices it in every pack.
//!
//! # Out of scope
//!
//! What a tool or a model does; the key's protection beyond its file (implement [`Signer`]); keeping the process from
//! acting without asking, which is for whoever holds the tools' credentials.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod approval;
pub mod bundle_dir;
mod bundles;
mod call;
mod clock;
pub mod config;
pub mod control;
mod delegation;
mod error;
pub mod evidence;
pub mod failpoint;
mod files;
pub mod follow;
mod halt;
mod held;
mod kernel;
pub mod log;
mod permit;
pub mod policy;
pub mod recording;
mod run;
pub mod serve;
mod shared;
pub mod signer;
pub mod store;
pub mod stream;
mod timings;
mod upkeep;
mod uploader;
pub mod visible;
mod writer;

pub use bundles::BundleStatus;
pub use call::{
    AgentCall, METHOD_UTF8_BYTES, ModelCall, OUTPUT_TOKENS_MAX, Payload, Proposal, Report, ToolCall,
};
pub use clock::{Clock, ManualClock, STEP_BACK_MS_MAX, SystemClock, utc};
pub use config::{Approver, Config, Mode, Peer, SpoolLimits};
pub use error::{
    BundleError, CallError, DelegateError, DelegationRefused, DispatchError, EvidenceError, OpenError,
    OpenRunError, ProposeError, RunError, Stop, WaitError, cause_name,
};
pub use files::{read_plain, write_new, write_whole};
pub use halt::{HaltScope, Halted};
pub use held::{Answered, Held};
pub use kernel::{Kernel, OpenRun};
pub use permit::{Child, Done, InFlight, Permit};
pub use run::{Denial, Run, Verdict};
pub use sift_spec::record::{CloseReason, Delegate, Effect, HaltCause, Status};
pub use signer::{SignError, Signer};
pub use stream::{Cut, StreamFormat, StreamMeter};
pub use timings::Timings;
