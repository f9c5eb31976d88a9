//! `policy`: bundles before they decide anything real.

mod check;
mod digest;
mod explain;
mod history;
mod simulate;
mod test;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sift_rules::PolicyBundle;
use sift_spec::bundle::Bundle;
use sift_spec::types::{AgentName, RunId};

use crate::exit::{Failure, environment};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(CheckArgs),
    Test(TestArgs),
    Explain(ExplainArgs),
    Simulate(SimulateArgs),
    /// Compile a bundle and print its digest, as the operator publishes it.
    Digest(InBundle),
}

#[derive(Debug, Args)]
pub(crate) struct InBundle {
    /// The bundle's folder.
    pub(crate) dir: PathBuf,
}

/// Compile a bundle and say everything that is wrong or doubtful with it, with file and line.
///
/// Errors keep the bundle from compiling, or its cases from being read. Warnings compile and probably do not say what was
/// meant: a rule that can never fire, a fact or a member of data.json that is not there, a model without a price under a
/// limit of money, a limit that another one always meets first, no limits, no tests, no schema (Cedar).
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  it compiles (with --strict: without a warning)
  1  it has errors (with --strict: or warnings)
  2  the folder cannot be read

Example:
  sift-kernel policy check client-sdk/examples/airline/cedar")]
pub(crate) struct CheckArgs {
    /// The bundle's folder.
    pub(crate) dir: PathBuf,
    /// Fail on warnings too.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Run the cases that a bundle brings along in tests/*.json, and say which rules no case makes fire.
///
/// Each case is a run of its own: what happened before, the call, and what is to become of it. Everything is decided by
/// the rules, counters, facts and budget of the kernel itself, the steps before the call too: a case cannot rest on a
/// history that its policy would not have let happen.
#[derive(Debug, Args)]
#[command(after_long_help = "A file in tests/ is a list of cases:
  [
    {
      \"name\": \"a booking is paid from the profile\",
      \"given\": [
        { \"call\": { \"tool\": \"get_user_details\", \"args\": { \"user_id\": \"ada\" } },
          \"result\": { \"user_id\": \"ada\", \"payment_methods\": {} } }
      ],
      \"call\": { \"tool\": \"book_reservation\", \"args\": { \"user_id\": \"ada\" } },
      \"expect\": { \"effect\": \"deny\", \"rules\": [\"arguments-complete\"] }
    }
  ]

A case may have:  agent, labels, depth, time (milliseconds since 1970), given
A call is one of: tool with args (an object) or args_text
                  model with provider, input_tokens, max_output
                  agent
A step of given:  call; effect (allow), result or result_text, status (ok), usage, after_seconds (1), repeat (1)
expect:           effect; rules, reasons, hold (approvals of count and role, seconds), refused (the limit that the budget refuses by:
                  \"run tool_calls per run\", \"identical_calls\", \"wall_clock\", \"no price for gpt-4o\")

Exit codes:
  0  every case passes (with --cover: and every rule fired in one)
  1  a case fails
  2  the bundle does not compile, or its cases cannot be read

Example:
  sift-kernel policy test client-sdk/examples/airline/rego --filter certificate")]
pub(crate) struct TestArgs {
    /// The bundle's folder.
    pub(crate) dir: PathBuf,
    /// Run only cases whose file or name contains this.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Fail when a rule fired in no case.
    #[arg(long, conflicts_with = "filter")]
    pub(crate) cover: bool,
}

/// Say what becomes of each rule for one call, where it is written, and why some win; and for a recorded call, whether
/// the record says the same.
///
/// A recorded call is decided on the history that it had: its input is derived from the records and payloads, not taken
/// from the record. Where that cannot be done, the recorded input is decided about, and the output says so.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  explained; a recorded decision is the same
  1  the recorded decision is another one, or nothing is left to decide about
  2  called wrongly, or a file cannot be read

Examples:
  sift-kernel policy explain DIR --call '{\"tool\":\"calculate\",\"args\":{\"expression\":\"9**9**9\"}}'
  sift-kernel policy explain DIR --case 'six passengers'
  sift-kernel policy explain DIR --dir kernel --run RUN --seq 4
  sift-kernel policy explain DIR --pack RUN.sift --seq 4 --show-input")]
pub(crate) struct ExplainArgs {
    /// The bundle's folder.
    #[arg(value_name = "BUNDLE")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) what: Explainable,
    /// Run of a recorded call.
    #[arg(long, requires = "kernel")]
    pub(crate) run: Option<RunId>,
    /// Place of a recorded call in its run.
    #[arg(long)]
    pub(crate) seq: Option<u64>,
    /// Agent that proposes the call of --call.
    #[arg(long, default_value = "test/agent")]
    pub(crate) agent: AgentName,
    /// List every rule, those that did not fire too.
    #[arg(long)]
    pub(crate) rules: bool,
    /// Print the policy input as well. It holds arguments and results.
    #[arg(long)]
    pub(crate) show_input: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Explainable {
    /// A policy input: the JSON that a decision commits to.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// A call as the first of a run, written as in a case (policy test --help).
    #[arg(long, value_name = "JSON")]
    pub(crate) call: Option<String>,
    /// The call of one of the bundle's cases.
    #[arg(long, value_name = "NAME")]
    pub(crate) case: Option<String>,
    /// A call of an evidence pack, with --seq. The pack is not verified here: sift-verify run does that.
    #[arg(long, value_name = "FILE", requires = "seq")]
    pub(crate) pack: Option<PathBuf>,
    /// A call in the store of this kernel, with --run and --seq. The kernel must not be running.
    #[arg(long = "dir", value_name = "KERNEL", id = "kernel", requires = "seq", requires = "run")]
    pub(crate) dir: Option<PathBuf>,
}

/// Decide recorded calls again under another bundle, and print what would change, call by call and in total.
///
/// Every call is decided on the history that it had: counters and facts of a run follow what was recorded, folded by the
/// new facts.toml. After a call that would change, the recorded rest is what happened without the change. The ledger
/// follows the new decisions, limits and prices in the order of the history.
///
/// A line starts with = where nothing changes, ! where the effect changes, ~ where other rules decide the same, and ? where
/// the call cannot be decided again: its arguments, or a result that facts.toml remembers, are withheld or erased. Such
/// calls are counted and never guessed.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  every call was decided again, whatever changes
  1  some calls could not be decided again; or, with --expect-no-change, something changes
  2  called wrongly, the bundle does not compile, or the history cannot be read

With --json there is one line for each call, and a last line with the totals.

Examples:
  sift-kernel policy simulate new-bundle --dir kernel --only-changes
  sift-kernel policy simulate new-bundle --pack packs/*.sift
  sift-kernel policy simulate client-sdk/examples/airline/rego --recordings tau-airline-gpt-4o.json --only-changes")]
pub(crate) struct SimulateArgs {
    /// Folder of the bundle to try.
    #[arg(value_name = "BUNDLE")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) history: HistoryArgs,
    /// Print only calls that would change, that other rules would decide, or that cannot be decided again.
    #[arg(long)]
    pub(crate) only_changes: bool,
    /// Let runs follow the new decisions: what was not let through has no result.
    #[arg(long)]
    pub(crate) cascade: bool,
    /// Fail when the effect of any call changes.
    #[arg(long)]
    pub(crate) expect_no_change: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) from: HistoryFrom,
    /// Agent of recordings.
    #[arg(long, default_value = "airline/gpt-4o")]
    pub(crate) agent: AgentName,
    /// Model of recordings that name none.
    #[arg(long, default_value = "gpt-4o")]
    pub(crate) model: String,
    /// Provider of the models of recordings.
    #[arg(long, default_value = "openai")]
    pub(crate) provider: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HistoryFrom {
    /// The store of this kernel, which must not be running.
    #[arg(long = "dir", value_name = "KERNEL", id = "kernel")]
    pub(crate) dir: Option<PathBuf>,
    /// Evidence packs of one log. They are not verified here: sift-verify run does that.
    #[arg(long = "pack", value_name = "FILE", num_args = 1..)]
    pub(crate) packs: Vec<PathBuf>,
    /// Recorded conversations, as sift-kernel replay takes them. Every call of them was made.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) recordings: Vec<PathBuf>,
}

/// Does what was asked.
pub(crate) fn policy(command: &PolicyCommand, json: bool) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(args) => check::check(args, json),
        PolicyCommand::Test(args) => test::test(args, json),
        PolicyCommand::Explain(args) => explain::explain(args, json),
        PolicyCommand::Simulate(args) => simulate::simulate(args, json),
        PolicyCommand::Digest(args) => digest::digest(&args.dir, json),
    }
}

/// Reads a bundle from its folder.
fn read(dir: &Path) -> Result<Bundle, Failure> {
    sift_client::bundle_dir::read(dir).map_err(environment)
}

/// Reads and compiles a bundle that has to be in order.
fn compile(dir: &Path) -> Result<(Bundle, PolicyBundle), Failure> {
    let bundle = read(dir)?;
    let compiled = PolicyBundle::compile(&bundle).map_err(|error| {
        environment(format!("{}: {error}\nall of it: sift-kernel policy check {0}", dir.display()))
    })?;
    Ok((bundle, compiled))
}
