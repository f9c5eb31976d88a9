//! The command line of `sift-server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as ClapArgs, FromArgMatches, Parser, Subcommand};
use sift_connect::Connect;
use sift_server::config::CONFIG_FILE;
use sift_server::fsck::Depth;
use sift_server::settings::{Kind, Override, SETTINGS, Source};
use sift_spec::types::Word;

/// The transparency log of Sift: admits signed steps of AI agents, proves them, and cannot rewrite them.
///
/// A log starts with `init`, which makes its keys and prints what others need. `serve` runs it. `operator`
/// enrols kernels and approvers and publishes policies, from wherever the operator's key is kept.
///
/// Exit codes: 0 done, 1 failed (the reason is printed), 2 wrong arguments. Of `check-config` and `fsck`: 1 when
/// something is wrong with what was checked, and 2 also when it could not be checked.
#[derive(Debug, Parser)]
#[command(name = "sift-server", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new log: keys, configuration, trust file and an empty store.
    #[command(after_help = "Example:\n  sift-server init --dir mylog --origin log.example/agents\n\n\
        Witnesses are added by hand: their lines and a quorum in trust.policy, and in sift-server.toml\n  \
        [witnesses]\n  policy = \"trust.policy\"\n\
        OPERATING.md, \"Witnesses and the published checkpoint\", tells the order.")]
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
    /// Make the log's next key, of the same origin, and print its vkey. The running log is not touched: how to change
    /// over is told in OPERATING.md, "Changing the log's key".
    #[command(after_help = "Example:\n  sift-server new-key --dir mylog --out mylog/log-2.key")]
    NewKey {
        #[command(flatten)]
        place: Place,
        /// File to write the private key to. It must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Run a log until SIGINT or SIGTERM. Set SIFT_LOG=debug to see more.
    #[command(after_help = "Examples:\n  \
        sift-server serve --dir mylog\n  \
        sift-server serve --dir mylog --listen 0.0.0.0:8190 --log-format json\n  \
        SIFT_SERVER_QUEUE_MAX=1000 sift-server serve --dir mylog\n\n\
        A flag stands above the environment, the environment above the file, the file above the default.\n\
        See what would be in force, and what is wrong with it:  sift-server check-config --dir mylog")]
    Serve {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: Settings,
        /// A checkpoint of this log that somebody else holds: a kernel, an auditor, a regulator. The log starts only
        /// if its tree extends it. May be given several times. A restored log needs the newest that anybody holds.
        #[arg(long, value_name = "FILE")]
        seen: Vec<PathBuf>,
        /// Dangerous. Start from a restored copy on your word that nobody holds a newer checkpoint: if anybody does, this
        /// log will have signed two histories, which is proof against it for ever.
        #[arg(long)]
        seen_none_newer: bool,
    },
    /// Check a configuration and everything it names, and print what would be in force.
    ///
    /// Reads keys, folders and files, and starts nothing: a log that runs is not disturbed. Every problem is told, not
    /// only the first. Exit codes: 0 it can be served, 1 it cannot, 2 wrong arguments.
    #[command(after_help = "Examples:\n  \
        sift-server check-config --dir mylog\n  \
        sift-server check-config --dir mylog --json | jq '.problems'")]
    CheckConfig {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Check a stopped log's store: every byte, hash, signature, chain and tile.
    ///
    /// Nothing is written and nothing repaired. A store that a server has open is refused: stop it, or check a backup.
    /// Exit codes: 0 nothing is wrong, 1 damage was found, 2 the store could not be checked.
    #[command(after_help = "Examples:\n  \
        sift-server fsck --dir mylog\n  \
        sift-server fsck --dir mylog --seen checkpoint-of-a-kernel --json\n  \
        sift-server fsck --dir mylog --no-signatures      faster: hashes, tiles, chains, checkpoints")]
    Fsck {
        #[command(flatten)]
        place: Place,
        /// A checkpoint of this log that somebody else holds: the store must extend it. May be given several times.
        #[arg(long, value_name = "FILE")]
        seen: Vec<PathBuf>,
        /// Leave the signatures of entries out.
        #[arg(long)]
        no_signatures: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Copy a whole log into a new folder, while it runs or not.
    ///
    /// The copy is of one commit: every record that was answered before this began is in it. It is checked, and gets its
    /// name last: a folder of that name is whole, and one that ends in .partial is not. On the log's own file system its
    /// files are hard links at first. The log's private key is left out unless it is asked for.
    #[command(after_help = "Examples:\n  \
        sift-server backup --dir mylog --to /backups/mylog-2026-01-31\n  \
        sift-server backup --dir mylog --to /backups/mylog --check signatures && rsync -a /backups/mylog/ elsewhere:mylog/")]
    Backup {
        #[command(flatten)]
        place: Place,
        /// Folder to make.
        #[arg(long)]
        to: PathBuf,
        /// Take the log's private key along. Whoever has such a backup can sign as the log.
        #[arg(long)]
        with_keys: bool,
        /// How thoroughly the copy is checked: edge (what every start checks), hashes, or signatures (as fsck does).
        #[arg(long, default_value = "edge")]
        check: DepthArg,
    },
    /// Make a log's folder from a backup, comparing every byte with the backup's manifest.
    ///
    /// The restored log does not start before it is shown the newest checkpoint that anybody else holds: a log that goes
    /// on from an old copy signs a second history. If that checkpoint is of more entries than the backup, the backup is
    /// too old to go on from; it still proves everything that it holds.
    #[command(after_help = "Example:\n  \
        sift-server restore --from /backups/mylog-2026-01-31 --dir mylog\n  \
        cp /safe/log.key mylog/\n  \
        sift-server serve --dir mylog --seen newest-checkpoint")]
    Restore {
        /// Folder that `backup` made.
        #[arg(long)]
        from: PathBuf,
        /// Folder to make.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Sign a record of the operator and send it to a log.
    #[command(subcommand)]
    Operator(OperatorCommand),
}

/// `edge`, `hashes` or `signatures`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DepthArg(pub(crate) Depth);

impl FromStr for DepthArg {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "edge" => Ok(Self(Depth::Edge)),
            "hashes" => Ok(Self(Depth::Hashes)),
            "signatures" => Ok(Self(Depth::Signatures)),
            _ => Err("write edge, hashes or signatures"),
        }
    }
}

/// Where a log lives.
#[derive(Debug, ClapArgs)]
pub(crate) struct Place {
    /// Folder that `init` made.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Configuration file, where it is not sift-server.toml in that folder.
    #[arg(long, env = "SIFT_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

impl Place {
    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.dir.join(CONFIG_FILE))
    }
}

/// Values that stand above the file: one flag and one variable for each setting, from the one list of them.
#[derive(Debug, Default)]
pub(crate) struct Settings(pub(crate) Vec<Override>);

impl ClapArgs for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        SETTINGS.iter().fold(command, |command, setting| {
            let value = match setting.kind {
                Kind::Integer => "NUMBER",
                Kind::Switch => "true|false",
                Kind::Text => "VALUE",
                Kind::Path => "PATH",
            };
            command.arg(
                Arg::new(setting.key)
                    .long(setting.flag)
                    .env(setting.variable)
                    .value_name(value)
                    .help(setting.help)
                    .help_heading("Settings, each above the configuration file")
                    .action(ArgAction::Set),
            )
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let value = matches.get_one::<String>(setting.key)?.clone();
            let source = match matches.value_source(setting.key)? {
                ValueSource::EnvVariable => Source::Environment,
                _ => Source::Flag,
            };
            Some(Override { setting, value, source })
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
    /// How the log is reached.
    #[command(flatten)]
    pub(crate) connect: Connect,
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
