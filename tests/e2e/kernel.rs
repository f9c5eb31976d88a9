//! The kernel over a real log: honest, slow, gone, forked, rolled back.

use std::time::Duration;

use sift_client::{
    Answered, CloseReason, HaltCause, Kernel, Mode, OpenRun, ProposeError, Stop, SystemClock, ToolCall,
    Verdict,
};
use sift_spec::note::SignerKey;
use sift_spec::record::{Answer, KeyRole};
use sift_tests::{TestLog, bundle, check_log, config, done, new_key, tool};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A log, and a kernel's enrolled key and folder.
pub(crate) struct Scene {
    pub(crate) log: TestLog,
    pub(crate) dir: TempDir,
    pub(crate) seed: [u8; 32],
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let log = TestLog::start().await;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let scene = Self { log, dir: tempfile::tempdir().unwrap(), seed };
        let operator = scene.log.operator();
        operator.grant(scene.key().verifier(), KeyRole::Kernel, "test/*").await;
        operator.publish(&bundle()).await.unwrap();
        scene
    }

    pub(crate) fn key(&self) -> SignerKey {
        SignerKey::from_seed("test/kernel".parse().unwrap(), sift_spec::note::KeyType::Ed25519, &self.seed)
            .unwrap()
    }

    pub(crate) fn config(&self) -> sift_client::Config {
        let config = config(self.dir.path(), self.log.http.url(), self.log.trust());
        sift_client::Config { connect: self.log.http.connect().clone(), ..config }
    }

    pub(crate) async fn kernel(&self, mode: Mode) -> Kernel {
        let mut config = self.config();
        config.mode = mode;
        Kernel::open(config, self.key(), SystemClock).await.unwrap()
    }
}

fn agent(name: &str) -> OpenRun {
    OpenRun::of(name.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_both_modes() {
    for mode in [Mode::Spool, Mode::Log] {
        let scene = Scene::new().await;
        let kernel = scene.kernel(mode).await;
        let run = kernel.open_run(agent("test/agent")).await.unwrap();
        for n in 0..5 {
            let permit = tool(&run, "act", &format!("call_{n}")).await;
            if mode == Mode::Log {
                // The permit is there, so the intent is in the log already.
                let answer = scene.log.http.get(&format!("/v1/runs/{}", run.id())).await.unwrap();
                let answer: sift_spec::api::RunAnswer = serde_json::from_slice(&answer.body).unwrap();
                assert!(answer.summary.records > permit.intent().get());
            }
            permit.dispatch(|| async { done() }).await.unwrap();
        }
        run.close(CloseReason::Done).await.unwrap();
        assert!(kernel.drain(PATIENCE).await);
        assert_eq!(kernel.unlogged(), 0);
        kernel.close().await;
        let (checkpoint, _) = check_log(&scene.log.http, &scene.log.trust()).await;
        assert_eq!(checkpoint.head.size.get(), 2 + 1 + 10 + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_over_counters_hold_at_any_concurrency() {
    let scene = Scene::new().await;
    let kernel = scene.kernel(Mode::Spool).await;
    let run = kernel.open_run(agent("test/three")).await.unwrap();
    let calls: Vec<_> = (0..256)
        .map(|n| {
            let run = run.clone();
            tokio::spawn(async move {
                let args = format!("{{\"n\":{n}}}").into_bytes();
                let call =
                    ToolCall { name: "act".to_owned(), id: format!("call_{n}"), args, proposed_by: None };
                match run.propose(call).await.unwrap() {
                    Verdict::Permitted(permit) => {
                        permit.dispatch(|| async { done() }).await.map(|_| 1).unwrap()
                    }
                    _ => 0,
                }
            })
        })
        .collect();
    let mut permitted = 0;
    for call in calls {
        permitted += call.await.unwrap();
    }
    assert_eq!(permitted, 3, "256 callers, three acts");
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(PATIENCE).await);
    kernel.close().await;
    check_log(&scene.log.http, &scene.log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_nothing_runs_in_log_mode() {
    let mut scene = Scene::new().await;
    let kernel = scene.kernel(Mode::Log).await;
    let run = kernel.open_run(agent("test/agent")).await.unwrap();
    tool(&run, "act", "one").await.dispatch(|| async { done() }).await.unwrap();
    scene.log.stop().await;
    let call =
        ToolCall { name: "act".to_owned(), id: "two".to_owned(), args: b"{}".to_vec(), proposed_by: None };
    let answer = tokio::time::timeout(Duration::from_millis(500), run.propose(call)).await;
    assert!(answer.is_err(), "no verdict without a receipt: {answer:?}");
    kernel.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_far_behind_the_log_runs_halt_in_spool_mode() {
    let mut scene = Scene::new().await;
    scene.log.stop().await;
    let mut config = scene.config();
    config.spool.records_max = 8;
    let kernel = Kernel::open(config, scene.key(), SystemClock).await.unwrap();
    let run = kernel.open_run(agent("test/agent")).await.unwrap();
    let mut acted = 0;
    let stop = loop {
        let args = format!("{{\"n\":{acted}}}").into_bytes();
        let call = ToolCall { name: "act".to_owned(), id: "x".to_owned(), args, proposed_by: None };
        match run.propose(call).await {
            Ok(Verdict::Permitted(permit)) => match permit.dispatch(|| async { done() }).await {
                Ok(_) => acted += 1,
                Err(error) => break error.to_string(),
            },
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error.to_string(),
        }
        assert!(acted < 20, "the limit is 8 records");
    };
    assert!(stop.contains("log_behind"), "{stop}");
    assert!(acted <= 4, "{acted} calls make more than 8 records");
    // When the log is back, everything is uploaded: the halt as well.
    kernel.close().await;
    scene.log.restart().await.unwrap();
    let kernel = scene.kernel(Mode::Spool).await;
    assert!(kernel.drain(PATIENCE).await);
    kernel.close().await;
    let (_, entries) = check_log(&scene.log.http, &scene.log.trust()).await;
    let said = |word: &str| entries.iter().any(|entry| String::from_utf8_lossy(entry).contains(word));
    assert!(said("\"cause\":\"log_behind\"") && said("\"kind\":\"close\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_kernel_halts() {
    let scene = Scene::new().await;
    let kernel = scene.kernel(Mode::Spool).await;
    let run = kernel.open_run(agent("test/agent")).await.unwrap();
    tool(&run, "act", "one").await.dispatch(|| async { done() }).await.unwrap();
    assert!(kernel.drain(PATIENCE).await);
    scene.log.operator().revoke(scene.key().verifier()).await;
    // What is signed from now on is refused, and the kernel stops as soon as it hears of it.
    let end = tokio::time::Instant::now() + PATIENCE;
    let stop = loop {
        let call =
            ToolCall { name: "act".to_owned(), id: "x".to_owned(), args: b"{}".to_vec(), proposed_by: None };
        match run.propose(call).await {
            Ok(Verdict::Permitted(permit)) => drop(permit.dispatch(|| async { done() }).await),
            Ok(_) => {}
            Err(ProposeError::Stopped(stop)) => break stop,
            Err(error) => panic!("{error}"),
        }
        assert!(tokio::time::Instant::now() < end, "the kernel must hear of it");
    };
    assert!(matches!(stop, Stop::Halted { cause: HaltCause::LogRefused, .. }), "{stop}");
    kernel.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rolled_back_halts_the_kernel() {
    let mut scene = Scene::new().await;
    // A backup of the log, as it was before the kernel's first run.
    scene.log.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy(scene.log.data(), backup.path());
    scene.log.restart().await.unwrap();
    let kernel = scene.kernel(Mode::Log).await;
    let run = kernel.open_run(agent("test/agent")).await.unwrap();
    for n in 0..3 {
        tool(&run, "act", &n.to_string()).await.dispatch(|| async { done() }).await.unwrap();
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(PATIENCE).await);
    kernel.close().await;
    // The log is restored from it, and signs a smaller tree than it signed before.
    scene.log.stop().await;
    std::fs::remove_dir_all(scene.log.data()).unwrap();
    // With the high-water mark in place the log itself would refuse to start.
    std::fs::remove_file(scene.log.dir().join("data.head")).unwrap();
    copy(backup.path(), scene.log.data());
    scene.log.restart().await.unwrap();
    let kernel = scene.kernel(Mode::Log).await;
    let opened = kernel.open_run(agent("test/agent")).await;
    let said = match opened {
        Err(error) => error.to_string(),
        Ok(run) => {
            let call = ToolCall {
                name: "act".to_owned(),
                id: "x".to_owned(),
                args: b"{}".to_vec(),
                proposed_by: None,
            };
            run.propose(call).await.expect_err("nothing may run").to_string()
        }
    };
    assert!(said.contains("log_fork"), "{said}");
    // The halt takes effect at once; the heads are written behind it.
    let end = tokio::time::Instant::now() + PATIENCE;
    let fork = loop {
        if let Some(fork) = kernel.store().fork().unwrap() {
            break fork;
        }
        assert!(tokio::time::Instant::now() < end, "both heads are kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (seen, shown) = (fork.seen, fork.shown);
    kernel.close().await;
    // The two heads are proof enough for anybody.
    for head in [&seen, &shown] {
        scene.log.trust().verify(head.as_bytes()).expect("signed by the log");
    }
    assert_ne!(seen, shown);
    // The kernel does not start again over it.
    let again = Kernel::open(scene.config(), scene.key(), SystemClock).await;
    assert!(again.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_waits_for_a_signed_answer() {
    let scene = Scene::new().await;
    let approver = new_key("test/supervisor");
    let role: sift_spec::types::Word = "supervisor".parse().unwrap();
    scene.log.operator().grant(approver.verifier(), KeyRole::Approver(role.clone()), "test/*").await;
    let mut config = scene.config();
    config.approvers =
        vec![sift_client::Approver { role, key: approver.verifier().clone(), agents: Vec::new() }];
    let kernel = Kernel::open(config, scene.key(), SystemClock).await.unwrap();
    let run = kernel.open_run(agent("test/agent")).await.unwrap();
    for (answer, permitted) in [(Answer::Approve, true), (Answer::Refuse, false)] {
        let call =
            ToolCall { name: "ask".to_owned(), id: "q".to_owned(), args: b"{}".to_vec(), proposed_by: None };
        let Verdict::Held(held) = run.propose(call).await.unwrap() else { panic!("held") };
        let waiting = tokio::spawn(held.wait());
        // The approver sees the request in its folder, and puts the signed answer beside it.
        let approvals = scene.dir.path().join("approvals");
        let request = loop {
            let found = std::fs::read_dir(&approvals).unwrap().map(|item| item.unwrap().path());
            if let Some(path) =
                found.into_iter().find(|path| path.extension().is_some_and(|e| e == "request"))
            {
                break path;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let text = std::fs::read_to_string(&request).unwrap();
        let note = sift_client::approval::Request::parse(&text).unwrap().sign(answer, &approver).unwrap();
        sift_client::write_whole(&request.with_extension("answer"), note.as_bytes()).unwrap();
        match waiting.await.unwrap().unwrap() {
            Answered::Permitted(permit) => {
                assert!(permitted);
                permit.dispatch(|| async { done() }).await.unwrap();
            }
            Answered::Denied(denial) => assert!(!permitted, "{denial}"),
        }
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(PATIENCE).await);
    let log = sift_client::log::LogClient::new(scene.log.http.url()).unwrap();
    let everything = sift_client::evidence::Disclosure::Everything;
    let pack =
        sift_client::evidence::collect(run.id(), kernel.store(), &log, &scene.log.trust(), everything).await;
    let pack = pack.unwrap().write().unwrap();
    kernel.close().await;
    let report = sift_verify::run::verify(&pack, &scene.log.trust(), &sift_verify::run::Options::default());
    assert!(report.findings().is_empty(), "{:?}", report.findings());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}
