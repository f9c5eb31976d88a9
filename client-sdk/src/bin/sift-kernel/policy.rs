//! `policy`: bundles before they decide anything real.

mod check;
mod digest;
mod test;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sift_rules::PolicyBundle;
use sift_spec::bundle::Bundle;

use crate::exit::{Failure, environment};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(CheckArgs),
    Test(TestArgs),
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
expect:           effect; rules, reasons, hold (role, seconds), refused (the limit that the budget refuses by:
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

/// Does what was asked.
pub(crate) fn policy(command: &PolicyCommand, json: bool) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(args) => check::check(args, json),
        PolicyCommand::Test(args) => test::test(args, json),
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
