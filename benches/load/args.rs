//! The command line of `sift-load`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use sift_benches::reads::Ask;
use sift_spec::types::{AgentName, Hash};

/// Loads a log with signed records, or with reading, and says how it bore that.
///
/// Records are signed before the clock starts: real runs of real formats, each chained to the one before. They are sent
/// over connections that each wait for their answer, or at a rate that does not wait (--rate). Afterwards answers are
/// verified: the checkpoint's signature, and that every record of the request is in its tree. Any refusal ends it with
/// an error.
///
/// Without --url it makes a log in a scratch directory and serves it from a `sift-server` process of its own. With
/// --url it enrols kernels at that log with the operator's key, or signs with kernel keys that are granted already; what
/// it sends stays in that log for ever.
///
/// Exit codes: 0 done, 1 failed (the reason is printed), 2 wrong arguments.
#[derive(Debug, Parser)]
#[command(
    name = "sift-load",
    version,
    after_help = "Examples:
  sift-load                                       how fast it can be: batches into a log of its own
  sift-load --mode single --rate 10000            how long one record takes at 10,000 records/s
  sift-load --mode read --ask receipt --ask tile  how fast a log answers
  sift-load --url http://127.0.0.1:8190 --operator-key log/operator.key --trust log/trust.policy \\
            --pid $(pgrep sift-server)            a log that runs already
  sift-load --mode read --url http://127.0.0.1:8190 --trust log/trust.policy
                                                  reading needs no key

Times are from sending a request to having its whole answer. With --rate a request that could not be sent when it was
due, because the one before was not answered, counts from when it was due; the line \"late\" says what the generator
itself delayed."
)]
pub(crate) struct Args {
    /// What is done.
    #[arg(long, value_enum, default_value_t = Mode::Batch)]
    pub(crate) mode: Mode,
    /// Connections, each with one request under way; default 16 for batches, 64 otherwise.
    #[arg(long, value_parser = at_least_1)]
    pub(crate) connections: Option<usize>,
    /// Records a second to send, or requests to read, whether or not answers come. Without it each connection goes as
    /// fast as it is answered.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Stop after so many seconds, even if records are left; reading stops after 5 where nothing else is said.
    #[arg(long, value_parser = rate)]
    pub(crate) seconds: Option<f64>,
    /// Answers to verify afterwards, spread evenly, or "all".
    #[arg(long, default_value = "200", value_parser = samples)]
    pub(crate) verify: usize,

    /// Records to sign and send; default 200,000 in batches, 50,000 single. Reading writes so many first into a log of
    /// its own.
    #[arg(long, value_parser = at_least_1, help_heading = "Records")]
    pub(crate) records: Option<usize>,
    /// Records in a batch.
    #[arg(long, default_value_t = 256, value_parser = at_least_1, help_heading = "Records")]
    pub(crate) batch: usize,
    /// Kernels, each with a key of its own; connections take them in turn.
    #[arg(long, default_value_t = 1, value_parser = at_least_1, help_heading = "Records")]
    pub(crate) kernels: usize,
    /// Runs under way at the same time on each connection; default 8 for batches, 1 for single records.
    #[arg(long, help_heading = "Records")]
    pub(crate) runs: Option<u64>,
    /// Calls in each run; a run has two records for each, and two more.
    #[arg(long, default_value_t = 10, help_heading = "Records")]
    pub(crate) calls: u64,
    /// Give runs identifiers in no order of time, as no honest kernel does: what the log's store likes least.
    #[arg(long, help_heading = "Records")]
    pub(crate) scatter_runs: bool,

    /// What to ask for, several in turn; everything where nothing is named.
    #[arg(long, value_enum, help_heading = "Reading")]
    pub(crate) ask: Vec<Ask>,
    /// Where the random numbers start that say which entries and tiles are read.
    #[arg(long, default_value_t = 1, help_heading = "Reading")]
    pub(crate) seed: u64,

    /// Another log, http only.
    #[arg(long, help_heading = "The log")]
    pub(crate) url: Option<String>,
    /// File of that log's operator key: grants the kernels, and publishes a bundle's digest for their runs.
    #[arg(long, requires = "url", help_heading = "The log")]
    pub(crate) operator_key: Option<PathBuf>,
    /// File of the key of a kernel that is granted already, instead of --operator-key; may be given several times.
    #[arg(long, requires_all = ["url", "policy"], conflicts_with = "operator_key", help_heading = "The log")]
    pub(crate) kernel_key: Vec<PathBuf>,
    /// Digest of a bundle that is published already, for the runs of --kernel-key; base64 or hexadecimal.
    #[arg(long, value_parser = digest, help_heading = "The log")]
    pub(crate) policy: Option<Hash>,
    /// The agent that the runs are of: the kernels' keys must be granted for it.
    #[arg(long, default_value = "airline/gpt-4o", value_parser = AgentName::from_str, help_heading = "The log")]
    pub(crate) agent: AgentName,
    /// Trust file of that log. Reading does without it, and then verifies nothing.
    #[arg(long, requires = "url", help_heading = "The log")]
    pub(crate) trust: Option<PathBuf>,
    /// Process of that log, if it runs on this machine: its processor time and memory are shown.
    #[arg(long, requires = "url", help_heading = "The log")]
    pub(crate) pid: Option<u32>,
    /// Folder for the scratch directory of a log of its own; it should be on the disk that is to be measured.
    #[arg(long, conflicts_with = "url", help_heading = "The log")]
    pub(crate) dir: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Many records a request.
    Batch,
    /// One record a request, answered with its receipt.
    Single,
    /// Whatever a log can be asked for.
    Read,
}

impl Args {
    /// Connections, or the usual number.
    pub(crate) fn connections(&self) -> usize {
        self.connections.unwrap_or(if self.mode == Mode::Batch { 16 } else { 64 })
    }
}

fn at_least_1(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("a whole number, at least 1".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a number above 0".to_owned()),
    }
}

fn samples(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| "a whole number, or \"all\"".to_owned()),
    }
}

fn digest(text: &str) -> Result<Hash, String> {
    text.parse().or_else(|_| Hash::from_hex(text)).map_err(|error| error.to_string())
}
