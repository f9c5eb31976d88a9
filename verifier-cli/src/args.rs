//! The command line: verbs, options, and a help that teaches.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use sift_connect::Connect;
use sift_spec::types::KeyName;

use crate::explain;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Checks what Sift recorded about AI agents, without trusting whoever shows it to you.
///
/// Evidence is checked against a trust file: the keys of the log, its witnesses and its operator, which you got
/// from someone else than the evidence. Nothing here uses a network, unless you give a URL.
#[derive(Debug, Parser)]
#[command(version, styles = STYLES, max_term_width = 100, after_help = "\
Exit codes:
  0  verified
  1  evidence rejected
  2  could not check: a file is missing, the trust file is unusable, the network fails

A file that is named - is read from standard input; there can be one.

A trust file is a C2SP tlog-policy file with one line of Sift's own:
  log log.example+5d7c1a2f+AW...          the log's key, named like its origin
  #sift:operator ops.example+0f3e9b77+AX...  the key that grants all other keys
  quorum none                             or witnesses, and how many must vouch

Examples:
  sift-verify run --trust trust.txt 0193a6c4-....sift
  sift-verify proof --trust trust.txt --entry 17.note --receipt 17.tlog-proof
  sift-verify replay --trust trust.txt --bundle new-policy packs/
  sift-verify log --trust trust.txt ./mirror
  sift-verify consistency --trust trust.txt monday.checkpoint friday.checkpoint --log ./mirror
  sift-verify diff --trust trust.txt mine.sift theirs.sift
  sift-verify explain chain-fork")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What all verbs share.
#[derive(Debug, Args)]
pub struct Common {
    /// Trust file: whom to believe
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
    /// Print the report as one line of JSON for each subject
    #[arg(long)]
    pub json: bool,
    /// Print nothing but findings and errors; the exit code says the rest
    #[arg(long, short)]
    pub quiet: bool,
    /// Reject evidence of which anything could not be checked
    #[arg(long)]
    pub strict: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Checks evidence.
    #[command(flatten)]
    Check(Check),
    /// Checks a log for as long as it lives.
    #[command(flatten)]
    Watch(Watch),
    /// Says how that is done.
    #[command(flatten)]
    Teach(Teach),
}

/// Verbs that check evidence.
#[derive(Debug, Subcommand)]
pub enum Check {
    /// One entry and its receipt: is it in the log?
    ///
    /// Checks that the log committed to exactly these bytes. An operator's signature is checked too; whether a
    /// kernel's key counts cannot be told from a receipt alone: check the run's pack for that.
    #[command(after_help = "\
Example:
  sift-verify proof --trust trust.txt --entry 17.note --receipt 17.tlog-proof")]
    Proof {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// The entry: its exact bytes
        #[arg(long, value_name = "FILE")]
        entry: PathBuf,
        /// The receipt: a C2SP .tlog-proof
        #[arg(long, value_name = "FILE")]
        receipt: PathBuf,
    },
    /// A run, from its evidence pack: did the agent do what is recorded, and only what was allowed?
    ///
    /// Checks inclusion, keys, signatures and the chain; matches payloads with their commitments; makes every policy
    /// decision again about an input that is derived again; checks approvals; adds every sum again.
    #[command(after_help = "\
Examples:
  sift-verify run --trust trust.txt 0193a6c4-....sift
  sift-verify run --trust trust.txt --json *.sift > reports.jsonl
  curl -s https://log.example/v1/runs/0193a6c4-.../evidence | sift-verify run --trust trust.txt -
  sift-verify run --trust trust.txt --open running.sift   a run that has not ended yet
  sift-verify run --trust trust.txt --html run.html 0193a6c4-....sift
  sift-verify run --trust trust.txt --html pages *.sift   a page for each, and no network needed to read it")]
    Run {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// Accept a run that is still in progress: without its close, and with calls under way
        #[arg(long)]
        open: bool,
        /// Write a page for people: everything found, the spend, and every record; a directory for several packs
        #[arg(long, value_name = "FILE|DIR")]
        html: Option<PathBuf>,
        /// Evidence packs
        #[arg(value_name = "PACK", required = true)]
        packs: Vec<PathBuf>,
    },
    /// Every decision, made again: as the recorded policy says, or what another one would change
    ///
    /// Each pack is verified first, as `run` does; one that is not is not replayed. Then every recorded call is decided
    /// again. Without --bundle that is by the policy that its run names, on the recorded inputs: what a verified pack
    /// holds comes out as recorded, and is counted by rule.
    ///
    /// With --bundle each call is decided by that policy instead, in Rego or Cedar, on what had been recorded before it:
    /// the counters of its run, the arguments, and the results that the new facts.toml remembers. Limits are those of the
    /// new budget.toml at the prices of the new prices.toml, for each run alone: a limit over several runs is met later
    /// here than it would have been, and a call that one refused is not decided again. What a delegation set besides is
    /// not known here. After a call that changes, the rest of its run is what happened without the change.
    ///
    /// Nothing is guessed: a call whose arguments, or whose remembered results, are withheld or erased is counted as not
    /// made again; with --strict such a pack is rejected. A log's mirror holds no payloads, so only packs can be replayed.
    #[command(after_help = "\
Exit codes:
  0  every pack is verified and replayed, whatever the other policy would change
  1  a pack is not verified; or, with --fail-on-change, a call changes or could not be decided again
  2  could not check: a pack cannot be read, the bundle does not compile

Examples:
  sift-verify replay --trust trust.txt packs/                   every decision of a folder of packs
  sift-verify replay --trust trust.txt --bundle new-policy --only-changes packs/
  sift-verify replay --trust trust.txt --bundle new-policy --fail-on-change -q *.sift
  sift-verify replay --trust trust.txt --bundle new-policy --json packs/ | jq 'select(.change == \"effect\")'")]
    Replay {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// Decide under this policy instead of the recorded one: a folder as the operator publishes it
        #[arg(long, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// Print only calls that would be decided differently, or could not be decided again
        #[arg(long)]
        only_changes: bool,
        /// Exit with 1 where a call would be decided differently or could not be decided again
        #[arg(long, requires = "bundle")]
        fail_on_change: bool,
        /// Accept runs that are still in progress: without their close, and with calls under way
        #[arg(long)]
        open: bool,
        /// Worker threads; all cores when absent
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
        /// Evidence packs, and folders of them: their files *.sift, by name
        #[arg(value_name = "PACK|DIR", required = true)]
        packs: Vec<PathBuf>,
    },
    /// A whole log: is every entry, tile and signature what it must be?
    ///
    /// Hashes every entry again, computes every tile and the root, checks every signature against the keys in force
    /// at its index, and every run's chain.
    #[command(after_help = "\
Examples:
  sift-verify log --trust trust.txt ./mirror
  sift-verify log --trust trust.txt https://log.example/
  sift-verify log --trust trust.txt --checkpoint old.checkpoint ./mirror")]
    Log {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// Check up to this checkpoint instead of the one that the log serves
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Worker threads; all cores when absent
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
        /// How a URL is reached.
        #[command(flatten)]
        connect: Connect,
        /// Directory or URL that holds `checkpoint` and `tile/` (C2SP tlog-tiles)
        #[arg(value_name = "DIR|URL")]
        log: String,
    },
    /// Two checkpoints of one log: does one extend the other, or did the log show two histories?
    #[command(after_help = "\
Examples:
  sift-verify consistency --trust trust.txt mine.checkpoint theirs.checkpoint --log ./mirror
  sift-verify consistency --trust trust.txt old.checkpoint new.checkpoint --proof old-new.proof")]
    Consistency {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// One checkpoint
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The other
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// A consistency proof: one hash in base64 on each line
        #[arg(long, value_name = "FILE", conflicts_with = "log")]
        proof: Option<PathBuf>,
        /// How a URL is reached.
        #[command(flatten)]
        connect: Connect,
        /// A log to make the proof from
        #[arg(long, value_name = "DIR|URL")]
        log: Option<String>,
    },
    /// Two packs of one run, or two mirrors of one log: are they the same, and if not, who said two things?
    ///
    /// Each is verified on its own first. Two packs are compared record by record: two different records for one place of
    /// the run, both signed by its kernel, prove that the kernel told two stories; two different entries at one index,
    /// both proven, prove it of the log. Of two mirrors the heads are compared, and where neither extends the other, the
    /// first entry that differs is found through the tiles, of which a few dozen are read. A mirror whose tiles do not give
    /// its own root is damaged, and proves nothing about the log.
    ///
    /// What only one of the two holds is no contradiction: an earlier copy ends earlier, and payloads may be withheld. It
    /// is listed, and with --strict rejected.
    #[command(after_help = "\
Exit codes:
  0  nothing contradicts; one may be an earlier or a shorter copy of the other
  1  they contradict each other, or one is rejected on its own; with --strict, anything is only in one
  2  could not check: two runs, two logs, a pack and a log, or something cannot be read

Examples:
  sift-verify diff --trust trust.txt from-kernel.sift from-log.sift
  sift-verify diff --trust trust.txt --log ./mirror monday.sift friday.sift    heads compared as well
  sift-verify diff --trust trust.txt ./my-mirror https://log.example/
  sift-verify diff --trust trust.txt --full ./my-mirror ./their-mirror         every entry of both checked")]
    Diff {
        /// Common options.
        #[command(flatten)]
        common: Common,
        /// Accept runs that are still in progress: without their close, and with calls under way
        #[arg(long)]
        open: bool,
        /// Of two packs: a log to prove by that the head of one extends that of the other
        #[arg(long, value_name = "DIR|URL")]
        log: Option<String>,
        /// Of two mirrors: verify each as `log` does, and list every entry that differs
        #[arg(long)]
        full: bool,
        /// Worker threads for --full; all cores when absent
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
        /// How a URL is reached.
        #[command(flatten)]
        connect: Connect,
        /// An evidence pack; or a directory or URL that holds `checkpoint` and `tile/`
        #[arg(value_name = "A")]
        first: String,
        /// The other
        #[arg(value_name = "B")]
        second: String,
    },
}

/// Verbs that watch.
#[derive(Debug, Subcommand)]
pub enum Watch {
    /// A log over time: does every head extend the last, in time, and for everybody?
    ///
    /// Takes the log's heads by polling, and from its feed where it has one; proves from the log's own tiles that each extends the largest seen before, and
    /// remembers all of them for good in a directory. Two heads of which neither extends the other are kept as evidence
    /// that anybody can check. A head that is smaller than one before is a finding of its own: it may come from a cache.
    /// The age of a head is counted from when it was first seen here, or from the newest time at which a witness of the
    /// trust file cosigned it, whichever is later.
    ///
    /// With a key it is a witness (C2SP tlog-witness) for all logs of the trust file, too: it cosigns what it is sent with a
    /// proof, and what it sees itself, and never what does not extend all that was seen by either way.
    ///
    /// A finding does not end it. SIGTERM and SIGINT do: with exit code 1 where two histories were ever proven, 2 where this
    /// witness was found to have forgotten what it signed, else 0.
    /// With --once it asks once, and the exit code says what was found.
    #[command(after_help = "\
Examples:
  sift-verify follow --trust trust.txt --log https://log.example/ --dir /var/lib/sift-follow
  sift-verify follow --trust trust.txt --dir ~/watch --mirror --once   for cron
  sift-verify log --trust trust.txt ~/watch/mirror
  sift-verify follow --trust trust.txt --log https://log.example/ --dir /var/lib/sift-follow \\
      --witness-key witness.key --listen 127.0.0.1:7380   cosigning as well")]
    Follow(Box<Follow>),
    /// A key for a witness: makes the file and prints the public half
    #[command(after_help = "\
Example:
  sift-verify witness-key --name regulator.example/witness --out witness.key")]
    WitnessKey {
        /// Name of the key: a URL without scheme is customary
        #[arg(long)]
        name: KeyName,
        /// File to make; only its owner will be able to read it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// How a log is followed.
#[derive(Debug, Args)]
pub struct Follow {
    /// Trust file: whom to believe
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
    /// Directory or URL of the log; without it, the URL in the trust file
    #[arg(long, value_name = "DIR|URL")]
    pub log: Option<String>,
    /// Directory for what was seen; made when it is not there, and never to be copied back from a backup
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Seconds between two polls
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
    /// Seconds after which a head that neither grows nor is cosigned again is a finding; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    pub stale: u64,
    /// Seconds without a byte after which a log is given up until the next poll
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub patience: u64,
    /// Do not listen to the log's feed, where it has one: poll alone
    #[arg(long)]
    pub no_feed: bool,
    /// Hold a full copy of the log in DIR/mirror, every byte proven, for `sift-verify log` to audit
    #[arg(long)]
    pub mirror: bool,
    /// Ask once and end, for cron
    #[arg(long)]
    pub once: bool,
    /// Cosign with this key, made by `sift-verify witness-key`
    #[arg(long, value_name = "FILE", requires = "listen", conflicts_with = "once")]
    pub witness_key: Option<PathBuf>,
    /// Take checkpoints to cosign at this address, over HTTP; TLS is for a proxy in front of it
    #[arg(long, value_name = "IP:PORT", requires = "witness_key")]
    pub listen: Option<SocketAddr>,
    /// Print each event as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but findings and what could not be checked
    #[arg(long, short)]
    pub quiet: bool,
    /// How a URL is reached.
    #[command(flatten)]
    pub connect: Connect,
}

/// Verbs that need no evidence.
#[derive(Debug, Subcommand)]
pub enum Teach {
    /// What a code means, what could cause it innocently, and what it would take to forge
    ///
    /// Every finding and everything left unchecked has a stable code. Without a code, all of them are explained.
    #[command(after_help = "\
Examples:
  sift-verify explain chain-fork
  sift-verify explain --json > codes.jsonl")]
    Explain {
        /// Print one line of JSON for each code
        #[arg(long)]
        json: bool,
        /// The code, as a report prints it
        #[arg(value_name = "CODE", value_parser = PossibleValuesParser::new(explain::all().map(|one| one.code)),
              hide_possible_values = true)]
        code: Option<String>,
    },
    /// The JSON Schema (2020-12) of every line that `--json` prints
    ///
    /// Members of objects are listed in the order in which they are printed. No line has other members.
    #[command(after_help = "\
Example:
  sift-verify schema > sift-verify.schema.json")]
    Schema,
    /// Completions for a shell, on standard output
    #[command(after_help = "\
Example:
  sift-verify completions bash > ~/.local/share/bash-completion/completions/sift-verify")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Manual pages: that of the program on standard output, or one for each verb into a directory
    #[command(after_help = "\
Examples:
  sift-verify man | man -l -
  sift-verify man ~/.local/share/man/man1")]
    Man {
        /// Directory to write them into
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Check {
    /// What all verbs that check evidence share.
    #[must_use]
    pub const fn common(&self) -> &Common {
        match self {
            Self::Proof { common, .. }
            | Self::Run { common, .. }
            | Self::Replay { common, .. }
            | Self::Log { common, .. }
            | Self::Consistency { common, .. }
            | Self::Diff { common, .. } => common,
        }
    }
}
