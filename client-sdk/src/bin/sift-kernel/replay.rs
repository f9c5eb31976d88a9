//! `replay`: recorded conversations, as if they were happening.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sift_client::config::KernelFile;
use sift_client::recording::{self, Assistant, Conversation, MessageKind, RecordedCall};
use sift_client::{
    Answered, CloseReason, Denial, Held, Kernel, ModelCall, OpenRun, OpenRunError, Payload, Permit,
    ProposeError, Report, Run, Stop, SystemClock, ToolCall, Verdict, WaitError,
};
use sift_spec::meter::Usage;
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, Needed};
use sift_spec::types::{RunId, Seq, Word};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::args::Replay;
use crate::exit::{Failure, environment, print_json};
use crate::tally::Tally;

/// How tokens are counted where the recording does not say: one for every four bytes, rounded up.
const METHOD: &str = "utf8-bytes/4";

/// How long the end of a replay waits for the log.
const DRAIN_SECONDS_MAX: u64 = 60;

/// Most messages that are printed of one conversation.
const NOTES_MAX: usize = 3;

/// What every conversation of a replay shares.
struct Stage {
    kernel: Kernel,
    args: Replay,
    approvers: Vec<SignerKey>,
}

/// A conversation that was replayed.
struct Replayed {
    name: String,
    run: RunId,
    tally: Tally,
    /// What did not happen as recorded.
    notes: Vec<String>,
}

/// Replays all conversations and prints what became of them.
pub(crate) async fn replay(args: &Replay, json: bool) -> Result<(), Failure> {
    let mut conversations = Vec::new();
    for file in &args.files {
        conversations.extend(recording::read(file).map_err(environment)?);
    }
    conversations.truncate(args.limit.unwrap_or(usize::MAX));
    let approvers = args.approve_with.iter().map(|path| sift_client::signer::read_key(path));
    let approvers = approvers.collect::<Result<_, _>>().map_err(environment)?;
    let file = KernelFile::read(&args.dir).map_err(environment)?;
    let key = file.signer(&args.dir).map_err(environment)?;
    let mut config = file.config(&args.dir, &args.bundle).map_err(environment)?;
    config.build = concat!("sift-kernel/", env!("CARGO_PKG_VERSION"), " replay").to_owned();
    if let Some(mode) = args.mode {
        config.mode = mode.into();
    }
    let mode = config.mode;
    let kernel = Kernel::open(config, key, SystemClock).await.map_err(environment)?;

    let start = Instant::now();
    let stage = Arc::new(Stage { kernel: kernel.clone(), args: args.clone(), approvers });
    let replayed = all(&stage, conversations).await?;
    let replay_seconds = start.elapsed().as_secs_f64();
    let drained = kernel.drain(Duration::from_secs(DRAIN_SECONDS_MAX)).await;
    let seconds = start.elapsed().as_secs_f64();
    let unlogged = kernel.unlogged();
    let status = kernel.bundle_status();
    let (digest, engine) = (status.in_force, status.engine);
    drop(stage);
    kernel.close().await;

    let mut total = Tally::default();
    replayed.iter().for_each(|conversation| total.add(&conversation.tally));
    if json {
        let conversations: Vec<_> = replayed
            .iter()
            .map(|one| json!({ "recording": one.name, "run": one.run, "tally": one.tally.json(), "notes": one.notes }))
            .collect();
        print_json(&json!({
            "bundle": digest.hex(), "engine": engine, "mode": mode, "seconds": seconds,
            "replay_seconds": replay_seconds, "unlogged": unlogged,
            "total": total.json(), "conversations": conversations,
        }));
    } else {
        print(&replayed, &total);
        anstream::println!(
            "\n{} conversations in {replay_seconds:.2} s, all in the log after {seconds:.2} s. Policy {} ({engine}).",
            total.conversations,
            digest.hex(),
        );
    }
    if !total.halted.is_empty() {
        return Err(Failure::Refused(format!(
            "{} runs were halted; the first: {}",
            total.halted.len(),
            total.halted.first().map(String::as_str).unwrap_or_default()
        )));
    }
    if !drained || unlogged > 0 {
        return Err(environment(format!(
            "{unlogged} records are not in the log yet; they wait in the store"
        )));
    }
    Ok(())
}

fn print(replayed: &[Replayed], total: &Tally) {
    let bold = anstyle::Style::new().bold();
    let dim = anstyle::Style::new().dimmed();
    anstream::println!("{bold}{}{bold:#}", Tally::head());
    for one in replayed {
        anstream::println!("{}  {dim}{}{dim:#}", one.tally.row(&one.run.to_string()), one.name);
        for note in one.notes.iter().take(NOTES_MAX) {
            anstream::println!("{dim}    {note}{dim:#}");
        }
        if one.notes.len() > NOTES_MAX {
            anstream::println!("{dim}    and {} more (--json has all){dim:#}", one.notes.len() - NOTES_MAX);
        }
    }
    anstream::println!("{bold}{}{bold:#}", total.row("total"));
    anstream::println!("\n{bold}rules that denied or held{bold:#}");
    let lines = total.rule_lines();
    lines.iter().for_each(|line| anstream::println!("{line}"));
    if lines.is_empty() {
        anstream::println!("  none");
    }
}

/// Replays the conversations, several at a time, and returns them in their order.
async fn all(stage: &Arc<Stage>, conversations: Vec<Conversation>) -> Result<Vec<Replayed>, Failure> {
    let progress = if std::io::stderr().is_terminal() {
        indicatif::ProgressBar::new(conversations.len() as u64).with_style(
            indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} conversations, {eta} left")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
        )
    } else {
        indicatif::ProgressBar::hidden()
    };
    let places = Arc::new(Semaphore::new(usize::from(stage.args.jobs)));
    let mut tasks = JoinSet::new();
    for (position, conversation) in conversations.into_iter().enumerate() {
        let (stage, places) = (Arc::clone(stage), Arc::clone(&places));
        tasks.spawn(async move {
            let place = places.acquire_owned().await;
            let replayed = one(&stage, conversation).await;
            drop(place);
            (position, replayed)
        });
    }
    let mut replayed = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        let (position, conversation) = joined.map_err(environment)?;
        replayed.push((position, conversation?));
        progress.inc(1);
    }
    progress.finish_and_clear();
    replayed.sort_by_key(|(position, _)| *position);
    Ok(replayed.into_iter().map(|(_, replayed)| replayed).collect())
}

/// Replays one conversation in a run of its own.
async fn one(stage: &Stage, conversation: Conversation) -> Result<Replayed, Failure> {
    let label: Word = "recording".parse().map_err(environment)?;
    let open = OpenRun::of(stage.args.agent.clone()).label(label, &conversation.name);
    let run = stage.kernel.open_run(open).await.map_err(|error| match error {
        OpenRunError::Stopped(stop @ Stop::Halted { .. }) => Failure::Refused(stop.to_string()),
        error => environment(error),
    })?;
    let mut scene = Scene { stage, run, context: Vec::new(), tally: Tally::default(), notes: Vec::new() };
    scene.tally.conversations = 1;
    let played = scene.play(&conversation).await;
    let reason = match &played {
        Ok(true) => CloseReason::Done,
        Ok(false) | Err(_) => CloseReason::Failed,
    };
    if let Some(stop) = scene.run.stopped() {
        scene.tally.halted.push(format!("{} ({}): {stop}", scene.run.id(), conversation.name));
    }
    // A kernel that has stopped closes the run when it starts again.
    let closed = scene.run.close(reason).await;
    if scene.tally.halted.is_empty() {
        played?;
        closed.map_err(environment)?;
    }
    let Scene { run, tally, notes, .. } = scene;
    Ok(Replayed { name: conversation.name, run: run.id(), tally, notes })
}

/// A conversation under way.
struct Scene<'a> {
    stage: &'a Stage,
    run: Run,
    /// The messages so far, as the agent would have them: what was denied is missing from it.
    context: Vec<Value>,
    tally: Tally,
    notes: Vec<String>,
}

impl Scene<'_> {
    /// Plays the conversation; `false` when a model call was denied and nothing could follow.
    async fn play(&mut self, conversation: &Conversation) -> Result<bool, Failure> {
        for (position, message) in conversation.messages.iter().enumerate() {
            match &message.kind {
                MessageKind::Given => self.context.push(message.value.clone()),
                // Handed out with the call that it answers.
                MessageKind::Tool { .. } => {}
                MessageKind::Assistant(assistant) => {
                    let Some(turn) = self.model(position, assistant, &message.value).await? else {
                        return Ok(false);
                    };
                    self.context.push(message.value.clone());
                    for call in &assistant.calls {
                        self.tool(turn, call, conversation.result(position, call)).await?;
                    }
                }
            }
        }
        Ok(true)
    }

    /// A model call: proposes it, and hands out its recorded answer. Returns its seq if it was allowed.
    async fn model(
        &mut self,
        position: usize,
        assistant: &Assistant,
        answer: &Value,
    ) -> Result<Option<Seq>, Failure> {
        self.tally.model_calls += 1;
        let args = &self.stage.args;
        let model = assistant.model.clone().unwrap_or_else(|| args.model.clone());
        let max_output = self.run.bundle().budget().default_max_output();
        let request = json!({
            "max_completion_tokens": max_output, "messages": self.context, "model": model, "temperature": 0,
        });
        let request = sift_rules::json::print(&request).into_bytes();
        let response = sift_rules::json::print(answer).into_bytes();
        let tokens = |bytes: &[u8]| (bytes.len() as u64).div_ceil(4);
        let counted = || Usage { input: tokens(&request), output: tokens(&response), ..Usage::default() };
        let (method, usage) =
            assistant.usage.map_or_else(|| (METHOD, counted()), |usage| ("provider", usage));
        let call = ModelCall {
            provider: args.provider.clone(),
            model: model.clone(),
            request,
            max_output: Some(max_output),
        };
        let Some(permit) = self.permit(self.run.propose(call).await, &format!("turn {position}")).await?
        else {
            self.notes
                .push(format!("turn {position}: the model was not asked, so the conversation ends here"));
            return Ok(None);
        };
        let intent = permit.intent();
        let report = Report::ok(Payload::json(response));
        let report = report.with_model(&model, assistant.response.as_deref(), method, usage);
        self.dispatch(permit, report).await?;
        Ok(Some(intent))
    }

    /// A tool call: proposes it, and hands out its recorded result if it was allowed.
    async fn tool(&mut self, turn: Seq, call: &RecordedCall, recorded: Option<&str>) -> Result<(), Failure> {
        self.tally.tool_calls += 1;
        let proposal = ToolCall {
            name: call.name.clone(),
            id: call.id.clone(),
            args: call.arguments.clone().into_bytes(),
            proposed_by: Some(turn),
        };
        let before = self.notes.len();
        let content = match self.permit(self.run.propose(proposal).await, &call.name).await? {
            Some(permit) => {
                let report = match recorded {
                    None => Report::error("no result was recorded"),
                    // The recorded tools say so when they fail.
                    Some(result) if result.starts_with("Error") => {
                        Report::error(result).with_result(Payload::text(result))
                    }
                    Some(result) if serde_json::from_str::<Value>(result).is_ok() => {
                        Report::ok(Payload::json(result))
                    }
                    Some(result) => Report::ok(Payload::text(result)),
                };
                self.dispatch(permit, report).await?;
                recorded.unwrap_or_default().to_owned()
            }
            None => self.notes.get(before).cloned().unwrap_or_default(),
        };
        self.context.push(json!({
            "content": content, "name": call.name, "role": "tool", "tool_call_id": call.id,
        }));
        Ok(())
    }

    /// What the kernel said to a proposal; a denial leaves a note, and its recorded result is withheld.
    async fn permit(
        &mut self,
        verdict: Result<Verdict, ProposeError>,
        what: &str,
    ) -> Result<Option<Permit>, Failure> {
        match verdict.map_err(environment)? {
            Verdict::Permitted(permit) => {
                self.tally.allow(permit.reserved());
                Ok(Some(permit))
            }
            Verdict::Denied(denial) => {
                self.tally.deny(&denial);
                self.withhold(what, &denial);
                Ok(None)
            }
            Verdict::Held(held) => {
                self.tally.hold(held.policy(), held.reserved());
                let policy = held.policy().clone();
                match self.ask(held).await? {
                    Some(Answered::Permitted(permit)) => {
                        self.tally.allowed += 1;
                        self.tally.approved += 1;
                        Ok(Some(permit))
                    }
                    Some(Answered::Denied(denial)) => {
                        self.withhold(what, &denial);
                        Ok(None)
                    }
                    None => {
                        let seconds = self.stage.args.hold_seconds;
                        let unapproved = Some(format!("nobody answered within {seconds} seconds"));
                        self.withhold(what, &Denial { unapproved, ..policy });
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Asks for an approval, as the arguments say; `None` when nobody answered in time.
    async fn ask(&self, held: Held) -> Result<Option<Answered>, Failure> {
        if !self.stage.approvers.is_empty() {
            return self.approve(held).await.map(Some);
        }
        if self.stage.args.hold_seconds == 0 {
            let gave_up = held.give_up("nobody was asked: a replay without an approver").await;
            return gave_up.map(Some).map_err(environment);
        }
        match tokio::time::timeout(Duration::from_secs(self.stage.args.hold_seconds), held.wait()).await {
            Ok(answered) => answered.map(Some).map_err(environment),
            // What was waiting was dropped, which cancels the call.
            Err(_) => Ok(None),
        }
    }

    /// Approves with every key of the arguments, each in the first role in which it counts.
    async fn approve(&self, mut held: Held) -> Result<Answered, Failure> {
        let mut why = "their approvals do not suffice".to_owned();
        for key in &self.stage.approvers {
            for Needed { role, .. } in held.request().hold.approvals.clone() {
                let note = held.request().sign_as(Answer::Approve, &role, key).map_err(environment)?;
                match held.answer(&note).await {
                    Ok(answered) => return Ok(answered),
                    Err((Some(still), WaitError::More(_))) => {
                        held = still;
                        break;
                    }
                    Err((Some(still), error)) => (held, why) = (still, error.to_string()),
                    Err((None, error)) => return Err(environment(error)),
                }
            }
        }
        Err(environment(format!("--approve-with: {why}")))
    }

    fn withhold(&mut self, what: &str, denial: &Denial) {
        self.notes.push(format!("{what} (seq {}): {denial}; its recorded result is withheld", denial.intent));
    }

    async fn dispatch(&mut self, permit: Permit, report: Report) -> Result<(), Failure> {
        let done = permit.dispatch(|| async { report }).await.map_err(environment)?;
        self.tally.done(&done);
        Ok(())
    }
}
