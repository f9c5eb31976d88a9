//! Arguments.

use std::path::PathBuf;

use clap::{ArgGroup, Args as Arguments, Parser, Subcommand, ValueEnum};
use sift_client::Mode;
use sift_connect::Connect;
use sift_spec::types::{AgentName, AgentScope, KeyName, RunId, Word};

use crate::policy::PolicyCommand;

/// The enforcement kernel of Sift: decides, limits and records what an AI agent does, before it does it.
///
/// A kernel lives in a directory (--dir) with its key, its configuration kernel.toml, a trust file, and its store.
#[derive(Debug, Parser)]
#[command(
    name = "sift-kernel",
    version,
    after_help = "Exit codes:
  0  done
  1  done, and a run was halted or something was refused: look at what is printed
  2  called wrongly, or a file, the store or the network does not let it work

First steps, with a log at http://127.0.0.1:8190 and its trust file:
  sift-kernel init --dir kernel --name acme.example/kernel --log http://127.0.0.1:8190 --trust log/trust.policy
  (let the operator grant the key and publish the bundle, as init says)
  sift-kernel policy check client-sdk/examples/airline/rego
  sift-kernel replay --dir kernel --bundle client-sdk/examples/airline/rego recordings.json
  sift-kernel evidence --all --dir kernel --out packs
  sift-kernel policy simulate NEW-BUNDLE --dir kernel --only-changes

SIFT_LOG=info shows what happens inside (error, warn, info, debug)."
)]
pub(crate) struct Args {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a kernel's directory: key, kernel.toml, trust file.
    Init(Init),
    /// Make a key for an approver.
    Keygen(Keygen),
    /// Feed recorded conversations through the kernel as if they were happening.
    ///
    /// Each conversation becomes a run. Each assistant turn is a model call: its request is the messages so far with model
    /// and parameters, its answer the recorded message; tokens are the recorded usage, or else one for every four bytes
    /// (method utf8-bytes/4). Each tool call is proposed as it was recorded, and its recorded result handed out only if the
    /// kernel allowed it; after a denial the conversation goes on with the recorded next turn, as if the agent had been told.
    Replay(Replay),
    /// Run the kernel as a process of its own, for agents in any language.
    ///
    /// The agent holds no key and no store: it proposes calls over a socket, one JSON object a line, and gets permits or
    /// refusals back. Run the kernel as another user than the agent, with --socket and --group, and the agent can reach
    /// nothing else. SIGTERM ends it: open calls are recorded as cancelled or unknown, open runs closed as abandoned.
    Serve(Serve),
    /// List, show, watch and answer the held calls that wait for approvals.
    ///
    /// Without a subcommand: list.
    Approvals(Approvals),
    /// Answer a held call that is named by its request file.
    Approve(Approve),
    /// Hold a key in this process and sign for a kernel in another (sift/sign@v1 on standard input and output).
    ///
    /// The kernel starts it, as kernel.toml says:
    ///
    /// signer = { command = ["sift-kernel", "signer", "--key", "/etc/sift/kernel.key"], vkey = "..." }
    ///
    /// All its memory is locked, which is more than most systems let an ordinary user lock: raise the limit with ulimit -l
    /// unlimited, or with LimitMEMLOCK=infinity in the kernel's systemd unit.
    Signer(SignerArgs),
    /// Collect the evidence of runs into packs that verify offline.
    Evidence(Evidence),
    /// List the runs of a kernel.
    Runs(InDir),
    /// Stop a run, an agent or everything in a running kernel, at once.
    ///
    /// Nothing of it starts from the moment the kernel reads this, calls under way are given up, and permits that have not
    /// started are dead; then the halt is recorded. The kernel's user (or root) may do this, over kernel.sock in its
    /// directory. A halted agent opens no run, and a kernel halted with --all does nothing, until the kernel is started
    /// again; a halted run stays halted.
    ///
    /// Exit codes: 0 halted and recorded; 1 halted and not recorded, or there was no such run; 2 no kernel runs here.
    Halt(Halt),
    /// Show a running kernel: open runs, calls under way, what the log has not got yet, what was halted.
    Status(InDir),
    /// Erase payload objects that are old or too many; says what it would erase unless --apply is given.
    ///
    /// Only objects of runs that are closed and wholly in the log are erased, those of the run that closed first first.
    /// Records, receipts and proofs stay, and verify as before. Without --days and --bytes it keeps what `[retention]` of
    /// kernel.toml says, as a running kernel does about once a minute by itself. A kernel that runs in the directory is asked
    /// to do it; its calls go on meanwhile.
    Prune(Prune),
    /// Erase payload objects of a closed run, on request.
    ///
    /// Prints what was erased, and what the operator has to record in the log. A kernel that runs in the directory is asked to
    /// do it. Proofs stay valid; evidence collected from now on withholds the objects.
    Erase(Erase),
    /// Check and test policy bundles, explain decisions, and simulate a new bundle on recorded history.
    #[command(subcommand)]
    Policy(PolicyCommand),
}

#[derive(Debug, Arguments)]
pub(crate) struct Init {
    /// Directory to make.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Name of the kernel's key, such as acme.example/kernel.
    #[arg(long)]
    pub(crate) name: KeyName,
    /// URL of the log.
    #[arg(long, value_name = "URL")]
    pub(crate) log: String,
    /// How the log is reached.
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Trust file (C2SP tlog-policy) that lists the log's key. It is copied.
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: PathBuf,
    /// Who may answer held calls; may be given several times.
    #[arg(long = "approver", value_name = "ROLE=VKEY")]
    pub(crate) approvers: Vec<String>,
    /// Agents that the kernel is to speak for, for the operator's command.
    #[arg(long, default_value = "*", value_name = "SCOPE")]
    pub(crate) agents: String,
}

#[derive(Debug, Arguments)]
pub(crate) struct Keygen {
    /// Name of the key, such as alice@acme.example.
    #[arg(long)]
    pub(crate) name: KeyName,
    /// File to make. Only its owner will be able to read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Arguments)]
pub(crate) struct InDir {
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ModeArg {
    /// Dispatch only with the log's verified receipt.
    Log,
    /// Dispatch once the intent is on this machine's disk.
    Spool,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Log => Self::Log,
            ModeArg::Spool => Self::Spool,
        }
    }
}

#[derive(Debug, Clone, Arguments)]
pub(crate) struct Replay {
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Folder of the policy bundle that decides.
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: PathBuf,
    /// Name of the agent.
    #[arg(long, default_value = "airline/gpt-4o")]
    pub(crate) agent: AgentName,
    /// What an intent needs before its call is dispatched; default as in kernel.toml.
    #[arg(long)]
    pub(crate) mode: Option<ModeArg>,
    /// Approve held calls with this key, which must be listed as approver in kernel.toml; several where calls need
    /// several approvals.
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) approve_with: Vec<PathBuf>,
    /// Wait so long for somebody to approve a held call (sift-kernel approve); then it is cancelled.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) hold_seconds: u64,
    /// Replay at most so many conversations.
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Conversations under way at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: u16,
    /// Model of recordings that name none.
    #[arg(long, default_value = "gpt-4o")]
    pub(crate) model: String,
    /// Provider of the models.
    #[arg(long, default_value = "openai")]
    pub(crate) provider: String,
    /// Recordings: JSON arrays of conversations, or of messages.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Arguments)]
#[command(group = ArgGroup::new("what").required(true).args(["run", "agent", "all"]))]
pub(crate) struct Halt {
    /// The run, as `sift-kernel status` lists it. Runs below it stop with it.
    pub(crate) run: Option<RunId>,
    /// All open runs of an agent, or of all agents below a name (airline/*), and those below them; and no new one opens.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<AgentScope>,
    /// Everything.
    #[arg(long)]
    pub(crate) all: bool,
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Why, for the record.
    #[arg(long, default_value = "halted by the operator", value_name = "TEXT")]
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Arguments)]
#[command(
    after_help = "The protocol, sift/serve@v1: one request a line, one answer a line, the same \"id\" in both. Many may be
under way at once; answers come as they are ready. BYTES is a string, or {\"base64\": \"...\"}.

  {\"id\":1, \"op\":\"open\",    \"agent\":NAME, \"labels\"?:{NAME:TEXT}, \"parent\"?:CHILD}
  {\"id\":2, \"op\":\"propose\", \"run\":RUN, \"start\"?:true, and one of
      \"tool\":  {\"name\":TEXT, \"id\":TEXT, \"args\":BYTES, \"proposed_by\"?:NUMBER}
      \"model\": {\"provider\":TEXT, \"model\":TEXT, \"request\":BYTES, \"max_output\"?:NUMBER}
      \"agent\": {\"name\":NAME, \"task\":BYTES, \"media\"?:TEXT}}
  {\"id\":3, \"op\":\"start\",   \"handle\":HANDLE}
  {\"id\":4, \"op\":\"finish\",  \"handle\":HANDLE, \"status\":\"ok\"|\"error\"|\"timeout\"|\"unknown\", \"why\"?:TEXT,
      \"result\"?:BYTES, \"media\"?:TEXT, \"model\"?:{\"served\":TEXT, \"id\"?:TEXT, \"method\":TEXT, \"usage\":
      {\"input\":N, \"output\":N, \"cache_read\":N, \"cache_write\":N, \"reasoning\":N}}}
  {\"id\":5, \"op\":\"wait\",    \"handle\":HANDLE, \"start\"?:true}      for the approver of a held call
  {\"id\":6, \"op\":\"cancel\",  \"handle\":HANDLE}                     a held or permitted call
  {\"id\":7, \"op\":\"halt\",    \"run\":RUN, \"detail\":TEXT}
  {\"id\":8, \"op\":\"watch\",   \"run\":RUN}                           answered when the run is halted, by whomever
  {\"id\":9, \"op\":\"close\",   \"run\":RUN, \"reason\"?:\"done\"|\"failed\"}
  {\"id\":10, \"op\":\"status\"}
And \"delegate\", and members of \"open\", \"agent\", \"finish\" and \"closed\", for a sub-agent that runs at another kernel.

Answers have \"is\": opened {run} | permitted {run, intent, handle, bytes, reserved, max_output?} | started {handle,
child?, and with \"start\":true what permitted has} | denied {run, intent, reason, rules, unapproved?} | held {run, intent,
handle, request, approvals: [{role, count}], deadline, rules, reasons} | finished {intent, outcome, status, settled, overspent?} |
cancelled | halted {detail} | closed {settled} | status {protocol, bundle, engine, stopped?, unlogged, runs, calls, limits} | error {kind, fault, detail}.
Run the very bytes of the permit. A handle works on its own connection only, and each step once. Whoever disconnects
leaves nothing open: its calls become cancelled (not started) or unknown (started), its runs abandoned.
Kinds of error: malformed, too_long, no_such_run, no_such_handle, wrong_state, too_many, agent_refused, refused,
outstanding, not_dispatched, not_recorded, stopped, kernel. The documentation of sift_client::serve has every detail.

A client in Python: client-sdk/examples/serve/sift_serve.py

Exit codes: 0 it was told to stop, or standard input ended; 1 the kernel was halted; 2 it could not start."
)]
#[command(group = clap::ArgGroup::new("where").required(true))]
pub(crate) struct Serve {
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Folder of the policy bundle that decides.
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: PathBuf,
    /// Serve one client on standard input and output, until it ends. It runs as the same user, so this separates
    /// languages, not privileges.
    #[arg(long, group = "where")]
    pub(crate) stdio: bool,
    /// Serve whoever connects to this Unix socket, made with mode 0600.
    #[arg(long, value_name = "PATH", group = "where")]
    pub(crate) socket: Option<PathBuf>,
    /// Let this group's members connect as well: mode 0660. A name or a number; the kernel's user must be a member.
    #[arg(long, requires = "socket", value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Open runs for these agents only, such as airline/*; may be given several times.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) agents: Vec<AgentScope>,
    /// What an intent needs before its call is dispatched; default as in kernel.toml.
    #[arg(long)]
    pub(crate) mode: Option<ModeArg>,
    /// Connections at the same time; a further one is closed at once.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) connections: usize,
    /// Open calls of one connection; a further one is refused.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) calls: usize,
    /// Open runs of one connection; a further one is refused.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub(crate) runs: usize,
    /// Longest request in bytes, at most 50331648; a longer one is passed over.
    #[arg(long, default_value_t = 4 << 20, value_name = "BYTES")]
    pub(crate) line_bytes: usize,
}

#[derive(Debug, Arguments)]
pub(crate) struct Approvals {
    /// The kernel's directory.
    #[arg(long, global = true, default_value = ".")]
    pub(crate) dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Option<ApprovalsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// List the calls that wait, with the time that is left and whose approval is missing.
    List,
    /// Show a call: exactly the bytes that will run, who has approved, and the digest that approvers sign.
    Show {
        /// The call: RUN.SEQ, or a part of it that no other call has.
        call: String,
    },
    /// Approve a call. On a terminal it asks for the first digits of the digest.
    Approve(AnswerArgs),
    /// Refuse a call: it never runs, whoever else approved it.
    Refuse(AnswerArgs),
    /// Tell of calls as they come, are approved and go.
    Watch {
        /// End after so many seconds; else when interrupted.
        #[arg(long)]
        seconds: Option<u64>,
    },
}

#[derive(Debug, Arguments)]
pub(crate) struct AnswerArgs {
    /// The call: RUN.SEQ, or a part of it that no other call has.
    pub(crate) call: String,
    /// The approver's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The role in which to answer, where the call needs approvals of several.
    #[arg(long)]
    pub(crate) role: Option<Word>,
    /// Digest of what was shown, as `approvals show` prints it, instead of a question on the terminal.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) shown: Option<String>,
}

#[derive(Debug, Arguments)]
pub(crate) struct SignerArgs {
    /// The key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Go on where the limit on locked memory does not let the key be kept out of swap.
    #[arg(long)]
    pub(crate) allow_swap: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Prune {
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Keep objects for so many days after the end of their run.
    #[arg(long)]
    pub(crate) days: Option<u64>,
    /// Keep at most so many bytes of objects.
    #[arg(long)]
    pub(crate) bytes: Option<u64>,
    /// Erase, instead of saying what would be erased.
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, Arguments)]
pub(crate) struct Erase {
    /// The run.
    pub(crate) run: RunId,
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// One object by its digest, hex or base64; all of the run without.
    #[arg(long)]
    pub(crate) digest: Option<String>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Approve {
    /// The request, as `sift-kernel approvals` lists it.
    pub(crate) request: PathBuf,
    /// The approver's key.
    #[arg(long, value_name = "FILE", required_unless_present = "show_only")]
    pub(crate) key: Option<PathBuf>,
    /// The role in which to answer, where the call needs approvals of several.
    #[arg(long)]
    pub(crate) role: Option<Word>,
    /// Refuse instead of approving.
    #[arg(long)]
    pub(crate) refuse: bool,
    /// Show the call and sign nothing.
    #[arg(long)]
    pub(crate) show_only: bool,
    /// Digest of what was shown, as --show-only prints it, instead of a question on the terminal.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) shown: Option<String>,
}

#[derive(Debug, Arguments)]
pub(crate) struct Evidence {
    /// The run.
    #[arg(required_unless_present = "all")]
    pub(crate) run: Option<RunId>,
    /// All runs of the kernel.
    #[arg(long, conflicts_with = "run")]
    pub(crate) all: bool,
    /// The kernel's directory.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// File to write, or an existing folder for `RUN.sift`; with --all a folder, made if need be.
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,
    /// Leave prompts, arguments and results out.
    #[arg(long)]
    pub(crate) withhold: bool,
}
