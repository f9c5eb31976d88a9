//! The program `sift-kernel`: sets a kernel up, checks and tries policies, serves agents, replays recorded conversations
//! through it, answers held calls, and collects evidence.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod approvals;
mod args;
mod evidence;
mod exit;
mod halt;
mod init;
mod policy;
mod replay;
mod retention;
mod runs;
mod serve;
mod signer;
mod tally;
mod telemetry;

use clap::Parser as _;

use crate::args::{Args, Command};
use crate::exit::{Failure, environment};

/// Calls allocate on many threads and free on the writer's, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    // Sends what is left when it is dropped, so it outlives the work.
    let telemetry = telemetry::start(&args.command);
    let done = telemetry.and_then(|_telemetry| run(args));
    exit::report(done)
}

fn run(args: Args) -> Result<(), Failure> {
    // Before any key is read.
    sift_client::signer::harden_process().map_err(environment)?;
    match args.command {
        Command::Init(init) => init::init(&init, args.json),
        Command::Keygen(keygen) => init::keygen(&keygen, args.json),
        Command::Replay(replay) => runtime()?.block_on(replay::replay(&replay, args.json)),
        Command::Serve(serve) => {
            let runtime = runtime()?;
            let served = runtime.block_on(serve::serve(&serve, args.json));
            // A read of standard input cannot be taken back, so nothing waits for it.
            runtime.shutdown_background();
            served
        }
        Command::Approvals(args_of) => approvals::approvals(&args_of, args.json),
        Command::Approve(approve) => approvals::approve(&approve, args.json),
        Command::Signer(args_of) => signer::signer(&args_of),
        Command::Evidence(evidence) => runtime()?.block_on(evidence::evidence(&evidence, args.json)),
        Command::Runs(list) => runs::runs(&list, args.json),
        Command::Halt(halt) => halt::halt(&halt, args.json),
        Command::Status(status) => halt::status(&status, args.json),
        Command::Prune(prune) => retention::prune(&prune, args.json),
        Command::Erase(erase) => retention::erase(&erase, args.json),
        Command::Policy(command) => policy::policy(&command, args.json),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(environment)
}
