//! The command line of `sift-server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand};
use sift_spec::types::Word;

/// The transparency log of Sift: admits signed steps of AI agents, proves them, and cannot rewrite them.
///
/// A log starts with `init`, which makes its keys and prints what others need. `serve` runs it. `operator`
/// enrols kernels and approvers and publishes policies, from wherever the operator's key is kept.
///
/// Exit codes: 0 done, 1 failed (the reason is printed), 2 wrong arguments.
#[derive(Debug, Parser)]
#[command(name = "sift-server", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new log: keys, configuration, trust file and an empty store.
    #[command(after_help = "Example:\n  sift-server init --dir mylog --origin log.example/agents")]
    Init {
        /// Folder to make it in.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the log: a host and path that you own, without scheme, spaces or '+'.
        #[arg(long)]
        origin: String,
        /// Address and port to listen on.
        #[arg(long, default_value = "127.0.0.1:8190")]
        listen: SocketAddr,
    },
    /// Run a log until SIGINT or SIGTERM. Set SIFT_LOG=debug to see more.
    Serve {
        /// Folder that `init` made.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Configuration file, where it is not sift-server.toml in that folder.
        #[arg(long, env = "SIFT_SERVER_CONFIG")]
        config: Option<PathBuf>,
        /// A checkpoint of this log that somebody else holds: a kernel, an auditor, a regulator. The log starts only
        /// if its tree extends it. May be given several times; worth giving after every restore.
        #[arg(long, value_name = "FILE")]
        seen: Vec<PathBuf>,
    },
    /// Sign a record of the operator and send it to a log.
    #[command(subcommand)]
    Operator(OperatorCommand),
}

/// Where an operator's record goes, and who signs it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Target {
    /// Address of the log.
    #[arg(long, default_value = "http://127.0.0.1:8190")]
    pub(crate) url: String,
    /// The operator's private key.
    #[arg(long)]
    pub(crate) key: PathBuf,
    /// Trust file of the log; trust.policy beside the key where it is not given.
    #[arg(long)]
    pub(crate) trust: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Let a key count from now on.
    #[command(after_help = "Examples:\n  \
        sift-server operator grant --key operator.key --vkey 'acme.example/kernel/1+…' --role kernel --agents 'airline/*'\n  \
        sift-server operator grant --key operator.key --vkey 'acme.example/ann+…' --role approver:supervisor --agents '*'")]
    Grant {
        #[command(flatten)]
        target: Target,
        /// The key, as its owner's program printed it.
        #[arg(long)]
        vkey: String,
        /// `kernel`, or `approver:ROLE`.
        #[arg(long)]
        role: KeyRoleArg,
        /// Agents it speaks for: a name, `prefix/*` or `*`. May be given several times.
        #[arg(long, required = true)]
        agents: Vec<String>,
    },
    /// End a key's life. It can never be granted again.
    Revoke {
        #[command(flatten)]
        target: Target,
        /// The key as it was granted.
        #[arg(long)]
        vkey: String,
        /// Why, in a few words, for those who read the log.
        #[arg(long)]
        reason: String,
    },
    /// Publish a policy bundle: only runs under a published bundle are admitted.
    Publish {
        #[command(flatten)]
        target: Target,
        /// The bundle's folder.
        #[arg(long)]
        bundle: PathBuf,
        /// Name for people; the folder's name where it is not given.
        #[arg(long)]
        name: Option<String>,
    },
    /// Record that a payload object may be deleted, and why. Proofs stay valid.
    Erase {
        #[command(flatten)]
        target: Target,
        /// Digest of the object in hexadecimal.
        #[arg(long)]
        digest: String,
        /// Why, in a few words, for those who read the log.
        #[arg(long)]
        reason: String,
    },
}

/// `kernel` or `approver:ROLE`.
#[derive(Debug, Clone)]
pub(crate) enum KeyRoleArg {
    Kernel,
    Approver(Word),
}

impl FromStr for KeyRoleArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kernel" => Ok(Self::Kernel),
            Some(("approver", role)) => role.parse().map(Self::Approver).map_err(|error| format!("{error}")),
            _ => Err("write \"kernel\" or \"approver:ROLE\"".to_owned()),
        }
    }
}
