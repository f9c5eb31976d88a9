//! A run with something of everything.

use sift_spec::evidence::Pack;
use sift_spec::meter::{Meter, Usage};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::record::{Answer, KeyRole, Status};
use sift_spec::types::Text;

use crate::common::bad_runs::outcome;
use crate::common::delegated::{calls, closed, delegate};
use crate::common::kernel::{Kernel, PROPOSAL};
use crate::common::{Scenario, auditor_key, grant, key, other_kernel_key};

const BUDGET: &str = "[run]\ntool_calls = 12\nidentical_calls = 2\nmicro_usd = 1_000_000\nwall_clock_seconds = 3600\n\
    depth = 1\nagents = 2\n[model]\ndefault_max_output = 100\n";

/// A model call whose answer proposes a call, calls allowed, denied, held and approved, approved by several, held and
/// refused, refused by the budget, delegated and settled with another kernel's close, timed out.
pub(crate) fn rich() -> Scenario {
    let mut kernel = Kernel::open(BUDGET);
    let usage = Usage { input: 21, output: 8, ..Usage::default() };
    let call = kernel.model(br#"{"max_tokens":100,"messages":["please refund R1"],"model":"gpt-4o"}"#);
    kernel.finish(call, Status::Ok, PROPOSAL, Some(usage));
    kernel.proposer = Some(call);
    let call = kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.proposer = None;
    kernel.finish(call, Status::Ok, br#"{"id":"R1","paid":900}"#, None);
    let call = kernel.tool("refund", br#"{"id":"R1"}"#);
    kernel.answer(call, Answer::Approve);
    kernel.finish(call, Status::Ok, br#"{"ok":true}"#, None);
    kernel.tool("delete", br#"{"id":"U1"}"#);
    let call = kernel.tool("refund", br#"{"id":"R2"}"#);
    kernel.answer(call, Answer::Refuse);
    kernel.finish(call, Status::Cancelled, b"", None);
    let call = kernel.tool("wire", br#"{"amount":900}"#);
    kernel.answer(call, Answer::Approve);
    kernel.answer_as(call, Answer::Approve, &auditor_key(), "auditor");
    kernel.answer_as(call, Answer::Approve, &third(), "supervisor");
    kernel.finish(call, Status::Timeout, b"", None);
    kernel.beat();
    let call = kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.finish(call, Status::Ok, br#"{"id":"R1","paid":0}"#, None);
    kernel.tool("lookup", br#"{"id":"R1"}"#);
    let call = kernel.delegate(&delegate());
    let at = kernel.drafts.len();
    kernel.finish(call, Status::Ok, b"helped", None);
    let mut scenario = kernel.close();
    let settled = outcome(&mut scenario, at);
    settled.close = Some(Text::cut(&closed(&other_kernel_key(), |_| {})));
    settled.settled = calls(3).with(Meter::Agents, 1);
    let role = |word: &str| KeyRole::Approver(word.parse().unwrap());
    scenario
        .operator_before
        .extend([grant(&third(), role("supervisor")), grant(&auditor_key(), role("auditor"))]);
    scenario.operator_before.push(grant(&other_kernel_key(), KeyRole::Kernel));
    scenario
}

/// Another supervisor, whose key is nobody else's here.
fn third() -> SignerKey {
    key("acme.example/dee", KeyType::Ed25519, 41)
}

pub(crate) fn rich_pack() -> Pack {
    rich().pack()
}
