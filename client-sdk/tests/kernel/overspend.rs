//! What was billed is what is settled, also above the hold: recorded in full, counted, and the run halts.

use sift_client::{
    CloseReason, HaltCause, Kernel, ModelCall, Payload, Permit, Report, Run, Status, Stop, Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::meter::{Amounts, Meter, Usage};

use crate::harness::{House, POLICY, kinds, last_outcome, open_run};

/// Cached input is cheap to read and dear to write; long prompts cost twice.
const PRICES: &str = "[[model]]\nname = \"m\"\ninput = 2_000_000\ncache_read = 500_000\ncache_write = 4_000_000\n\
    output = 10_000_000\nreasoning = 12_000_000\n[[model.tier]]\nabove_prompt_tokens = 150\ninput = 4_000_000\n\
    cache_read = 1_000_000\ncache_write = 8_000_000\noutput = 20_000_000\nreasoning = 24_000_000\n";

const INPUT: u64 = 100;
const OUTPUT: u64 = 50;

async fn house(budget: &str) -> House {
    let mut house = House::new("").await;
    let files = [("policy.rego", POLICY), ("budget.toml", budget), ("prices.toml", PRICES)];
    let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    house.config.bundle = Bundle::new(files).unwrap();
    house
}

async fn permit(run: &Run) -> Option<Permit> {
    let call = ModelCall {
        provider: "p".to_owned(),
        model: "m".to_owned(),
        request: vec![b' '; INPUT as usize],
        max_output: Some(OUTPUT),
    };
    match run.propose(call).await.unwrap() {
        Verdict::Permitted(permit) => Some(permit),
        Verdict::Denied(_) => None,
        Verdict::Held(held) => panic!("{held:?}"),
    }
}

fn answer(usage: Usage) -> Report {
    Report::ok(Payload::json("{}")).with_model("m-1", None, "provider", usage)
}

/// Makes a call that comes back with this usage.
async fn billed(kernel: &Kernel, usage: Usage) -> (Run, Amounts, Option<Meter>) {
    let run = open_run(kernel).await;
    let done = permit(&run).await.unwrap().dispatch(|| async { answer(usage) }).await.unwrap();
    (run, done.settled, done.overspent)
}

fn is_overspent(run: &Run) -> bool {
    matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::Overspend, .. }))
}

#[tokio::test]
async fn more_than_was_held_of_any_class_is_recorded_and_halts() {
    let spent = house("[kernel.day]\nmicro_usd = 1_000_000\n").await;
    let kernel = spent.open().await;
    // All in the dearest class, at its price: 100 written to the cache, 50 of reasoning.
    let run = open_run(&kernel).await;
    let held = permit(&run).await.unwrap().reserved();
    assert_eq!(held.get(Meter::MicroUsd), 100 * 4 + 50 * 12);
    let none = Usage::default();
    let mut sum = 0;
    let mut bill = async |usage: Usage, money: u64, over: Option<Meter>| {
        let (run, settled, overspent) = billed(&kernel, usage).await;
        assert_eq!(overspent, over, "{usage:?}");
        let expected = usage.amounts().with(Meter::ModelCalls, 1).with(Meter::MicroUsd, money);
        assert_eq!(settled, expected, "what was billed, whatever was held");
        assert_eq!(last_outcome(&kernel, run.id()).await.settled, expected);
        assert_eq!(is_overspent(&run), over.is_some(), "{usage:?}");
        assert_eq!(kinds(&kernel, run.id()).last(), Some(&if over.is_some() { "halt" } else { "outcome" }));
        assert_eq!(run.close(CloseReason::Done).await.unwrap(), expected);
        sum += money;
        sum
    };
    // Within the hold: cached tokens at their own prices, rounded up once.
    bill(Usage { cache_read: 99, input: 1, output: 50, ..none }, 552, None).await;
    bill(Usage { cache_write: 100, reasoning: 50, ..none }, 1000, None).await;
    // One above, class by class.
    bill(Usage { input: 101, ..none }, 202, Some(Meter::InputTokens)).await;
    bill(Usage { cache_read: 101, ..none }, 51, Some(Meter::CacheReadTokens)).await;
    bill(Usage { cache_write: 101, ..none }, 404, Some(Meter::CacheWriteTokens)).await;
    bill(Usage { output: 51, ..none }, 510, Some(Meter::OutputTokens)).await;
    bill(Usage { reasoning: 51, ..none }, 612, Some(Meter::ReasoningTokens)).await;
    // Every class within its own, and too much together: of tokens, and of money in the dearer tier.
    bill(Usage { cache_read: 100, input: 51, ..none }, 304, Some(Meter::Tokens)).await;
    let sum = bill(Usage { cache_write: 100, input: 60, ..none }, 1040, Some(Meter::MicroUsd)).await;
    // All of it counts where it was held: a limit over the kernel has exactly the rest left, and the first call's hold.
    assert_eq!(sum, 552 + 1000 + 202 + 51 + 404 + 510 + 612 + 304 + 1040);
    kernel.close().await;
    for (room, fits) in [(1000, true), (999, false)] {
        let mut house = self::house(&format!("[kernel.day]\nmicro_usd = {}\n", sum + room)).await;
        (house.config.dir, house.config.log_url) = (spent.config.dir.clone(), spent.config.log_url.clone());
        let kernel = house.open().await;
        assert_eq!(permit(&open_run(&kernel).await).await.is_some(), fits, "{room}");
        kernel.close().await;
    }
}

#[tokio::test]
async fn what_is_not_known_costs_the_hold_and_each_retry_holds_its_own() {
    // Room for three holds of 1000, and not for a fourth.
    let house = house("[run]\nmicro_usd = 3_999\n").await;
    let kernel = house.open().await;
    for (name, report) in [
        ("error", Report::error("status 500")),
        ("timeout", Report::timeout("no answer in 30 s")),
        ("ok without usage", Report::ok(Payload::json("{}"))),
    ] {
        let run = open_run(&kernel).await;
        for attempt in 0..3 {
            let permit = permit(&run).await.unwrap_or_else(|| panic!("{name}: attempt {attempt}"));
            let (held, report) = (permit.reserved(), report.clone());
            let done = permit.dispatch(|| async { report }).await.unwrap();
            assert_eq!((done.settled, done.overspent), (held, None), "{name}");
        }
        assert!(permit(&run).await.is_none(), "{name}: the fourth attempt has no room");
        assert_eq!(run.close(CloseReason::Done).await.unwrap().get(Meter::MicroUsd), 3_000);
    }
    // Dropped after it started: unknown. Dropped before: nothing.
    let run = open_run(&kernel).await;
    let started = permit(&run).await.unwrap().start().unwrap();
    drop(started);
    drop(permit(&run).await.unwrap());
    crate::harness::eventually("both are recorded", || {
        kinds(&kernel, run.id()).iter().filter(|kind| **kind == "outcome").count() == 2
    })
    .await;
    let statuses: Vec<Status> = crate::harness::parsed(&kernel, run.id())
        .into_iter()
        .filter_map(|record| match record.body {
            sift_spec::record::Body::Outcome(outcome) => Some(outcome.status),
            _ => None,
        })
        .collect();
    assert_eq!(statuses, [Status::Unknown, Status::Cancelled]);
    assert_eq!(run.close(CloseReason::Done).await.unwrap().get(Meter::MicroUsd), 1_000);
    // A retry while the first attempt is under way needs room for both.
    let run = open_run(&kernel).await;
    let under_way: Vec<_> = [permit(&run).await, permit(&run).await, permit(&run).await].into();
    assert!(under_way.iter().all(Option::is_some) && permit(&run).await.is_none());
}
