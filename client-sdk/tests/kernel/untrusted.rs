//! Values that callers, providers and requests give: refused or bounded, and never the end of the kernel.

use sift_client::{
    CallError, CloseReason, HaltCause, ModelCall, OUTPUT_TOKENS_MAX, OpenRun, OpenRunError, Payload,
    ProposeError, Report, Stop, Verdict,
};
use sift_spec::bundle::Bundle;
use sift_spec::meter::Usage;

use crate::harness::{House, POLICY, kinds, open_run, tool};

fn model(request: &str, max_output: u64) -> ModelCall {
    ModelCall {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        request: request.as_bytes().to_vec(),
        max_output: Some(max_output),
    }
}

#[tokio::test]
async fn a_request_that_says_something_else_is_refused() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    for (request, max_output) in [
        ("", OUTPUT_TOKENS_MAX + 1),
        ("", u64::MAX),
        (r#"{"model":"gpt-4o-pro"}"#, 100),
        (r#"{"model":["gpt-4o"]}"#, 100),
        (r#"{"model":"gpt-4o","model":"gpt-4o-pro"}"#, 100),
        (r#" {"model":"gpt-4o","max_tokens":101}"#, 100),
        (r#"{"max_completion_tokens":101}"#, 100),
        (r#"{"max_output_tokens":-1}"#, 100),
        (r#"{"max_tokens":51,"n":2}"#, 100),
        (r#"{"max_tokens":1,"n":"2"}"#, 100),
        (r#"{"model":"gpt-4o""#, 100),
    ] {
        let refused = run.propose(model(request, max_output)).await;
        assert!(matches!(refused, Err(ProposeError::Call(CallError::Value(_)))), "{request} {max_output}");
    }
    assert_eq!(kinds(&kernel, run.id()), ["open"]);
    for request in [r#"{"model":"gpt-4o","max_tokens":50,"n":2,"temperature":0.7}"#, "{}", "[1]", "text"] {
        let Verdict::Permitted(permit) = run.propose(model(request, 100)).await.unwrap() else { panic!() };
        assert_eq!(permit.bytes(), request.as_bytes());
        let echo = permit.dispatch_with(|bytes| async { Report::ok(Payload::json(bytes)) }).await.unwrap();
        assert_eq!(echo.report.result().unwrap().bytes, request.as_bytes());
    }
}

#[tokio::test]
async fn usage_beyond_all_bounds_halts_its_run_only() {
    let house = House::new("").await;
    let kernel = house.open().await;
    for _ in 0..3 {
        let run = open_run(&kernel).await;
        let Verdict::Permitted(permit) = run.propose(model("{}", 100)).await.unwrap() else { panic!() };
        let usage = Usage { input: u64::MAX, output: u64::MAX, reasoning: u64::MAX, ..Usage::default() };
        let report = Report::ok(Payload::json("{}")).with_model("gpt-4o", None, "provider", usage);
        let done = permit.dispatch(|| async { report }).await.unwrap();
        assert!(done.overspent.is_some());
        assert!(matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::Overspend, .. })));
        run.close(CloseReason::Done).await.unwrap();
    }
    assert!(kernel.stopped().is_none());
    kernel.close().await;
    house.open().await.close().await;
}

#[tokio::test]
async fn a_hold_that_no_sum_can_take_is_refused() {
    let mut house = House::new("").await;
    let prices = "[[model]]\nname = \"gpt-4o\"\ninput = 1\noutput = 4_000_000_000_000_000\n";
    let files = [("policy.rego", POLICY), ("budget.toml", ""), ("prices.toml", prices)];
    house.config.bundle =
        Bundle::new(files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))).unwrap();
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let mut permits = Vec::new();
    for _ in 0..2 {
        let Verdict::Permitted(permit) = run.propose(model("{}", 1_000_000)).await.unwrap() else { panic!() };
        permits.push(permit);
    }
    let refused = run.propose(model("{}", 1_000_000)).await;
    assert!(matches!(refused, Err(ProposeError::Call(CallError::Value(_)))), "{refused:?}");
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

#[tokio::test]
async fn labels_that_no_record_holds_are_refused() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let labelled = |count: usize, value: &str| {
        let open = OpenRun::of("airline/gpt-4o".parse().unwrap());
        (0..count).fold(open, |open, n| open.label(format!("l{n}").parse().unwrap(), value))
    };
    for open in [labelled(65, "x"), labelled(64, &"\u{1}".repeat(256))] {
        assert!(matches!(kernel.open_run(open).await, Err(OpenRunError::Record(_))));
    }
    kernel.open_run(labelled(64, "x")).await.unwrap().close(CloseReason::Done).await.unwrap();
    assert_eq!(kernel.store().runs().unwrap().len(), 1);
}
