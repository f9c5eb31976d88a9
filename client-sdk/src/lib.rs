//! The enforcement kernel: policy, budgets and signed records, before an agent's calls reach anything.
//!
//! # The main path
//!
//! 1. [`Kernel::open`] with a [`Config`], the kernel's key and a clock. Without a policy it does not start.
//! 2. [`Kernel::open_run`] for each run of an agent.
//! 3. [`Run::propose`] for each call: the policy decides, the ledger holds the worst case in every scope, and the
//!    signed intent is durable before a [`Verdict`] comes back. Refusals are recorded too.
//! 4. [`Permit::dispatch`] makes the call, once, and settles the hold; the signed outcome is durable before the run's next
//!    call is let through. [`Held::wait`] turns an approver's signed answer into a permit, or a denial.
//! 5. [`Run::close`] ends the run with a census. In the background everything goes to the log, whose every answer is
//!    verified; [`evidence::collect`] then makes a pack that strangers can check.
//!
//! This runs as it stands: a log that nobody reaches is no reason to stop, in [`Mode::Spool`], until the spool is full.
//!
//! ```
//! # use sift_client::*;
//! # use sift_spec::{bundle::Bundle, note::{KeyType, SignerKey}, trust::TrustPolicy};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let key = SignerKey::from_seed("acme.example/kernel".parse()?, KeyType::Ed25519, &[1; 32])?;
//! # let log = SignerKey::from_seed("log.example".parse()?, KeyType::Ed25519, &[2; 32])?;
//! # let trust = TrustPolicy::of_log(log.verifier().clone(), None);
//! let rules = r#"package sift
//! allow contains {"rule": "cancel"} if input.call.args.reservation_id == "XEWRD9""#;
//! let bundle = Bundle::new([("policy.rego".to_owned(), rules.into())])?;
//! let config = Config::new(dir.path(), "http://127.0.0.1:9", trust, bundle);
//! let kernel = Kernel::open(config, key, SystemClock).await?;
//! let run = kernel.open_run(OpenRun::of("airline/gpt-4o".parse()?)).await?;
//! let args = br#"{"reservation_id":"XEWRD9"}"#.to_vec();
//! let call = ToolCall { name: "cancel_reservation".into(), id: "call_1".into(), args, proposed_by: None };
//! match run.propose(call).await? {
//!     // The tool gets the very bytes that were decided on.
//!     Verdict::Permitted(permit) => {
//!         let done = permit.dispatch_with(|args| async move { cancel(&args) }).await?;
//!         assert_eq!(done.report.status(), Status::Ok);
//!     }
//!     Verdict::Denied(denial) => println!("tell the agent: {denial}"),
//!     Verdict::Held(held) => println!("approved, or not: {:?}", held.wait().await?),
//! }
//! run.close(CloseReason::Done).await?;
//! kernel.close().await;
//! # assert_eq!(CANCELLED.get(), Some(&br#"{"reservation_id":"XEWRD9"}"#.to_vec()));
//! # Ok(())
//! # }
//! # static CANCELLED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
//! # fn cancel(args: &[u8]) -> Report { CANCELLED.set(args.to_vec()).unwrap(); Report::ok(Payload::text("cancelled")) }
//! ```
//!
//! # What holds
//!
//! * No record, no action: a [`Permit`] exists only after its intent is on disk and, in [`Mode::Log`], proven to be in
//!   the log. If a record cannot be made, the run halts.
//! * No budget, no call: one thread reserves, in every scope or in none, before it answers.
//! * A streamed answer is read no further than the output that was reserved for it: [`Permit::meter`].
//! * kill -9, or a disk that fails, at any point loses no hold, and of the records that were answered at most outcomes of
//!   the last milliseconds ([`Kernel::sync`] waits for those): a call without outcome becomes `unknown`, and its hold is
//!   settled in full.
//! * A halt of a run, an agent or everything ([`Kernel::halt_scope`], `sift-kernel halt`) lets nothing be dispatched from the
//!   moment it is taken; its record follows.
//! * A run that a process left open goes on as the same run, counters and all ([`Kernel::resume_run`]), or not at all: what
//!   needs an object that was erased says so and is closed.
//! * Retention ([`Config::retention`]) erases payload objects, never records, and only of runs that are closed and wholly in
//!   the log: evidence of them verifies as before, with their payloads withheld.
//! * An approval counts when a key that `kernel.toml` lists for the role, and for the agent where it says which, signed
//!   it, and the operator is not known to have revoked that key. The kernel reads the operator's records in the log by itself,
//!   never in the way of a call: each is proven, kept in the store, and never forgotten ([`OperatorStatus`]). From the moment
//!   it knows of a revocation, no answer under that key counts, a held call that it has approved is cancelled unless it has
//!   started, no delegation or close by such a kernel counts, and a kernel whose own key is revoked halts. Until then,
//!   and while the log cannot be asked or proves nothing, what is known stays as it is; an auditor goes by the log's order.
//! * The key: a [`signer::ProcessSigner`] keeps it out of this process, and `sift-kernel signer` out of swap. One that this
//!   process reads from its file is a [`signer::LockedKey`]: out of swap once it is read, wiped when dropped.
//!
//! # Out of scope
//!
//! What a tool or a model does; what guards the key behind a helper process ([`signer::ProcessSigner`]); keeping the process from
//! acting without asking, which is for whoever holds the tools' credentials.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod approval;
pub mod bundle_dir;
mod bundles;
mod call;
pub mod capability;
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
mod hook;
mod kernel;
pub mod log;
mod operator;
#[cfg(feature = "otlp")]
pub mod otlp;
mod permit;
pub mod policy;
pub mod recording;
mod resume;
mod run;
pub mod serve;
mod shared;
pub mod signer;
mod span;
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
pub use clock::{Clock, ManualClock, STEP_BACK_MS_MAX, SystemClock};
pub use config::{Approver, Config, Mode, Peer, SpoolLimits};
pub use error::{
    BundleError, CallError, DelegateError, DelegationRefused, DispatchError, EvidenceError, OpenError,
    OpenRunError, ProposeError, ResumeError, RunError, Stop, WaitError, cause_name,
};
pub use files::{read_plain, write_new, write_whole};
pub use halt::{HaltScope, Halted};
pub use held::{Answered, Held};
pub use hook::{ApprovalHook, Ask, Hook};
pub use kernel::{Kernel, OpenRun};
pub use operator::OperatorStatus;
pub use permit::{Child, Done, InFlight, Permit};
pub use resume::Resumable;
pub use run::{Denial, Run, Verdict};
pub use sift_spec::record::{CloseReason, Delegate, Effect, HaltCause, Status};
pub use signer::{SignError, Signer};
pub use stream::{Cut, StreamFormat, StreamMeter};
pub use timings::Timings;
