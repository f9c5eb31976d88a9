//! A run below another at the same kernel: what the run above refuses stands in the pack of the run below, and a stranger
//! who holds that pack alone takes it neither for a lie nor for checked.

use std::time::Duration;

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{AgentCall, CloseReason, ModelCall, OpenRun, Payload, Run, ToolCall, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::record::Refusal;
use sift_tests::{done, tool};
use sift_verify::run::{Options, verify};
use sift_verify::{Gap, Verdict as Judged};

use crate::kernel::Scene;

const POLICY: &str = r#"package sift

allow contains {"rule": "all"} if input.call.kind
"#;

fn bundle(budget: &str) -> Bundle {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
    Bundle::new([file("policy.rego", POLICY), file("budget.toml", budget)]).unwrap()
}

async fn refused(run: &Run, call: impl Into<sift_client::Proposal>) -> Refusal {
    match run.propose(call).await.unwrap() {
        Verdict::Denied(denial) => denial.refusal.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_refused_by_limits_that_only_the_run_above_has() {
    let scene = Scene::new().await;
    let strict = bundle("[run]\ntool_calls = 2\nagents = 5\ndepth = 1\nmicro_usd = 1_000_000\n");
    let soft = bundle("");
    for bundle in [&strict, &soft] {
        scene.log.operator().publish(bundle).await.unwrap();
    }
    let mut config = scene.config();
    config.bundle = strict;
    let kernel = sift_client::Kernel::open(config, scene.key(), sift_client::SystemClock).await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/above".parse().unwrap())).await.unwrap();
    let helper = || AgentCall::new("test/helper".parse().unwrap(), Payload::text("help"));
    let Verdict::Permitted(permit) = run.propose(helper()).await.unwrap() else { panic!("permitted") };
    let mut in_flight = permit.start().unwrap();
    // The run below opens under a bundle without any limit; those of the run above bind it all the same.
    kernel.load_bundle(soft).await.unwrap();
    let open = OpenRun { parent: in_flight.child(), ..OpenRun::of("test/helper".parse().unwrap()) };
    let child = kernel.open_run(open).await.unwrap();
    for id in ["one", "two"] {
        tool(&child, "act", id).await.dispatch(|| async { done() }).await.unwrap();
    }
    let three = ToolCall { name: "act".into(), id: "three".into(), args: b"{}".to_vec(), proposed_by: None };
    assert!(matches!(refused(&child, three).await, Refusal::Limit(_)));
    assert!(matches!(refused(&child, helper()).await, Refusal::Depth(_)));
    let model =
        ModelCall { provider: "p".into(), model: "m".into(), request: b"{}".to_vec(), max_output: Some(9) };
    assert!(matches!(refused(&child, model).await, Refusal::Unpriced(_)));
    child.close(CloseReason::Done).await.unwrap();
    in_flight.finish(done()).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();

    assert!(kernel.drain(Duration::from_secs(20)).await);
    let (client, trust) = (LogClient::new(scene.log.http.url()).unwrap(), scene.log.trust());
    for disclosure in [Disclosure::Everything, Disclosure::Nothing] {
        for run in [&run, &child] {
            let mut pack = collect(run.id(), kernel.store(), &client, &trust, disclosure).await.unwrap();
            for withhold in [false, true] {
                if withhold {
                    pack.bundles.clear();
                }
                let report = verify(&pack.write().unwrap(), &trust, &Options::default());
                assert_eq!(report.verdict(), Judged::Verified, "{:?}", report.findings());
                assert!(report.unchecked().iter().any(|gap| gap.code == Gap::SumUnchecked));
                let strictly = report.judged(true);
                assert_eq!(strictly.verdict(), Judged::Rejected, "what other runs used was not seen");
            }
        }
    }
    kernel.close().await;
}
