//! Rates and queues: who is too fast is told so, and nobody else pays for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sift_client::{CloseReason, Mode, OpenRun};
use sift_server::limits::LimitsConfig;
use sift_spec::api::{BatchAnswer, BatchResult, Problem, ProblemKind};
use sift_spec::entry::Entry;
use sift_tests::{TestLog, check_log, done, new_key, tool};

use crate::kernel::Scene;

fn limits(records: u32, burst: u32) -> LimitsConfig {
    LimitsConfig {
        records_per_second_per_key: records,
        records_burst_per_key: burst,
        ..LimitsConfig::default()
    }
}

async fn limited(limits: LimitsConfig) -> TestLog {
    let mut log = TestLog::start().await;
    log.stop().await;
    log.config_mut().limits = limits;
    log.restart().await.unwrap();
    log
}

fn problems(answer: &BatchAnswer) -> Vec<&Problem> {
    let problem = |result| match result {
        &BatchResult::Index(_) => None,
        BatchResult::Problem(problem) => Some(&**problem),
    };
    answer.results.iter().filter_map(problem).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_fast_is_told_when_to_come_again() {
    let log = limited(limits(10, 20)).await;
    let (fast, slow) = (log.writer("test/fast").await, log.writer("test/slow").await);
    let entries = fast.entries(&fast.run(50));
    let answer = log.http.add_all(&entries).await.unwrap();
    let refused = problems(&answer);
    // 102 records at once: the burst, and then none of the same request, so that no record is said to break its chain.
    assert_eq!(refused.len(), 102 - 20);
    for problem in &refused {
        assert_eq!((problem.kind, problem.retry_after), (ProblemKind::RateLimited, Some(1)), "{problem:?}");
    }
    // Single records: one of so many is refused, and taken when it comes again.
    let mut told = 0;
    for _ in 0..1000 {
        let entry = fast.sign(&fast.run(0)[0]).into_bytes();
        let mut answer = log.http.add(&entry).await.unwrap();
        while answer.status == 429 {
            assert_eq!(answer.problem().kind, ProblemKind::RateLimited);
            assert_eq!(answer.headers.get("retry-after").unwrap(), "1");
            told += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = log.http.add(&entry).await.unwrap();
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        if told > 0 {
            break;
        }
    }
    assert!(told > 0);
    // Others have their own budget, the operator is not limited, and reading is not.
    let answer = log.http.add_all(&slow.entries(&slow.run(9))).await.unwrap();
    assert!(problems(&answer).is_empty(), "{answer:?}");
    log.operator().revoke(fast.key.verifier()).await;
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_uses_up_the_budget_of_another() {
    let log = limited(limits(1, 30)).await;
    let victim = log.writer("test/victim").await;
    let admitted = victim.entries(&victim.run(4));
    assert!(problems(&log.http.add_all(&admitted).await.unwrap()).is_empty());
    // A stranger claims the victim's key, by name and id, a thousand times.
    let mut forged = Vec::new();
    for record in victim.run(250) {
        let mut entry = victim.sign(&record).into_bytes();
        let position = entry.len() - 60;
        entry[position] = if entry[position] == b'A' { b'B' } else { b'A' };
        forged.push(entry);
    }
    for part in forged.chunks(100) {
        let answer = log.http.add_all(part).await.unwrap();
        let problems = problems(&answer);
        assert_eq!(problems.len(), part.len());
        assert!(problems.iter().all(|problem| problem.kind == ProblemKind::SignatureInvalid));
    }
    // And sends what the victim signed and the log published, again and again.
    for _ in 0..20 {
        assert!(problems(&log.http.add_all(&admitted).await.unwrap()).is_empty());
    }
    // Twenty records are left of the victim's thirty.
    let answer = log.http.add_all(&victim.entries(&victim.run(9))).await.unwrap();
    assert!(problems(&answer).is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_sends_what_is_nobodys_is_refused_for_a_while() {
    let config = LimitsConfig {
        failures_per_second_per_address: 10,
        failures_burst_per_address: 50,
        ..LimitsConfig::default()
    };
    let log = limited(config).await;
    let writer = log.writer("test/kernel").await;
    let stranger = new_key("test/stranger");
    let forged: Vec<Vec<u8>> =
        writer.run(60).iter().map(|record| Entry::sign(record, &stranger).unwrap().into_bytes()).collect();
    let answer = log.http.add_all(&forged).await.unwrap();
    assert!(problems(&answer).iter().all(|problem| problem.kind == ProblemKind::KeyNotGranted));
    let answer = log.http.add(b"no record at all").await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::RateLimited, "{}", answer.text());
    let wait: u64 = answer.headers.get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    println!("refused after 122 failures, for {wait} s");
    assert!((1..=61).contains(&wait));
    // Reading goes on, and so does writing after the time that was told.
    assert_eq!(log.http.get("/checkpoint").await.unwrap().status, 200);
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let end = Instant::now() + Duration::from_secs(wait + 20);
    while log.http.add(&entry).await.unwrap().status != 200 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_under_a_rate_is_late_and_not_halted() {
    let mut scene = Scene::new().await;
    scene.log.stop().await;
    scene.log.config_mut().limits = limits(20, 5);
    scene.log.restart().await.unwrap();
    let kernel = scene.kernel(Mode::Spool).await;
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    for n in 0..20 {
        tool(&run, "act", &format!("call_{n}")).await.dispatch(|| async { done() }).await.unwrap();
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(Duration::from_secs(60)).await, "everything gets there");
    kernel.close().await;
    let (checkpoint, _) = check_log(&scene.log.http, &scene.log.trust()).await;
    assert_eq!(checkpoint.head.size.get(), 2 + 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_again() {
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    log.config_mut().queue_max = 1;
    log.restart().await.unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let (mut taken, mut busy) = (0, 0);
    // 256 callers at once, until some were told that the queue is full.
    while busy == 0 {
        assert!(Instant::now() < end, "the queue never was full");
        let callers: Vec<_> = (0..256)
            .map(|_| {
                let (http, entry) = (log.http.clone(), writer.sign(&writer.run(0)[0]).into_bytes());
                tokio::spawn(async move {
                    let (mut answer, mut busy) = (http.add(&entry).await.unwrap(), 0);
                    while answer.status == 429 {
                        assert_eq!(answer.headers.get("retry-after").unwrap(), "1");
                        let problem = answer.problem();
                        assert_eq!((problem.kind, problem.retry_after), (ProblemKind::Busy, Some(1)));
                        busy += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        answer = http.add(&entry).await.unwrap();
                    }
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    busy
                })
            })
            .collect();
        for caller in callers {
            busy += caller.await.unwrap();
            taken += 1;
        }
    }
    println!("{taken} records of 256 callers at a time, {busy} times told that the queue is full");
    let (checkpoint, _) = check_log(&log.http, &log.trust()).await;
    assert_eq!(checkpoint.head.size.get(), 2 + taken);
}
