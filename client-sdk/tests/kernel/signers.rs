//! A key that fails between two calls, or takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sift_client::{Answered, Kernel, Payload, Report, SignError, Signer, Status, Verdict};
use sift_spec::note::VerifierKey;
use sift_spec::record::{Answer, Body};

use crate::harness::{House, boss, eventually, kernel_key, kinds, open_run, records, tool};

/// The kernel's key, until so many signatures were made; each takes so many milliseconds.
struct Faulty {
    left: AtomicUsize,
    takes_ms: Arc<AtomicU64>,
    key: sift_spec::note::SignerKey,
}

impl Signer for Faulty {
    fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        std::thread::sleep(Duration::from_millis(self.takes_ms.load(Ordering::SeqCst)));
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| SignError("the module was unplugged".to_owned()))?;
        Ok(self.key.sign_bytes(message))
    }
}

async fn open(house: &House, signatures: usize, takes_ms: &Arc<AtomicU64>) -> Kernel {
    let (left, takes_ms) = (AtomicUsize::new(signatures), Arc::clone(takes_ms));
    let signer = Faulty { left, takes_ms, key: kernel_key() };
    Kernel::open(house.config.clone(), signer, Arc::clone(&house.clock)).await.unwrap()
}

#[tokio::test]
async fn what_was_signed_before_the_key_failed_is_kept() {
    // After the open record: an intent and its outcome for each call, and the key fails at any of the next five.
    for signatures in 2..7 {
        let house = House::new("").await;
        let kernel = open(&house, signatures, &Arc::default()).await;
        let run = open_run(&kernel).await;
        let mut answered = 0;
        let stop = loop {
            let verdict = match run.propose(tool("read", "{}")).await {
                Ok(verdict) => verdict,
                Err(error) => break error.to_string(),
            };
            let Verdict::Permitted(permit) = verdict else { panic!() };
            match permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await {
                Ok(_) => answered += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(answered, (signatures - 1) / 2, "{signatures}");
        assert!(stop.contains("unplugged"), "{stop}");
        kernel.close().await;
        // The key is back, and so is all that was answered.
        let kernel = house.open().await;
        let outcomes = records(&kernel, run.id()).into_iter().filter_map(|record| match record.body {
            Body::Outcome(outcome) => Some(outcome.status),
            _ => None,
        });
        let outcomes: Vec<_> = outcomes.collect();
        assert_eq!(outcomes.iter().filter(|status| **status == Status::Ok).count(), answered, "{outcomes:?}");
        // A call that was let through may have acted, although its outcome was not signed.
        assert_eq!(outcomes.len() - answered, (signatures - 1) % 2, "{outcomes:?}");
        kernel.close().await;
    }
}

#[tokio::test]
async fn who_gives_up_while_an_approver_refuses_learns_of_the_refusal() {
    let house = House::new("").await;
    let takes_ms = Arc::default();
    let kernel = open(&house, usize::MAX, &takes_ms).await;
    let (run, busy) = (open_run(&kernel).await, open_run(&kernel).await);
    for round in 1..6 {
        let Verdict::Held(held) = run.propose(tool("pay", "{}")).await.unwrap() else { panic!() };
        let request = held.request().clone();
        let note = request.sign(Answer::Refuse, &boss()).unwrap();
        takes_ms.store(40, Ordering::SeqCst);
        // While the writer signs this, both come to it.
        let other = tokio::spawn({
            let busy = busy.clone();
            async move { busy.propose(tool("steal", "{}")).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (refused, given_up) =
            tokio::join!(kernel.answer(request.run, request.intent, &note), held.give_up("nobody waits"));
        refused.unwrap();
        let Ok(Answered::Denied(denial)) = given_up else { panic!("{given_up:?}") };
        assert_eq!(denial.unapproved.as_deref(), Some("an approver refused"), "{round}");
        takes_ms.store(0, Ordering::SeqCst);
        assert!(matches!(other.await.unwrap(), Verdict::Denied(_)));
    }
    let refused = || kinds(&kernel, run.id()).iter().filter(|kind| **kind == "outcome").count() == 5;
    eventually("five outcomes", refused).await;
    kernel.close().await;
}
