//! Capability tokens: good for one exact call, once, soon, and never for more than they were made for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sift_client::capability::{
    CapabilityError, FileSpent, MemorySpent, Narrower, Spent, TOKEN_BYTES_MAX, TTL_DEFAULT, TTL_MAX,
    VOUCHED_MS, Verifier, attenuate,
};
use sift_client::{InFlight, Kernel, Payload, Report, Run, Verdict};
use sift_spec::note::VerifierKey;
use sift_spec::record::{Body, Status};
use sift_spec::types::{Hash, UnixMillis};

use crate::harness::{
    House, NOW, at, eventually, kernel_key, key, kinds, last_outcome, open_run, records, tool,
};

const ARGS: &str = r#"{"amount":5,"to":"bob","now":true}"#;
const AUDIENCE: &str = "payments.example";

fn verifier() -> Verifier<MemorySpent> {
    Verifier::new([kernel_key().verifier().clone()], AUDIENCE, MemorySpent::default())
}

async fn start(run: &Run) -> InFlight {
    match run.propose(tool("read", ARGS)).await.unwrap() {
        Verdict::Permitted(permit) => permit.start().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A token of a call of its own, made at [`NOW`].
async fn token(kernel: &Kernel) -> String {
    let run = open_run(kernel).await;
    let mut call = start(&run).await;
    let token = call.capability(AUDIENCE, TTL_DEFAULT).unwrap();
    call.finish(Report::ok(Payload::text("done"))).await.unwrap();
    token
}

async fn house() -> (House, Kernel) {
    let mut house = House::new("").await;
    house.config.spool.seconds_max = 10_000_000;
    let kernel = house.open().await;
    (house, kernel)
}

fn refused(token: &str, tool: &str, args: &str, now: UnixMillis) -> CapabilityError {
    verifier().check(token, tool, args.as_bytes(), now).unwrap_err()
}

#[tokio::test]
async fn a_token_lets_exactly_its_call_through_once() {
    let (_house, kernel) = house().await;
    let run = open_run(&kernel).await;
    let mut call = start(&run).await;
    let token = call.capability(AUDIENCE, TTL_DEFAULT).unwrap();
    assert_eq!(call.capability(AUDIENCE, TTL_DEFAULT), Err(CapabilityError::Issued));
    let verifier = verifier();
    let check = |tool: &str, args: &str, ms: u64| verifier.check(&token, tool, args.as_bytes(), at(ms));
    // What is refused spends nothing.
    assert_eq!(check("write", ARGS, NOW), Err(CapabilityError::Tool));
    for args in ["{}", "", &ARGS.replace('5', "6"), &ARGS.replace(",", ", "), &format!("{ARGS} ")] {
        assert_eq!(check("read", args, NOW), Err(CapabilityError::Arguments), "{args}");
    }
    assert_eq!(check("read", ARGS, NOW + 60_001), Err(CapabilityError::Expired));
    assert_eq!(check("read", ARGS, NOW - 1), Err(CapabilityError::Expired), "before its key was vouched for");
    let allowed = check("read", ARGS, NOW + 60_000).unwrap();
    assert_eq!(check("read", ARGS, NOW + 60_000), Err(CapabilityError::Spent));
    // It names the recorded intent, by the digest that the log's reader computes.
    let intent = &records(&kernel, run.id())[1];
    let Body::Intent(_) = &intent.body else { panic!() };
    assert_eq!((allowed.run, allowed.seq, Some(allowed.action)), (run.id(), intent.seq, intent.action()));
    assert_eq!((allowed.agent, allowed.kernel), (intent.agent.clone(), kernel_key().verifier().clone()));
    call.finish(Report::ok(Payload::text("done"))).await.unwrap();
    // Another audience, asked by either side.
    let other = Verifier::new([kernel_key().verifier().clone()], "mail.example", MemorySpent::default());
    assert_eq!(other.check(&token, "read", ARGS.as_bytes(), at(NOW)), Err(CapabilityError::Audience));
}

#[tokio::test]
async fn there_is_no_token_without_a_call_under_way() {
    let (_house, kernel) = house().await;
    let run = open_run(&kernel).await;
    let mut call = start(&run).await;
    for (audience, ttl) in [("", TTL_DEFAULT), (&*"a".repeat(256), TTL_DEFAULT), (AUDIENCE, Duration::ZERO)] {
        assert!(matches!(call.capability(audience, ttl), Err(CapabilityError::Asked(_))));
    }
    let too_long = TTL_MAX + Duration::from_millis(1);
    assert!(matches!(call.capability(AUDIENCE, too_long), Err(CapabilityError::Asked(_))));
    run.halt("stop").await.unwrap();
    assert!(call.capability(AUDIENCE, TTL_DEFAULT).is_err(), "after a halt");
    drop(call);
    // A token that was handed out cannot be called back: the call counts as one that may have acted.
    let run = open_run(&kernel).await;
    let mut call = start(&run).await;
    let token = call.capability(AUDIENCE, TTL_DEFAULT).unwrap();
    drop(call);
    eventually("an outcome", || kinds(&kernel, run.id()).contains(&"outcome")).await;
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Unknown);
    assert!(verifier().check(&token, "read", ARGS.as_bytes(), at(NOW)).is_ok());
    assert_eq!(refused(&token, "read", ARGS, at(NOW + 60_001)), CapabilityError::Expired);
}

#[tokio::test]
async fn every_changed_byte_is_refused() {
    let (_house, kernel) = house().await;
    let token = token(&kernel).await;
    let narrow = Narrower { tool: Some("read".to_owned()), ..Narrower::default() };
    for token in [token.clone(), attenuate(&token, &narrow).unwrap()] {
        assert!(verifier().check(&token, "read", ARGS.as_bytes(), at(NOW)).is_ok());
        let bytes = token.as_bytes();
        let mut wrong = Vec::new();
        for position in 0..bytes.len() {
            // The next character of the alphabet, which changes the lowest bit, and one that changes others.
            for flip in [1, 0x20] {
                let mut changed = bytes.to_vec();
                changed[position] ^= flip;
                let Ok(changed) = String::from_utf8(changed) else { continue };
                if verifier().check(&changed, "read", ARGS.as_bytes(), at(NOW)).is_ok() {
                    wrong.push((position, flip));
                }
            }
            let cut = &token[..position];
            assert!(verifier().check(cut, "read", ARGS.as_bytes(), at(NOW)).is_err());
        }
        assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), bytes.len());
        for more in ["A", "=", ".", " ", "\n"] {
            assert!(verifier().check(&format!("{token}{more}"), "read", ARGS.as_bytes(), at(NOW)).is_err());
        }
    }
    let long = format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX));
    assert!(matches!(refused(&long, "read", ARGS, at(NOW)), CapabilityError::Invalid(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_256_callers_at_once_exactly_one_wins() {
    let (house, kernel) = house().await;
    let file = || FileSpent::open(&house.dir.path().join("spent.redb")).unwrap();
    async fn race<S: Spent + 'static>(token: String, spent: S) -> u32 {
        let verifier = Verifier::new([kernel_key().verifier().clone()], AUDIENCE, spent);
        let (verifier, won) = (Arc::new(verifier), Arc::new(AtomicU32::new(0)));
        let callers: Vec<_> = (0..256)
            .map(|_| {
                let (verifier, won, token) = (Arc::clone(&verifier), Arc::clone(&won), token.clone());
                tokio::task::spawn_blocking(move || {
                    match verifier.check(&token, "read", ARGS.as_bytes(), at(NOW)) {
                        Ok(_) => drop(won.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => assert_eq!(error, CapabilityError::Spent),
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        won.load(Ordering::SeqCst)
    }
    assert_eq!(race(token(&kernel).await, MemorySpent::default()).await, 1);
    let token = token(&kernel).await;
    assert_eq!(race(token.clone(), file()).await, 1);
    // The file remembers it after a restart.
    assert_eq!(race(token, file()).await, 0);
    assert_eq!(file().count(), Ok(1));
}

#[test]
fn memory_has_a_bound_and_forgets_what_has_expired() {
    let memory = MemorySpent::default();
    let nonce = |n: u8| Hash::from_bytes([n; 32]);
    assert_eq!(memory.spend(nonce(1), at(100), at(50)), Ok(true));
    assert_eq!(memory.spend(nonce(1), at(100), at(100)), Ok(false));
    assert_eq!(memory.spend(nonce(2), at(200), at(101)), Ok(true));
    // A clock that goes back does not bring what was forgotten to life.
    assert!(memory.spend(nonce(1), at(100), at(50)).is_err());
}

#[tokio::test]
async fn a_token_is_narrowed_and_never_widened() {
    let (_house, kernel) = house().await;
    let token = token(&kernel).await;
    let good = |token: &str, ms: u64| verifier().check(token, "read", ARGS.as_bytes(), at(ms));
    let arg =
        |name: &str, value: Value| Narrower { args: vec![(name.to_owned(), value)], ..Narrower::default() };
    let until = |ms: u64| Narrower { until: Some(at(ms)), ..Narrower::default() };
    let of_tool = |tool: &str| Narrower { tool: Some(tool.to_owned()), ..Narrower::default() };
    for narrower in [
        Narrower::default(),
        until(NOW + 10),
        of_tool("read"),
        arg("amount", json!(5)),
        arg("to", json!("bob")),
        arg("now", json!(true)),
    ] {
        assert!(good(&attenuate(&token, &narrower).unwrap(), NOW).is_ok(), "{narrower:?}");
    }
    for narrower in [
        until(NOW - 1),
        of_tool("write"),
        of_tool("read\"); allow if true; //"),
        arg("amount", json!(6)),
        arg("amount", json!("5")),
        arg("to", json!("eve")),
        arg("missing", json!(1)),
    ] {
        let narrowed = attenuate(&token, &narrower).unwrap();
        assert_eq!(good(&narrowed, NOW), Err(CapabilityError::Narrowed), "{narrower:?}");
        // Whatever is added after it, it stays so.
        for wider in [Narrower::default(), until(NOW + 1_000_000), of_tool("read"), arg("amount", json!(5))] {
            let widened = attenuate(&narrowed, &wider).unwrap();
            assert_eq!(good(&widened, NOW), Err(CapabilityError::Narrowed), "{narrower:?}, then {wider:?}");
        }
    }
    // A later end than the kernel's changes nothing.
    let longer = attenuate(&token, &until(NOW + 1_000_000)).unwrap();
    assert_eq!(good(&longer, NOW + 60_001), Err(CapabilityError::Expired));
    assert!(attenuate(&token, &arg("x", json!([1]))).is_err());
    assert!(attenuate("sift-cap1.x.y", &Narrower::default()).is_err());
    // Narrowed or not, it is one token.
    let once = verifier();
    assert!(
        once.check(&attenuate(&token, &of_tool("read")).unwrap(), "read", ARGS.as_bytes(), at(NOW)).is_ok()
    );
    assert_eq!(once.check(&token, "read", ARGS.as_bytes(), at(NOW)), Err(CapabilityError::Spent));
}

/// What a hostile holder adds to a token with the tools of the format itself.
#[tokio::test]
async fn facts_that_a_holder_adds_are_not_the_kernels() {
    use biscuit_auth::UnverifiedBiscuit;
    use biscuit_auth::builder::BlockBuilder;
    let (_house, kernel) = house().await;
    let token = token(&kernel).await;
    let (front, biscuit) = token.rsplit_once('.').unwrap();
    for code in [
        "audience(\"mail.example\");",
        "until_ms(9999999999999);",
        "tool(\"write\");",
        "until_ms($x) <- now_ms($x);",
        "audience($x) <- tool($x);",
    ] {
        let mut block = BlockBuilder::new();
        block.add_code(code).unwrap();
        let added = UnverifiedBiscuit::from_base64(biscuit).unwrap().append(block).unwrap();
        let added = format!("{front}.{}", added.to_base64().unwrap());
        let mail = Verifier::new([kernel_key().verifier().clone()], "mail.example", MemorySpent::default());
        assert_eq!(mail.check(&added, "read", ARGS.as_bytes(), at(NOW)), Err(CapabilityError::Audience));
        assert_eq!(refused(&added, "read", ARGS, at(NOW + 60_001)), CapabilityError::Expired, "{code}");
        assert_eq!(refused(&added, "write", ARGS, at(NOW)), CapabilityError::Tool, "{code}");
    }
    // Rules that multiply cost a bounded time, and allow nothing.
    let mut block = BlockBuilder::new();
    let many: String = (0..32).map(|n| format!("n({n}); ")).collect();
    block.add_code(format!("{many} p($a, $b, $c, $d) <- n($a), n($b), n($c), n($d);")).unwrap();
    let added = UnverifiedBiscuit::from_base64(biscuit).unwrap().append(block).unwrap();
    let added = format!("{front}.{}", added.to_base64().unwrap());
    let started = std::time::Instant::now();
    assert!(verifier().check(&added, "read", ARGS.as_bytes(), at(NOW)).is_err());
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn only_known_kernels_count_and_keys_rotate() {
    let (house, kernel) = house().await;
    let first = token(&kernel).await;
    // The key of tokens is a new one in each process, and every day; the kernel's key vouches for each.
    house.clock.advance_ms(VOUCHED_MS);
    let later = token(&kernel).await;
    let note = |token: &str| token.split('.').nth(1).unwrap().to_owned();
    assert_ne!(note(&first), note(&later));
    assert!(verifier().check(&later, "read", ARGS.as_bytes(), at(NOW + VOUCHED_MS)).is_ok());
    assert_eq!(refused(&first, "read", ARGS, at(NOW + VOUCHED_MS + 1)), CapabilityError::Expired);
    // The note of one token and the biscuit of another.
    let mixed = format!("sift-cap1.{}.{}", note(&first), later.rsplit_once('.').unwrap().1);
    assert!(matches!(refused(&mixed, "read", ARGS, at(NOW + VOUCHED_MS)), CapabilityError::Invalid(_)));
    kernel.close().await;

    // Another kernel, and another key under this kernel's name.
    let check = |kernels: &[VerifierKey], token: &str| {
        let verifier = Verifier::new(kernels.to_vec(), AUDIENCE, MemorySpent::default());
        verifier.check(token, "read", ARGS.as_bytes(), at(NOW))
    };
    let (stranger, next) = (key("evil.example/kernel", 7), key("acme.example/kernel", 8));
    assert_eq!(check(&[stranger.verifier().clone()], &first), Err(CapabilityError::UnknownKernel));
    assert_eq!(check(&[next.verifier().clone()], &first), Err(CapabilityError::UnknownKernel));
    // While the kernel's key changes, both are listed.
    assert!(check(&[next.verifier().clone(), kernel_key().verifier().clone()], &first).is_ok());
}
