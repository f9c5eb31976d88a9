//! The operator revokes an approver while a call waits for them, over a real log: their approval does not release it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sift_client::approval::{ApprovalError, Request};
use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{
    Answered, Approver, CloseReason, Config, Held, Kernel, Mode, OpenRun, Run, SystemClock, ToolCall,
    Verdict, WaitError, write_new,
};
use sift_spec::bundle::Bundle;
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, KeyRole};
use sift_spec::types::Word;
use sift_tests::{bundle, done, new_key};

use crate::kernel::Scene;

const PATIENCE: Duration = Duration::from_secs(60);

const TWO: &str = r#"package sift

hold contains {"rule": "pay", "reason": "two must look", "role": "supervisor", "seconds": 3600, "count": 2} if {
	input.call.name == "pay"
}
"#;

fn role() -> Word {
    "supervisor".parse().unwrap()
}

/// A scene with supervisors who are granted, and a configuration that lists them.
async fn staffed(people: &[&SignerKey], bundle: Bundle) -> (Scene, Config) {
    let scene = Scene::new().await;
    for person in people {
        scene.log.operator().grant(person.verifier(), KeyRole::Approver(role()), "test/*").await;
    }
    let mut config = Config { bundle, ..scene.config() };
    config.approvers = people
        .iter()
        .map(|person| Approver { role: role(), key: person.verifier().clone(), agents: Vec::new() })
        .collect();
    (scene, config)
}

async fn open(scene: &Scene, config: &Config) -> (Kernel, Run) {
    let kernel = Kernel::open(config.clone(), scene.key(), SystemClock).await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    (kernel, run)
}

async fn hold(run: &Run, name: &str) -> Held {
    let call =
        ToolCall { name: name.to_owned(), id: "q".to_owned(), args: b"{}".to_vec(), proposed_by: None };
    match run.propose(call).await.unwrap() {
        Verdict::Held(held) => held,
        other => panic!("{other:?}"),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Revokes a key and waits until the kernel knows.
async fn revoke(scene: &Scene, kernel: &Kernel, key: &SignerKey) {
    scene.log.operator().revoke(key.verifier()).await;
    let name = key.verifier().name();
    until("the kernel knows", || kernel.status().operator.revoked.contains(name)).await;
}

/// Puts an answer where the kernel looks for it.
fn answer(dir: &Path, asked: &Request, by: &SignerKey) -> PathBuf {
    let path = asked.answer_path(&dir.join("approvals"), 1);
    write_new(&path, asked.sign(Answer::Approve, by).unwrap().as_bytes()).unwrap();
    path
}

/// The revoked one's answer is put aside and the call waits on; the other's releases it.
async fn only_the_other_releases(scene: &Scene, held: Held, revoked: &SignerKey, other: &SignerKey) {
    let (asked, dir) = (held.request().clone(), scene.dir.path());
    let waiting = tokio::spawn(held.wait());
    let path = answer(dir, &asked, revoked);
    until("it is put aside", || path.with_extension("rejected").exists()).await;
    assert!(!waiting.is_finished());
    answer(dir, &asked, other);
    let Answered::Permitted(permit) = waiting.await.unwrap().unwrap() else { panic!("not released") };
    permit.dispatch(|| async { done() }).await.unwrap();
}

/// What somebody with the trust file alone finds in the pack of a run.
async fn found(scene: &Scene, kernel: &Kernel, run: &Run) -> Vec<sift_verify::Finding> {
    assert!(kernel.drain(PATIENCE).await);
    let client = LogClient::new(scene.log.http.url()).unwrap();
    let pack = collect(run.id(), kernel.store(), &client, &scene.log.trust(), Disclosure::Everything).await;
    let pack = pack.unwrap().write().unwrap();
    let report = sift_verify::run::verify(&pack, &scene.log.trust(), &sift_verify::run::Options::default());
    report.findings().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_approver_releases_nothing_in_either_mode() {
    for mode in [Mode::Spool, Mode::Log] {
        let (ann, bob) = (new_key("test/ann"), new_key("test/bob"));
        let (scene, mut config) = staffed(&[&ann, &bob], bundle()).await;
        config.mode = mode;
        let (kernel, run) = open(&scene, &config).await;
        let held = hold(&run, "ask").await;
        revoke(&scene, &kernel, &ann).await;
        only_the_other_releases(&scene, held, &ann, &bob).await;
        run.close(CloseReason::Done).await.unwrap();
        assert!(found(&scene, &kernel, &run).await.is_empty());
        kernel.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_log_forgets_nothing() {
    let (ann, bob) = (new_key("test/ann"), new_key("test/bob"));
    let (mut scene, config) = staffed(&[&ann, &bob], bundle()).await;
    let (kernel, run) = open(&scene, &config).await;
    let held = hold(&run, "ask").await;
    revoke(&scene, &kernel, &ann).await;
    kernel.close().await;
    drop(held);
    scene.log.stop().await;
    let (kernel, run) = open(&scene, &config).await;
    until("the log is missed", || kernel.status().operator.trouble.is_some()).await;
    let held = hold(&run, "ask").await;
    let note = held.request().sign(Answer::Approve, &ann).unwrap();
    let Err((Some(held), WaitError::Statement(error))) = held.answer(&note).await else {
        panic!("it counted")
    };
    assert!(matches!(error, ApprovalError::Revoked { .. }), "{error}");
    only_the_other_releases(&scene, held, &ann, &bob).await;
    run.close(CloseReason::Done).await.unwrap();
    kernel.close().await;
    // The log is back, at another address, and the operator goes on: the kernel as well.
    scene.log.restart().await.unwrap();
    let config = Config { log_url: scene.config().log_url, ..config };
    let kernel = Kernel::open(config, scene.key(), SystemClock).await.unwrap();
    revoke(&scene, &kernel, &bob).await;
    until("no trouble", || kernel.status().operator.trouble.is_none()).await;
    assert!(found(&scene, &kernel, &run).await.is_empty());
    kernel.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_counted_before_the_revocation_releases_nothing_after_it() {
    let (ann, bob, cid) = (new_key("test/ann"), new_key("test/bob"), new_key("test/cid"));
    let budget = ("budget.toml".to_owned(), b"[run]\ntool_calls = 1\n".to_vec());
    let two = Bundle::new([("policy.rego".to_owned(), TWO.as_bytes().to_vec()), budget]).unwrap();
    let (scene, config) = staffed(&[&ann, &bob, &cid], two.clone()).await;
    scene.log.operator().publish(&two).await.unwrap();
    let (kernel, run) = open(&scene, &config).await;
    let held = hold(&run, "pay").await;
    let note = held.request().sign(Answer::Approve, &ann).unwrap();
    let Err((Some(held), WaitError::More(_))) = held.answer(&note).await else { panic!("it needs two") };
    // It stands in the log, before the revocation: an auditor counts it.
    assert!(kernel.drain(PATIENCE).await);
    revoke(&scene, &kernel, &ann).await;
    let Answered::Denied(denial) = held.wait().await.unwrap() else { panic!("released") };
    assert!(denial.unapproved.unwrap().contains("test/ann approved"));
    // Its hold is free, and the call that is proposed again needs two others.
    let held = hold(&run, "pay").await;
    let note = held.request().sign(Answer::Approve, &bob).unwrap();
    let Err((Some(held), WaitError::More(_))) = held.answer(&note).await else { panic!("it needs two") };
    let note = held.request().sign(Answer::Approve, &cid).unwrap();
    let Ok(Answered::Permitted(permit)) = held.answer(&note).await else { panic!("two approved") };
    permit.dispatch(|| async { done() }).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    assert!(found(&scene, &kernel, &run).await.is_empty());
    kernel.close().await;
}
