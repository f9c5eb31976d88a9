//! Streamed answers: a provider that ignores the request's limit is cut at what was reserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sift_client::{
    Cut, DispatchError, Done, HaltCause, ModelCall, Permit, Run, Status, Stop, StreamFormat, StreamMeter,
    Verdict,
};
use sift_spec::meter::Meter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{House, eventually, last_outcome, open_run, records};

/// A model server that streams what it likes.
struct Provider {
    url: String,
    closed: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
}

impl Provider {
    /// Sends `first`, then `again` until the connection is closed, or `last` and the end where that is given.
    async fn start(first: &str, again: &str, last: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/chat/completions", listener.local_addr().unwrap());
        let (closed, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let provider = Self { url, closed: Arc::clone(&closed), written: Arc::clone(&written) };
        let (first, again, last) = (first.to_owned(), again.to_owned(), last.map(str::to_owned));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let mut say = async |text: &str| {
                let said = stream.write_all(text.as_bytes()).await.is_ok();
                written.fetch_add(text.len() as u64, Ordering::SeqCst);
                said
            };
            let mut open = say(head).await && say(&first).await;
            if let Some(last) = last {
                say(&last).await;
                open = false;
            }
            while open {
                open = say(&again).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            closed.store(true, Ordering::SeqCst);
        });
        provider
    }

    /// Waits until the provider cannot send any more.
    async fn is_cut(&self) {
        eventually("the connection is closed", || self.closed.load(Ordering::SeqCst)).await;
    }
}

const TEN: &str = "data: {\"id\":\"c1\",\"model\":\"gpt-4o-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"0123456789\"}}]}\n\n";

fn usage(prompt: u64, completion: u64) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"model\":\"gpt-4o-1\",\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion}}}}}\n\n"
    )
}

async fn permit(run: &Run, max_output: u64) -> Permit {
    let call = ModelCall {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        request: br#"{"stream":true}"#.to_vec(),
        max_output: Some(max_output),
    };
    match run.propose(call).await.unwrap() {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// Asks a provider, and reads its answer with the meter.
async fn ask(permit: Permit, meter: StreamMeter, provider: &Provider) -> Result<Done, DispatchError> {
    let url = provider.url.clone();
    permit
        .dispatch_with(|request| async move {
            let mut response = client().post(&url).body(request).send().await.unwrap();
            meter.read(async || response.chunk().await).await
        })
        .await
}

fn client() -> reqwest::Client {
    sift_connect::Connect::default().client().unwrap().build().unwrap()
}

#[tokio::test]
async fn a_provider_that_streams_for_ever_is_cut_at_what_was_reserved() {
    let house = House::new("[run]\nmicro_usd = 1_000_000\n").await;
    let kernel = house.open().await;
    for format in [StreamFormat::OpenAi, StreamFormat::Raw] {
        let run = open_run(&kernel).await;
        let provider = Provider::start("", TEN, None).await;
        let permit = permit(&run, 200).await;
        let (meter, reserved) = (permit.meter(format).unwrap(), permit.reserved());
        let done = ask(permit, meter, &provider).await.unwrap();
        provider.is_cut().await;
        assert_eq!((done.settled, done.overspent), (reserved, None), "nobody knows what it bills");
        assert_eq!(done.report.status(), Status::Error);
        assert!(done.report.why().unwrap().contains("200 were reserved"), "{:?}", done.report);
        assert!(run.stopped().is_none());
        let received = done.report.result().unwrap().bytes.len();
        let most = if format == StreamFormat::Raw { 200 } else { 20 * TEN.len() };
        // One read may bring more than an event.
        assert!((200..=most + 64 * 1024).contains(&received), "{received}");
        assert!(provider.written.load(Ordering::SeqCst) < 4 << 20);
    }
}

#[tokio::test]
async fn an_honest_stream_is_settled_with_its_usage() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    // Twenty bytes a token: more bytes than tokens were reserved, counted by the model's tokenizer.
    let last = format!("{}{}data: [DONE]", TEN.repeat(40), usage(12, 20));
    let provider = Provider::start("", "", Some(&last)).await;
    let permit_ = permit(&run, 50).await;
    let meter = permit_.meter(StreamFormat::OpenAi).unwrap().count_with(|text| (text.len() / 10) as u64);
    let done = ask(permit_, meter, &provider).await.unwrap();
    assert_eq!(done.report.status(), Status::Ok, "{:?}", done.report.why());
    assert_eq!((done.settled.get(Meter::OutputTokens), done.settled.get(Meter::InputTokens)), (20, 12));
    let model = last_outcome(&kernel, run.id()).await.model.unwrap();
    assert_eq!((model.served.as_str(), model.id.unwrap().as_str()), ("gpt-4o-1", "c1"));
    assert_eq!(model.method.as_str(), "provider");
    // The same, bit by bit and without a tokenizer, is cut: every byte may be a token.
    let permit = permit(&run, 50).await;
    let mut meter = permit.meter(StreamFormat::OpenAi).unwrap();
    let cut = last.as_bytes().chunks(100).find_map(|chunk| meter.feed(chunk).err());
    assert_eq!(cut, Some(Cut::Bound { counted: 60, bound: 50 }));
    let reserved = permit.reserved();
    let done = permit.start().unwrap().finish(meter.report()).await.unwrap();
    assert_eq!((done.report.status(), done.settled), (Status::Error, reserved));
}

#[tokio::test]
async fn usage_in_every_event_counts_exactly_and_cannot_stay_behind() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    // Ten bytes, one token: the stated usage takes the place of the bytes.
    let permit_ = permit(&run, 100).await;
    let mut meter = permit_.meter(StreamFormat::OpenAi).unwrap();
    for tokens in 1..=100 {
        meter.feed(format!("{TEN}{}", usage(5, tokens)).as_bytes()).unwrap();
        assert_eq!(meter.counted(), tokens);
    }
    let over = meter.feed(TEN.as_bytes());
    assert_eq!(over, Err(Cut::Bound { counted: 110, bound: 100 }));
    assert_eq!(meter.feed(b""), over, "once cut, always cut");
    drop(permit_);
    // A usage that says nothing was used, in a stream without an end.
    let permit_ = permit(&run, 100).await;
    let mut meter = permit_.meter(StreamFormat::OpenAi).unwrap();
    let event = format!("{TEN}{}", usage(5, 0));
    let fed = (0..1000).take_while(|_| meter.feed(event.as_bytes()).is_ok()).count();
    assert!((90..=100).contains(&fed), "{fed}");
    drop(permit_);
    let tools = run.propose(crate::harness::tool("read", "{}")).await.unwrap();
    let Verdict::Permitted(permit) = tools else { panic!() };
    assert!(permit.meter(StreamFormat::Raw).is_none());
}

#[tokio::test]
async fn more_billed_than_reserved_is_recorded_as_it_is_and_halts() {
    let house = House::new("[run]\nmicro_usd = 1_000_000\n").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let last = format!("{TEN}{}data: [DONE]\n\n", usage(5, 101));
    let provider = Provider::start("", "", Some(&last)).await;
    let permit = permit(&run, 100).await;
    let meter = permit.meter(StreamFormat::OpenAi).unwrap();
    let done = ask(permit, meter, &provider).await.unwrap();
    assert_eq!(done.overspent, Some(Meter::OutputTokens));
    assert_eq!(done.settled.get(Meter::OutputTokens), 101);
    assert!(matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::Overspend, .. })));
    let kinds: Vec<_> = records(&kernel, run.id()).iter().map(|record| record.body.kind().name()).collect();
    assert_eq!(kinds, ["open", "intent", "outcome", "halt"]);
}

#[tokio::test]
async fn a_stream_that_breaks_off_costs_the_hold() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    // A usage on the way is not the last word.
    for text in [TEN.to_owned(), format!("{TEN}{}", usage(5, 3)), String::new()] {
        let provider = Provider::start("", "", Some(&text)).await;
        let permit = permit(&run, 100).await;
        let (meter, reserved) = (permit.meter(StreamFormat::OpenAi).unwrap(), permit.reserved());
        let done = ask(permit, meter, &provider).await.unwrap();
        assert_eq!((done.report.status(), done.settled), (Status::Error, reserved), "{text}");
        assert!(done.report.why().unwrap().contains("broke off"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_stops_a_stream_at_once() {
    let house = House::new("").await;
    let kernel = house.open().await;
    // By one who lets the kernel dispatch, and by one who does it all.
    let run = open_run(&kernel).await;
    let provider = Provider::start(TEN, ": nothing to say\n\n", None).await;
    let permit_ = permit(&run, 1000).await;
    let (meter, reserved) = (permit_.meter(StreamFormat::OpenAi).unwrap(), permit_.reserved());
    let halting = async {
        eventually("it streams", || provider.written.load(Ordering::SeqCst) > 500).await;
        run.halt("enough").await.unwrap();
    };
    let (done, ()) = tokio::join!(ask(permit_, meter, &provider), halting);
    provider.is_cut().await;
    match done {
        Ok(done) => assert_eq!((done.report.status(), done.settled), (Status::Error, reserved)),
        Err(DispatchError::Cut(_)) => {}
        Err(other) => panic!("{other}"),
    }
    assert_eq!(last_outcome(&kernel, run.id()).await.settled, reserved);

    let run = open_run(&kernel).await;
    let permit_ = permit(&run, 1000).await;
    let mut meter = permit_.meter(StreamFormat::OpenAi).unwrap();
    let in_flight = permit_.start().unwrap();
    meter.feed(TEN.as_bytes()).unwrap();
    let halted = meter.halted();
    run.halt("enough").await.unwrap();
    halted.await;
    assert!(matches!(meter.feed(TEN.as_bytes()), Err(Cut::Stopped(Stop::Halted { .. }))));
    let done = in_flight.finish(meter.report()).await.unwrap();
    assert_eq!(done.settled, reserved);
}
