//! Sub-agents under another kernel: what one kernel hands over, the other can use, and not more.

use std::sync::Arc;

use sift_client::{
    AgentCall, CloseReason, Delegate, DelegateError, DelegationRefused, InFlight, Kernel, ManualClock,
    ModelCall, OpenRun, OpenRunError, Payload, Peer, ProposeError, Report, Run, RunError, Verdict,
};
use sift_rules::LedgerError;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::SignerKey;
use sift_spec::record::{Body, Delegation, Refusal, Scope, SignedDelegation};
use sift_spec::types::{AgentName, RunId, UnixMillis};

use crate::harness::{House, NOW, at, kernel_key, key, last_outcome, open_run, tool};

pub(crate) const HELPER: &str = "airline/helper";

/// Kernels of several houses that know one another's keys.
pub(crate) struct Street {
    houses: Vec<(House, u8)>,
}

pub(crate) fn key_of(number: u8) -> SignerKey {
    if number == 0 { kernel_key() } else { key(&format!("acme.example/kernel/{number}"), 40 + number) }
}

pub(crate) fn peer(number: u8) -> Peer {
    Peer { key: key_of(number).verifier().clone(), agents: vec!["airline/*".parse().unwrap()] }
}

impl Street {
    async fn new(budgets: &[&str]) -> Self {
        let mut houses = Vec::new();
        for (number, budget) in budgets.iter().enumerate() {
            let mut house = House::new(budget).await;
            let others = (0..budgets.len()).filter(|other| *other != number);
            house.config.kernels = others.map(|other| peer(other as u8)).collect();
            houses.push((house, number as u8));
        }
        Self { houses }
    }

    async fn open(&self, number: usize) -> Kernel {
        let (house, key) = &self.houses[number];
        Kernel::open(house.config.clone(), key_of(*key), Arc::clone(&house.clock)).await.unwrap()
    }

    fn clock(&self, number: usize) -> &ManualClock {
        &self.houses[number].0.clock
    }
}

fn tool_calls(n: u64) -> Amounts {
    Amounts::ZERO.with(Meter::ToolCalls, n)
}

fn helper() -> AgentName {
    HELPER.parse().unwrap()
}

fn to(number: u8, budget: Amounts) -> AgentCall {
    let delegate =
        Delegate { budget, deadline: at(NOW + 60_000), kernel: key_of(number).verifier().name().clone() };
    AgentCall::new(helper(), Payload::text("help")).at(delegate)
}

async fn propose(run: &Run, call: AgentCall) -> Verdict {
    run.propose(call).await.unwrap()
}

pub(crate) async fn start(run: &Run, number: u8, budget: Amounts) -> (InFlight, String) {
    let Verdict::Permitted(permit) = propose(run, to(number, budget)).await else { panic!("not permitted") };
    let mut in_flight = permit.start().unwrap();
    let note = in_flight.delegate().await.unwrap();
    (in_flight, note)
}

/// Makes `n` calls one after the other; how many were let through.
pub(crate) async fn calls(run: &Run, n: u64) -> u64 {
    let mut made = 0;
    for call in 0..n {
        match run.propose(tool("read", &format!("{{\"n\":{call}}}"))).await.unwrap() {
            Verdict::Permitted(permit) => {
                permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
                made += 1;
            }
            Verdict::Denied(_) => {}
            Verdict::Held(held) => panic!("{held:?}"),
        }
    }
    made
}

/// Closes a run; its close entry.
async fn closed(kernel: &Kernel, run: &Run) -> String {
    run.close(CloseReason::Done).await.unwrap();
    kernel.closing(run.id()).unwrap().unwrap()
}

fn open(note: &str) -> OpenRun {
    OpenRun::delegated(helper(), note)
}

async fn refused(kernel: &Kernel, note: &str) -> DelegationRefused {
    match kernel.open_run(open(note)).await {
        Err(OpenRunError::Delegation(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// The delegation in a note, changed and signed again.
fn forge(note: &str, by: &SignerKey, change: impl FnOnce(&mut Delegation)) -> String {
    let mut delegation = SignedDelegation::parse(note).unwrap().delegation;
    change(&mut delegation);
    by.sign_note(&delegation.text().unwrap())
}

#[tokio::test]
async fn a_delegated_run_uses_what_was_held_for_it_and_is_settled_with_what_it_used() {
    let street = Street::new(&["[run]\ntool_calls = 10\ndepth = 1\n", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let (in_flight, note) = start(&run, 1, tool_calls(3)).await;
    // Held, so not there for anything else.
    assert_eq!(calls(&run, 9).await, 7);

    let child = below.open_run(open(&note)).await.unwrap();
    assert_eq!(calls(&child, 5).await, 3);
    let Verdict::Denied(denial) = child.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    let Some(Refusal::Limit(refusal)) = denial.refusal else { panic!("{denial:?}") };
    assert_eq!((refusal.scope, refusal.have, refusal.limit), (Scope::Run, 3, 3));
    let Verdict::Denied(denial) = propose(&child, AgentCall::new(helper(), Payload::text("more"))).await
    else {
        panic!()
    };
    assert!(matches!(denial.refusal, Some(Refusal::Depth(_))), "{denial:?}");
    let close = closed(&below, &child).await;

    let done = in_flight.finish(Report::ok(Payload::text("helped")).with_close(&close)).await.unwrap();
    assert_eq!((done.settled, done.overspent), (tool_calls(3).with(Meter::Agents, 1), None));
    assert_eq!(last_outcome(&above, run.id()).await.close.unwrap().as_str(), close);

    // Used less than was held: the rest is there again, once it is proven.
    let street = Street::new(&["[run]\ntool_calls = 10\n", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let (in_flight, note) = start(&run, 1, tool_calls(9)).await;
    let child = below.open_run(open(&note)).await.unwrap();
    assert_eq!(calls(&child, 2).await, 2);
    assert_eq!(calls(&run, 9).await, 1);
    let close = closed(&below, &child).await;
    in_flight.finish(Report::ok(Payload::text("helped")).with_close(&close)).await.unwrap();
    assert_eq!(calls(&run, 20).await, 7);
    assert_eq!(run.close(CloseReason::Done).await.unwrap().get(Meter::ToolCalls), 10);
}

#[tokio::test]
async fn only_the_close_of_that_run_by_that_kernel_settles_less_than_the_hold() {
    let street = Street::new(&["", "", ""]).await;
    let (above, below, other) = (street.open(0).await, street.open(1).await, street.open(2).await);
    let run = open_run(&above).await;
    let settle = async |in_flight: InFlight, report: Report| in_flight.finish(report).await.unwrap().settled;
    let (hold, report) = (tool_calls(5).with(Meter::Agents, 1), || Report::ok(Payload::text("helped")));

    let (in_flight, _) = start(&run, 1, tool_calls(5)).await;
    assert_eq!(settle(in_flight, report()).await, hold, "no close");
    // That of a run that was delegated in another call, or to another kernel.
    let (in_flight, note) = start(&run, 1, tool_calls(5)).await;
    let child = below.open_run(open(&note)).await.unwrap();
    let close = closed(&below, &child).await;
    let (second, _) = start(&run, 1, tool_calls(5)).await;
    assert_eq!(settle(second, report().with_close(&close)).await, hold, "another run");
    let (third, note) = start(&run, 2, tool_calls(5)).await;
    let record = |of: RunId, by: &SignerKey| {
        let mut record = sift_spec::entry::Entry::parse(close.clone().into_bytes()).unwrap();
        let mut changed = record.record().unwrap().clone();
        changed.run = of;
        record = sift_spec::entry::Entry::sign(&changed, by).unwrap();
        String::from_utf8(record.into_bytes()).unwrap()
    };
    let delegated = SignedDelegation::parse(&note).unwrap().delegation.run;
    let lie = record(delegated, &key_of(1));
    assert_eq!(settle(third, report().with_close(&lie)).await, hold, "another kernel");
    assert!(last_outcome(&above, run.id()).await.close.is_none(), "what does not count is not recorded");
    let (fourth, note) = start(&run, 2, tool_calls(5)).await;
    let delegated = SignedDelegation::parse(&note).unwrap().delegation.run;
    let lie = record(delegated, &key("acme.example/kernel/2", 99));
    assert_eq!(settle(fourth, report().with_close(&lie)).await, hold, "another key of that name");
    drop(other);
    // Not even one bit of it.
    for byte in (0..close.len()).step_by(37) {
        let mut bytes = close.clone().into_bytes();
        bytes[byte] ^= 1;
        let (flipped, _) = start(&run, 1, tool_calls(5)).await;
        let Ok(text) = String::from_utf8(bytes) else { continue };
        assert_eq!(settle(flipped, report().with_close(&text)).await, hold, "byte {byte}");
    }
    assert_eq!(settle(in_flight, report().with_close(&close)).await, Amounts::ZERO.with(Meter::Agents, 1));
}

#[tokio::test]
async fn a_note_opens_one_run_of_one_agent_at_one_kernel_in_time() {
    let street = Street::new(&["", "", ""]).await;
    let (above, below, other) = (street.open(0).await, street.open(1).await, street.open(2).await);
    let run = open_run(&above).await;
    let (in_flight, note) = start(&run, 1, tool_calls(2)).await;

    // Not by another kernel, not for another agent, not by a key that is not listed or of the wrong agents.
    assert!(matches!(refused(&other, &note).await, DelegationRefused::About { what: "the kernel", .. }));
    let as_other = OpenRun::delegated("airline/other".parse().unwrap(), note.as_str());
    let refusal = below.open_run(as_other).await.unwrap_err();
    assert!(refusal.to_string().contains("the agent"), "{refusal}");
    let elsewhere = forge(&note, &key_of(0), |delegation| delegation.log = "other.example".parse().unwrap());
    assert!(matches!(refused(&below, &elsewhere).await, DelegationRefused::About { what: "the log", .. }));
    let rails = forge(&note, &key_of(0), |delegation| delegation.parent.agent = "railway/a".parse().unwrap());
    assert!(matches!(refused(&below, &rails).await, DelegationRefused::Unknown { .. }));
    let stranger = key("stranger.example", 77);
    let wide = |delegation: &mut Delegation| delegation.budget = tool_calls(1_000_000);
    let by_stranger = forge(&note, &stranger, wide);
    assert!(matches!(refused(&below, &by_stranger).await, DelegationRefused::Unknown { .. }));
    let by_name = forge(&note, &key("acme.example/kernel", 98), wide);
    assert!(matches!(refused(&below, &by_name).await, DelegationRefused::Unknown { .. }));
    let two = format!("{note}{}", stranger.sign_text("x\n"));
    assert!(matches!(refused(&below, &two).await, DelegationRefused::Malformed(_)));
    // The signature of one note under the text of another: only the budget differs.
    let (text, signature) = note.rsplit_once("\n\n").unwrap();
    let widened = format!("{}\n\n{signature}", text.replace("\"tool_calls\":2", "\"tool_calls\":3"));
    assert!(matches!(refused(&below, &widened).await, DelegationRefused::Forged(_)));

    // Both parents at once is one too many.
    let call = AgentCall::new(helper(), Payload::text("help"));
    let Verdict::Permitted(permit) = propose(&open_run(&below).await, call).await else { panic!() };
    let mut here = permit.start().unwrap();
    let both = OpenRun { parent: here.child(), ..open(&note) };
    assert!(matches!(below.open_run(both).await, Err(OpenRunError::TwoParents)));

    // Once: also after its end, and after a restart.
    let child = below.open_run(open(&note)).await.unwrap();
    let again = |opened| matches!(opened, Err(OpenRunError::Ledger(LedgerError::RunExists(_))));
    assert!(again(below.open_run(open(&note)).await));
    closed(&below, &child).await;
    assert!(again(below.open_run(open(&note)).await));
    below.close().await;
    let below = street.open(1).await;
    assert!(again(below.open_run(open(&note)).await));
    in_flight.finish(Report::error("enough")).await.unwrap();

    // Not after its deadline.
    let (_in_flight, note) = start(&run, 1, tool_calls(2)).await;
    street.clock(1).advance_ms(60_001);
    assert_eq!(refused(&below, &note).await, DelegationRefused::Expired(at(NOW + 60_000)));
}

#[tokio::test]
async fn a_note_with_any_byte_changed_opens_nothing() {
    let street = Street::new(&["[run]\ndepth = 3\n", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let (_in_flight, note) = start(&run, 1, tool_calls(2)).await;
    let mut tried = 0;
    for byte in 0..note.len() {
        for flip in [1, 2, 0x20] {
            let mut bytes = note.clone().into_bytes();
            bytes[byte] ^= flip;
            // What is not text cannot be given to a kernel at all.
            let Ok(text) = String::from_utf8(bytes) else { continue };
            tried += 1;
            assert!(below.open_run(open(&text)).await.is_err(), "byte {byte}: {text}");
        }
    }
    assert!(tried > 2 * note.len(), "{tried}");
    for cut in 1..note.len() {
        if note.is_char_boundary(cut) {
            assert!(below.open_run(open(&note[..cut])).await.is_err(), "{cut}");
        }
    }
    assert!(below.store().runs().unwrap().is_empty());
    below.open_run(open(&note)).await.unwrap();
}

#[tokio::test]
async fn a_call_is_delegated_once_and_while_its_run_goes_on() {
    let street = Street::new(&["", ""]).await;
    let above = street.open(0).await;
    let run = open_run(&above).await;
    let (mut in_flight, _) = start(&run, 1, tool_calls(1)).await;
    assert_eq!(in_flight.delegate().await, Err(DelegateError::NotPermitted), "twice");
    assert!(in_flight.child().is_none(), "not here as well");
    let call = AgentCall::new(helper(), Payload::text("help"));
    let Verdict::Permitted(permit) = propose(&run, call).await else { panic!() };
    let mut here = permit.start().unwrap();
    assert_eq!(here.delegate().await, Err(DelegateError::NotPermitted), "a sub-agent of this kernel");
    // A kernel that is not listed, or whose close would not count, is given nothing.
    for (kernel, agent) in [("nobody.example", HELPER), ("acme.example/kernel/1", "railway/helper")] {
        let mut call = to(1, tool_calls(1));
        call.agent = agent.parse().unwrap();
        call.delegate.as_mut().unwrap().kernel = kernel.parse().unwrap();
        assert!(matches!(run.propose(call).await, Err(ProposeError::Call(_))), "{kernel} {agent}");
    }
    let mut late = to(1, tool_calls(1));
    late.delegate.as_mut().unwrap().deadline = at(NOW);
    assert!(matches!(run.propose(late).await, Err(ProposeError::Call(_))));
    let Verdict::Permitted(permit) = propose(&run, to(1, tool_calls(1))).await else { panic!() };
    let mut halted = permit.start().unwrap();
    run.halt("enough").await.unwrap();
    assert!(matches!(halted.delegate().await, Err(DelegateError::Stopped(_))));
}

#[tokio::test]
async fn depth_counts_across_three_kernels() {
    // The first kernel alone limits depth.
    let street = Street::new(&["[run]\ndepth = 2\n", "", ""]).await;
    let kernels = [street.open(0).await, street.open(1).await, street.open(2).await];
    let run = open_run(&kernels[0]).await;
    let agents = tool_calls(9).with(Meter::Agents, 9);
    let (_first, note) = start(&run, 1, agents).await;
    let child = kernels[1].open_run(open(&note)).await.unwrap();
    let fewer = tool_calls(3).with(Meter::Agents, 3);
    let (_second, note) = start(&child, 2, fewer).await;
    let grandchild = kernels[2].open_run(open(&note)).await.unwrap();
    for call in [to(1, Amounts::ZERO), AgentCall::new(helper(), Payload::text("deeper"))] {
        let Verdict::Denied(denial) = propose(&grandchild, call).await else { panic!() };
        let Some(Refusal::Depth(refusal)) = denial.refusal else { panic!("{denial:?}") };
        assert_eq!((refusal.have, refusal.limit), (2, 2));
    }
    assert_eq!(calls(&grandchild, 9).await, 3);
    // Nor is more delegated than is left of what was: 9 − 3 held.
    assert_eq!(calls(&child, 9).await, 6);
    let Verdict::Denied(denial) = propose(&child, to(2, tool_calls(1))).await else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Limit(limit)) if limit.meter == Meter::ToolCalls));
    let records = crate::harness::parsed(&kernels[2], grandchild.id());
    let Body::Open(open) = &records[0].body else { panic!() };
    assert_eq!((open.parent.unwrap().depth, open.limits.depth), (2, Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_children_at_once_stay_within_one_cap() {
    let street = Street::new(&["[run]\ntool_calls = 100\nagents = 200\n", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (run, below) = (run.clone(), below.clone());
            tokio::spawn(async move {
                let Verdict::Permitted(permit) = propose(&run, to(1, tool_calls(2))).await else {
                    return (0, 0);
                };
                let mut in_flight = permit.start().unwrap();
                let note = in_flight.delegate().await.unwrap();
                let child = below.open_run(open(&note)).await.unwrap();
                let four: Vec<_> = (0..4)
                    .map(|_| {
                        let child = child.clone();
                        tokio::spawn(async move { calls(&child, 1).await })
                    })
                    .collect();
                let mut made = 0;
                for call in four {
                    made += call.await.unwrap();
                }
                let close = closed(&below, &child).await;
                let report = Report::ok(Payload::text("helped")).with_close(&close);
                (1, made + in_flight.finish(report).await.unwrap().settled.get(Meter::ToolCalls) * 1000)
            })
        })
        .collect();
    let (mut children, mut used) = (0, 0);
    for task in tasks {
        let (child, made) = task.await.unwrap();
        (children, used) = (children + child, used + made);
    }
    // Each child used all that it had, and nothing is left above.
    assert_eq!((children, used), (50, 100 + 100_000));
    assert_eq!(calls(&run, 3).await, 0);
    assert_eq!(run.close(CloseReason::Done).await.unwrap().get(Meter::ToolCalls), 100);
}

#[tokio::test]
async fn what_runs_below_a_delegated_one_is_in_its_close() {
    let street = Street::new(&["", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let budget = tool_calls(5).with(Meter::Agents, 1);
    let (in_flight, note) = start(&run, 1, budget).await;
    let child = below.open_run(open(&note)).await.unwrap();
    let Verdict::Permitted(permit) = propose(&child, AgentCall::new(helper(), Payload::text("help"))).await
    else {
        panic!()
    };
    let mut here = permit.start().unwrap();
    let grandchild = below.open_run(OpenRun { parent: here.child(), ..OpenRun::of(helper()) }).await.unwrap();
    assert_eq!((calls(&grandchild, 9).await, calls(&child, 9).await), (5, 0), "one budget for both");
    here.finish(Report::ok(Payload::text("helped"))).await.unwrap();
    assert!(matches!(child.close(CloseReason::Done).await, Err(RunError::RunsBelow { .. })));
    grandchild.close(CloseReason::Done).await.unwrap();
    let close = closed(&below, &child).await;
    let done = in_flight.finish(Report::ok(Payload::text("helped")).with_close(&close)).await.unwrap();
    assert_eq!(done.settled, tool_calls(5).with(Meter::Agents, 2));
}

#[tokio::test]
async fn a_delegated_run_needs_prices_and_ends_with_its_deadline() {
    // No limit on money anywhere but in what was delegated.
    let street = Street::new(&["[run]\nwall_clock_seconds = 30\n", ""]).await;
    let (above, below) = (street.open(0).await, street.open(1).await);
    let run = open_run(&above).await;
    let budget = Amounts::ZERO.with(Meter::ModelCalls, 5).with(Meter::ToolCalls, 5);
    let (_in_flight, note) = start(&run, 1, budget).await;
    let deadline = SignedDelegation::parse(&note).unwrap().delegation.deadline;
    assert_eq!(deadline, at(NOW + 30_000), "no longer than the run above lasts");
    let child = below.open_run(open(&note)).await.unwrap();
    let model = ModelCall {
        provider: "openai".to_owned(),
        model: "unheard-of".to_owned(),
        request: b"{}".to_vec(),
        max_output: Some(1),
    };
    let Verdict::Denied(denial) = child.propose(model).await.unwrap() else { panic!() };
    assert!(matches!(denial.refusal, Some(Refusal::Unpriced(_))), "{denial:?}");
    assert_eq!(calls(&child, 1).await, 1);
    assert!(below.drain(std::time::Duration::from_secs(20)).await);
    street.clock(1).advance_ms(30_001);
    let Verdict::Denied(denial) = child.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    let Some(Refusal::WallClock(refusal)) = denial.refusal else { panic!("{denial:?}") };
    assert_eq!(refusal.limit_ms, UnixMillis::new(30_000).unwrap());
    assert!(child.stopped().is_some());
}
