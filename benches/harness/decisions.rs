//! Inputs to decide on, and ways to decide that Sift's are compared with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use sift_rules::{CallInput, PolicyBundle, RunState, Verdict};
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

/// Where recorded conversations are looked for: `SIFT_RECORDINGS`, or beside the project.
#[must_use]
pub fn recordings() -> PathBuf {
    std::env::var_os("SIFT_RECORDINGS")
        .map_or_else(|| project().join("../shared/data/tau-airline-gpt-4o.json"), PathBuf::from)
}

/// All calls of the recorded conversations, decided one after the other as a kernel would: with the counters and facts
/// of the run so far. Without recordings, a conversation of the project's own, often.
///
/// # Errors
/// When the recordings are there and are not conversations.
pub fn airline(bundle: &PolicyBundle) -> Result<Recorded, AnyError> {
    let path = recordings();
    let (conversations, source) = match std::fs::read(&path) {
        Ok(text) => (serde_json::from_slice(&text)?, format!("{}", path.display())),
        Err(_) => {
            (vec![own_conversation(); 50], "a made-up conversation, as no recordings are here".to_owned())
        }
    };
    let conversations: Vec<Value> = conversations;
    let mut decisions = Vec::new();
    for (number, conversation) in (0_u64..).zip(&conversations) {
        replay(bundle, number, conversation, &mut decisions)?;
    }
    let source = format!("{} calls in {} conversations of {source}", decisions.len(), conversations.len());
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

/// What stands in for recordings: a user is looked up, a reservation is read and cancelled.
fn own_conversation() -> Value {
    let call = |id: &str, name: &str, args: &Value| {
        json!({ "role": "assistant", "content": null, "tool_calls": [
            { "id": id, "type": "function", "function": { "name": name, "arguments": args.to_string() } }] })
    };
    let result = |id: &str, content: &Value| json!({ "role": "tool", "tool_call_id": id, "content": content.to_string() });
    json!({ "messages": [
        { "role": "system", "content": "You are an airline agent." },
        { "role": "user", "content": "Please cancel my reservation AB12CD. I am mia_li_1." },
        call("c1", "get_user_details", &json!({ "user_id": "mia_li_1" })),
        result("c1", &json!({ "user_id": "mia_li_1", "membership": "gold", "reservations": ["AB12CD"],
            "payment_methods": { "credit_card_1": { "source": "credit_card", "id": "credit_card_1" } } })),
        call("c2", "get_reservation_details", &json!({ "reservation_id": "AB12CD" })),
        result("c2", &json!({ "reservation_id": "AB12CD", "user_id": "mia_li_1", "cabin": "economy",
            "flights": [{ "flight_number": "HAT001", "date": "2024-05-20", "price": 120 }],
            "passengers": [{ "first_name": "Mia", "last_name": "Li", "dob": "1990-04-05" }],
            "created_at": "2024-05-10T09:00:00", "insurance": "no", "total_baggages": 1, "nonfree_baggages": 0 })),
        call("c3", "cancel_reservation", &json!({ "reservation_id": "AB12CD" })),
        call("c4", "transfer_to_human_agents", &json!({ "summary": "cancellation that is not covered" })),
        result("c4", &json!("Transfer successful")),
        { "role": "assistant", "content": "A colleague will help you." },
    ] })
}

/// Inputs about each tool of the generated bundle, in a run that has called a few of them.
///
/// # Errors
/// When the generated inputs are not ones.
pub fn hundred() -> Result<Vec<Vec<u8>>, AnyError> {
    let started = UnixMillis::new(STARTED)?;
    let run = RunId::from_parts(started, &[7; 10]);
    let labels = BTreeMap::from([("env".parse()?, Text::cut("production"))]);
    let mut state = RunState::new("billing/bot".parse()?, run, 0, started, labels, &[]);
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

/// Makes recorded decisions again, on all cores, until each was made `rounds` times; every verdict is compared. Gives
/// decisions a second.
///
/// # Errors
/// When a verdict differs.
pub fn replay_rate(bundle: &PolicyBundle, recorded: &[Decision], rounds: usize) -> Result<f64, AnyError> {
    let workers = std::thread::available_parallelism()?.get();
    let start = Instant::now();
    let same = std::thread::scope(|scope| {
        let worker = |number: usize| {
            move || {
                let mut decider = bundle.decider();
                let mine = || recorded.iter().skip(number).step_by(workers);
                (0..rounds).all(|_| mine().all(|one| decider.decide(&one.input) == one.verdict))
            }
        };
        let threads: Vec<_> = (0..workers).map(|number| scope.spawn(worker(number))).collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    let seconds = start.elapsed().as_secs_f64();
    if same { Ok((recorded.len() * rounds) as f64 / seconds) } else { Err("a verdict differs".into()) }
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

    #[test]
    fn the_projects_own_conversation_is_decided() {
        let bundle = PolicyBundle::compile(&rules::airline(Language::Rego).unwrap()).unwrap();
        let mut decisions = Vec::new();
        replay(&bundle, 0, &own_conversation(), &mut decisions).unwrap();
        let denied = decisions.iter().filter(|one| one.verdict.effect == Effect::Deny).count();
        assert_eq!((decisions.len(), denied), (9, 1));
    }
}
