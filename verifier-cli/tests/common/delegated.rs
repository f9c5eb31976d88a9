//! Runs that another kernel delegated, and runs that delegate.

use sift_spec::entry::Entry;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::SignerKey;
use sift_spec::record::{
    Body, Close, CloseReason, Delegate, Delegation, Delegator, KeyRole, Kind, Record, Status,
};
use sift_spec::types::Text;

use super::bad_runs::outcome;
use super::kernel::Kernel;
use super::{
    LOG, START_MS, Scenario, agent, bytes_hash, grant, kernel_key, millis, other_kernel_key, run_id, seq,
};

pub fn calls(n: u64) -> Amounts {
    Amounts::ZERO.with(Meter::ToolCalls, n)
}

pub fn delegation() -> Delegation {
    Delegation {
        agent: agent(),
        budget: calls(2),
        deadline: millis(START_MS + 600_000),
        depth: 1,
        depth_limit: Some(1),
        kernel: kernel_key().verifier().name().clone(),
        log: LOG.parse().unwrap(),
        parent: Delegator { agent: "airline/boss".parse().unwrap(), run: run_id(5), seq: seq(3) },
        run: run_id(1),
    }
}

pub fn signed(delegation: &Delegation, by: &SignerKey) -> String {
    by.sign_note(&delegation.text().unwrap())
}

/// A run that another kernel delegated, with this note.
pub fn child(delegation: &Delegation, note: &str) -> Scenario {
    let mut kernel = Kernel::delegated("[run]\ntool_calls = 6\ndepth = 4\n", delegation, note);
    for _ in 0..2 {
        let call = kernel.tool("lookup", b"{}");
        kernel.finish(call, Status::Ok, b"{}", None);
    }
    // Refused by what was delegated: too many calls, too deep.
    kernel.tool("lookup", b"{}");
    kernel.agent();
    let mut scenario = kernel.close();
    scenario.operator_before.push(grant(&other_kernel_key(), KeyRole::Kernel));
    scenario
}

/// A delegated run as it should be.
pub fn delegated() -> Scenario {
    child(&delegation(), &note())
}

pub fn note() -> String {
    signed(&delegation(), &other_kernel_key())
}

pub fn delegate() -> Delegate {
    let kernel = other_kernel_key().verifier().name().clone();
    Delegate { budget: calls(3), deadline: millis(START_MS + 600_000), kernel }
}

/// The close entry of the delegated run: two calls of its own, one below it.
pub fn closed(by: &SignerKey, change: impl FnOnce(&mut Record)) -> String {
    let census = [(Kind::Intent, 2), (Kind::Open, 1), (Kind::Outcome, 2)].into();
    let close = Close { below: calls(1), census, reason: CloseReason::Done, settled: calls(2) };
    let mut record = Record {
        agent: agent(),
        body: Body::Close(close.into()),
        prev: Some(bytes_hash(1)),
        run: run_id(9),
        seq: seq(5),
        time: millis(START_MS + 1500),
    };
    change(&mut record);
    String::from_utf8(Entry::sign(&record, by).unwrap().into_bytes()).unwrap()
}

/// A run that delegates, and settles with this close.
///
/// ```text
/// 0 open  1 intent agent  2 outcome  3 close
/// ```
pub fn parent(close: Option<&str>, settled: Amounts) -> Scenario {
    let mut kernel = Kernel::open("[run]\ntool_calls = 6\nagents = 2\n");
    let call = kernel.delegate(&delegate());
    kernel.finish(call, Status::Ok, b"helped", None);
    let mut scenario = kernel.close();
    let outcome = outcome(&mut scenario, 2);
    outcome.close = close.map(Text::cut);
    outcome.settled = settled;
    scenario.operator_before.push(grant(&other_kernel_key(), KeyRole::Kernel));
    scenario
}
