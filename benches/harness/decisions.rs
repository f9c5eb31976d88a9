//! Inputs to decide on, and ways to decide that Sift's are compared with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use sift_rules::{CallInput, FactRules, PolicyBundle, RunState, Verdict};
use sift_spec::record::{Effect, Status};
use sift_spec::types::{RunId, Seq, Text, UnixMillis};

use crate::AnyError;
use crate::records::STARTED;
use crate::rules::{TOOLS, project};

/// A decision: the exact bytes of a policy input, and what the policy said about them.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The input.
    pub input: Vec<u8>,
    /// The verdict.
    pub verdict: Verdict,
}

/// Decisions to make again, and where they come from.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The decisions.
    pub decisions: Vec<Decision>,
    /// In words.
    pub source: String,
}

/// Where recorded conversations are looked for: `SIFT_RECORDINGS`, then beside the project; in their place the few that
/// the project wrote itself.
#[must_use]
pub fn recordings() -> PathBuf {
    let beside = || project().join("../shared/data/tau-airline-gpt-4o.json");
    let path = std::env::var_os("SIFT_RECORDINGS").map_or_else(beside, PathBuf::from);
    if path.exists() { path } else { project().join("client-sdk/examples/airline/conversations.json") }
}

/// All calls of the recorded conversations, decided one after the other as a kernel would: with the counters and facts
/// of the run so far.
///
/// # Errors
/// When the recordings are not conversations.
pub fn airline(bundle: &PolicyBundle) -> Result<Recorded, AnyError> {
    let path = recordings();
    let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let conversations: Vec<Value> = serde_json::from_slice(&text)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut decisions = Vec::new();
    for (number, conversation) in (0_u64..).zip(&conversations) {
        replay(bundle, number, conversation, &mut decisions)?;
    }
    let source = format!("{} calls in {} conversations of {name}", decisions.len(), conversations.len());
    Ok(Recorded { decisions, source })
}

fn replay(
    bundle: &PolicyBundle,
    number: u64,
    conversation: &Value,
    all: &mut Vec<Decision>,
) -> Result<(), AnyError> {
    let started = UnixMillis::new(STARTED + number * 1_000_000)?;
    let run = RunId::from_parts(started, &[7; 10]);
    let agent = "airline/gpt-4o".parse()?;
    let mut state = RunState::new(agent, run, 0, started, BTreeMap::new(), bundle.facts());
    let mut decider = bundle.decider();
    let (mut seq, mut prompt_bytes) = (0, 0);
    let mut pending: BTreeMap<&str, CallInput> = BTreeMap::new();
    let messages = conversation["traj"].as_array().or(conversation["messages"].as_array());
    for message in messages.ok_or("a conversation without \"traj\" or \"messages\"")? {
        let mut proposals = Vec::new();
        if message["role"] == "assistant" {
            let (model, provider) = (Text::cut("gpt-4o"), Text::cut("openai"));
            proposals.push((
                None,
                CallInput::Model { input_tokens: prompt_bytes, max_output: 4096, model, provider },
            ));
        }
        prompt_bytes += message["content"].as_str().unwrap_or_default().len() as u64;
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let name = Text::cut(call["function"]["name"].as_str().unwrap_or_default());
            let args = call["function"]["arguments"].as_str().unwrap_or_default();
            proposals.push((call["id"].as_str(), CallInput::tool(name, args.as_bytes())));
        }
        for (id, call) in proposals {
            // An intent and an outcome for each call.
            seq += 2;
            let time = UnixMillis::new(started.get() + 500 * seq)?;
            let input = state.input(call.clone(), Seq::new(seq)?, time).to_bytes();
            let verdict = decider.decide(&input);
            state.on_intent(&call, verdict.effect);
            if let (Some(id), true) = (id, verdict.effect != Effect::Deny) {
                pending.insert(id, call);
            }
            all.push(Decision { input, verdict });
        }
        if message["role"] == "tool" {
            let result = message["content"].as_str().unwrap_or_default();
            let status = if result.starts_with("Error") { Status::Error } else { Status::Ok };
            if let Some(call) = pending.remove(message["tool_call_id"].as_str().unwrap_or_default()) {
                state.on_outcome(&call, status, result.as_bytes());
            }
        }
    }
    Ok(())
}

/// Inputs about each tool of the generated bundle, in a run that has called a few of them.
///
/// # Errors
/// When the generated inputs are not ones.
pub fn hundred() -> Result<Vec<Vec<u8>>, AnyError> {
    let started = UnixMillis::new(STARTED)?;
    let run = RunId::from_parts(started, &[7; 10]);
    let labels = BTreeMap::from([("env".parse()?, Text::cut("production"))]);
    let mut state = RunState::new("billing/bot".parse()?, run, 0, started, labels, &FactRules::default());
    let call = |number: usize| {
        let args = json!({ "account": format!("A-{number:06}"), "amount": 120, "country": "CH", "note": "monthly fee" });
        CallInput::tool(Text::cut(&format!("tool_{number:02}")), args.to_string().as_bytes())
    };
    for number in [0, 1, 2, 3, 0] {
        state.on_intent(&call(number), Effect::Allow);
    }
    let input =
        |number| Ok(state.input(call(number), Seq::new(11)?, UnixMillis::new(STARTED + 9000)?).to_bytes());
    (0..TOOLS).map(input).collect()
}

/// regorus's interpreter, as it comes: what Sift's Rego program is compared with.
pub struct Interpreter(regorus::Engine);

impl Interpreter {
    /// Loads a policy of package `sift`.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn new(policy: String) -> Result<Self, AnyError> {
        let mut engine = regorus::Engine::new();
        engine.add_policy("policy.rego".to_owned(), policy)?;
        Ok(Self(engine))
    }

    /// How many rules of each set fired: `allow`, `deny`, `hold`.
    ///
    /// # Errors
    /// When the evaluation fails.
    pub fn decide(&mut self, input: &[u8]) -> Result<[usize; 3], AnyError> {
        self.0.set_input(regorus::Value::from_json_str(std::str::from_utf8(input)?)?);
        let mut fired = [0; 3];
        for (count, set) in fired.iter_mut().zip(["allow", "deny", "hold"]) {
            *count = self.0.eval_rule(format!("data.sift.{set}"))?.as_set()?.len();
        }
        Ok(fired)
    }
}

/// Decides `rounds` times on all inputs and gives each decision's time in nanoseconds, the first round left out.
///
/// # Errors
/// When a verdict is not to permit.
pub fn time_each(
    inputs: &[Vec<u8>],
    rounds: usize,
    mut decide: impl FnMut(&[u8]) -> Result<Effect, AnyError>,
) -> Result<Vec<u64>, AnyError> {
    let mut times = Vec::with_capacity(inputs.len() * rounds);
    for round in 0..=rounds {
        for input in inputs {
            let start = Instant::now();
            let effect = decide(input)?;
            let time = start.elapsed().as_nanos() as u64;
            if effect != Effect::Allow {
                return Err(format!("{effect} where the rules allow").into());
            }
            if round > 0 {
                times.push(time);
            }
        }
    }
    Ok(times)
}

/// Decides `rounds` times on all inputs in each of some threads at once, every thread with a decider of its own. Gives
/// all decisions' times in nanoseconds, sorted, and decisions a second.
///
/// # Errors
/// When a verdict is not to permit.
pub fn time_threads(
    bundle: &PolicyBundle,
    inputs: &[Vec<u8>],
    rounds: usize,
    threads: usize,
) -> Result<(Vec<u64>, f64), AnyError> {
    let start = Instant::now();
    let times = std::thread::scope(|scope| {
        let worker = || {
            let mut decider = bundle.own_decider();
            let times = time_each(inputs, rounds, |input| Ok(decider.decide(input).effect));
            times.map_err(|error| error.to_string())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let times =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a panic".to_owned())));
        times.collect::<Result<Vec<_>, String>>()
    })?;
    let rate = (threads * (rounds + 1) * inputs.len()) as f64 / start.elapsed().as_secs_f64();
    let mut times = times.concat();
    times.sort_unstable();
    Ok((times, rate))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rules::{self, Language};

    #[test]
    fn both_languages_and_the_interpreter_allow_the_generated_calls() {
        let inputs = hundred().unwrap();
        let mut interpreter = Interpreter::new(rules::hundred(Language::Rego)).unwrap();
        for language in Language::ALL {
            let mut decider = rules::hundred_compiled(language).unwrap().decider();
            for input in &inputs {
                let verdict = decider.decide(input);
                assert_eq!(verdict.effect, Effect::Allow, "{verdict:?}");
                assert_eq!(interpreter.decide(input).unwrap(), [1, 0, 0]);
            }
        }
    }
}
