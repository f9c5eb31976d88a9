//! A run that one kernel delegates to another, over one log: both packs show it to whoever has the trust file alone.

use std::time::Duration;

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{
    AgentCall, Clock as _, CloseReason, Config, Delegate, Kernel, OpenRun, Payload, Peer, Run, SystemClock,
    Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::SignerKey;
use sift_spec::record::KeyRole;
use sift_spec::types::UnixMillis;
use sift_tests::{TestLog, config, done, new_key, tool};
use sift_verify::run::{Options, verify};
use sift_verify::{Gap, Verdict as Judged};

const POLICY: &str = r#"package sift

allow contains {"rule": "act"} if input.call.name == "act"

allow contains {"rule": "helper"} if {
    input.call.kind == "agent"
    input.call.delegate.budget.tool_calls <= 10
}
"#;

fn policy() -> Bundle {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    let budget = "[run]\ntool_calls = 20\nagents = 4\ndepth = 2\n";
    Bundle::new([file("policy.rego", POLICY), file("budget.toml", budget)]).unwrap()
}

/// The pack of a run, judged by somebody with the trust file and no network.
async fn judged(log: &TestLog, kernel: &Kernel, run: &Run) -> sift_verify::Report {
    assert!(kernel.drain(Duration::from_secs(20)).await);
    let client = LogClient::new(log.http.url()).unwrap();
    let pack = collect(run.id(), kernel.store(), &client, &log.trust(), Disclosure::Everything).await;
    let report = verify(&pack.unwrap().write().unwrap(), &log.trust(), &Options::default());
    assert_eq!(report.verdict(), Judged::Verified, "{:?}", report.findings());
    assert!(report.verified().iter().any(|claim| claim.what == "delegations"), "{:?}", report.verified());
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_run_and_the_run_above_it_verify() {
    let log = TestLog::start().await;
    log.operator().publish(&policy()).await.unwrap();
    let keys = [new_key("test/above"), new_key("test/below")];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for key in &keys {
        log.operator().grant(key.verifier(), KeyRole::Kernel, "test/*").await;
    }
    let peers = keys.each_ref().map(|key| Peer { key: key.verifier().clone(), agents: Vec::new() });
    let [above_key, below_key] = keys;
    let below_name = below_key.verifier().name().clone();
    let open = async |dir: &std::path::Path, peer: &Peer, key: SignerKey| {
        let config = config(dir, log.http.url(), log.trust());
        let config = Config { bundle: policy(), kernels: vec![peer.clone()], ..config };
        Kernel::open(config, key, SystemClock).await.unwrap()
    };
    let above = open(dirs[0].path(), &peers[1], above_key).await;
    let below = open(dirs[1].path(), &peers[0], below_key).await;

    let run = above.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    let ask = async |calls: u64| {
        let deadline = UnixMillis::new(SystemClock.now().get() + 600_000).unwrap();
        let budget = Amounts::ZERO.with(Meter::ToolCalls, calls);
        let delegate = Delegate { budget, deadline, kernel: below_name.clone() };
        let call = AgentCall::new("test/helper".parse().unwrap(), Payload::text("help")).at(delegate);
        run.propose(call).await.unwrap()
    };
    assert!(matches!(ask(11).await, Verdict::Denied(_)), "the policy sees what is delegated");
    let Verdict::Permitted(permit) = ask(3).await else { panic!("permitted") };
    let mut in_flight = permit.start().unwrap();
    let note = in_flight.delegate().await.unwrap();
    let helper = OpenRun::delegated("test/helper".parse().unwrap(), note);
    let child = below.open_run(helper).await.unwrap();
    for id in ["one", "two"] {
        tool(&child, "act", id).await.dispatch(|| async { done() }).await.unwrap();
    }
    child.close(CloseReason::Done).await.unwrap();
    let close = below.closing(child.id()).unwrap().unwrap();
    let settled = in_flight.finish(done().with_close(&close)).await.unwrap().settled;
    assert_eq!(settled, Amounts::ZERO.with(Meter::Agents, 1).with(Meter::ToolCalls, 2));
    run.close(CloseReason::Done).await.unwrap();

    judged(&log, &above, &run).await;
    let report = judged(&log, &below, &child).await;
    let gaps: Vec<Gap> = report.unchecked().iter().map(|gap| gap.code).collect();
    assert!(gaps.contains(&Gap::ParentUnchecked) && !gaps.contains(&Gap::DelegatorUnproven), "{gaps:?}");
    above.close().await;
    below.close().await;
}
