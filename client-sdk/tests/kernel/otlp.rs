//! Spans in a collector: what a real run of the program sends, and that a collector in trouble holds up nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::program::Desk;

/// How a collector behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    /// Accepts connections and says nothing.
    Hangs,
    /// Answers 503.
    Refuses,
}

/// A collector: keeps what it is sent.
#[derive(Clone)]
struct Collector {
    address: String,
    mood: Mood,
    requests: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>,
}

impl Collector {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self { address, mood, requests: Arc::default() };
        let server = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        collector
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end;
                }
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            };
            if self.mood == Mood::Hangs {
                std::future::pending::<()>().await;
            }
            let text = String::from_utf8(bytes[..head].to_vec()).unwrap().to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().parse().unwrap();
            while bytes.len() < head + 4 + length {
                stream.read_buf(&mut bytes).await.ok()?;
            }
            let body: Vec<u8> = bytes.drain(..head + 4 + length).skip(head + 4).collect();
            let status = if self.mood == Mood::Refuses { 503 } else { 200 };
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            self.requests.lock().unwrap().push((text, request));
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let scopes = requests
            .iter()
            .flat_map(|(_, request)| &request.resource_spans)
            .flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// The attributes of a span, as text.
fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let one = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        (attribute.key.clone(), text(attribute.value.as_ref().unwrap().value.as_ref().unwrap()))
    };
    span.attributes.iter().map(one).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// Replays the recording of the desk with a collector named in the environment.
fn replay(desk: &Desk, endpoint: &str) -> std::process::Output {
    let args = ["--json", "replay", "--dir", "kernel", "--bundle", "bundle", "recording.json"];
    desk.command(&args).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_every_call_under_its_conventional_names() {
    let (desk, collector) = (Desk::new().await, Collector::start(Mood::Takes).await);
    let output = replay(&desk, &collector.address);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = report["conversations"][0]["run"].as_str().unwrap();
    {
        let requests = collector.requests.lock().unwrap();
        let (head, request) = &requests[0];
        assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        let resource = request.resource_spans[0].resource.as_ref().unwrap();
        assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.name"));
    }
    let spans = collector.spans();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    // Four model calls, a reading, a payment that nobody approves, and a call that no rule allows.
    assert_eq!((named("sift.call").len(), named("sift.propose").len()), (7, 7));
    assert_eq!((named("chat gpt-4o").len(), named("execute_tool read").len()), (4, 1));
    assert_eq!(spans.len(), 7 + 7 + 5, "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    let calls = named("sift.call");
    let parent = |span: &Span| *calls.iter().find(|call| call.span_id == span.parent_span_id).unwrap();
    for span in &spans {
        if span.name == "sift.call" {
            assert!(span.parent_span_id.is_empty());
        } else {
            assert_eq!(parent(span).trace_id, span.trace_id);
        }
    }

    let chat = named("chat gpt-4o")[0];
    let of_chat = attributes(chat);
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-4o"),
        ("gen_ai.response.model", "gpt-4o"),
        ("gen_ai.usage.cache_read.input_tokens", "0"),
        ("gen_ai.usage.reasoning.output_tokens", "0"),
        ("gen_ai.conversation.id", run),
        ("gen_ai.agent.name", "airline/gpt-4o"),
        ("sift.status", "ok"),
    ] {
        assert_eq!(of_chat.get(name).map(String::as_str), Some(value), "{name}: {of_chat:?}");
    }
    for name in [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "sift.settled.micro_usd",
        "gen_ai.request.max_tokens",
    ] {
        assert!(of_chat[name].parse::<u64>().unwrap() > 0, "{name}");
    }
    let (reserved, settled) = (attributes(parent(chat)), &of_chat["sift.settled.micro_usd"]);
    assert!(reserved["sift.reserved.micro_usd"].parse::<u64>().unwrap() >= settled.parse().unwrap());
    assert_eq!(reserved["sift.intent.seq"], of_chat["sift.intent.seq"]);
    assert!(!is_error(chat));

    let read = attributes(named("execute_tool read")[0]);
    assert_eq!((read["gen_ai.tool.name"].as_str(), read["gen_ai.tool.call.id"].as_str()), ("read", "a"));
    assert_eq!(
        (read["gen_ai.tool.type"].as_str(), read["gen_ai.operation.name"].as_str()),
        ("function", "execute_tool")
    );

    let of = |name: &str| *calls.iter().find(|call| attributes(call)["sift.call.name"] == name).unwrap();
    let denied = attributes(of("erase"));
    assert_eq!(
        (denied["sift.decision"].as_str(), denied["sift.rules"].as_str()),
        ("deny", "sift.default-deny")
    );
    assert!(is_error(of("erase")) && denied["error.type"] == "policy_denied");
    let held = attributes(of("pay"));
    assert_eq!((held["sift.decision"].as_str(), held["sift.rules"].as_str()), ("hold", "pay"));

    // Nothing of what was asked or answered.
    for span in &spans {
        let all = format!("{:?} {:?}", attributes(span), span.events);
        for content in ["balance", "read and pay", "erased", "paid", "a person decides", "\"id\""] {
            assert!(!all.contains(content), "{content}: {all}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_approvers_has_a_span_and_the_file_may_name_the_collector() {
    let (desk, collector) = (Desk::new().await, Collector::start(Mood::Takes).await);
    let path = desk.path("kernel/kernel.toml");
    let mut file = std::fs::read_to_string(&path).unwrap();
    file.push_str(&format!(
        "\n[otlp]\nendpoint = \"{}/v1/traces\"\nservice_name = \"desk\"\n",
        collector.address
    ));
    std::fs::write(&path, file).unwrap();
    let args = ["replay", "--dir", "kernel", "--bundle", "bundle", "recording.json", "--hold-seconds", "1"];
    let output = desk.run(&args);
    assert!(output.status.success(), "{output:?}");
    let spans = collector.spans();
    let approval = spans.iter().find(|span| span.name == "sift.approval").unwrap();
    assert!(attributes(approval)["sift.approval.needed"].contains("supervisor"));
    let call = spans.iter().find(|span| span.span_id == approval.parent_span_id).unwrap();
    assert_eq!(attributes(call)["sift.call.name"], "pay");
    assert!(approval.end_time_unix_nano - approval.start_time_unix_nano >= 900_000_000);
    let requests = collector.requests.lock().unwrap();
    let resource = format!("{:?}", requests[0].1.resource_spans[0].resource);
    assert!(resource.contains("desk"), "{resource}");
    // A key that it does not know is refused, as everywhere in the file.
    let file = std::fs::read_to_string(&path).unwrap().replace("service_name", "service");
    std::fs::write(&path, file).unwrap();
    assert_eq!(desk.run(&args).status.code(), Some(2));
}

/// The time of a call does not depend on the collector, and the end of the process waits for two seconds at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_in_trouble_holds_up_nothing() {
    let desk = Desk::new().await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let without = Instant::now();
    let output = desk.replay(None);
    assert!(output.status.success());
    let without = without.elapsed();
    let calls = |output: &std::process::Output| {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        Duration::from_secs_f64(report["replay_seconds"].as_f64().unwrap())
    };
    let alone = calls(&output);
    for (mood, address) in [
        ("unreachable", nobody),
        ("hangs", Collector::start(Mood::Hangs).await.address),
        ("refuses", Collector::start(Mood::Refuses).await.address),
    ] {
        let start = Instant::now();
        let output = replay(&desk, &address);
        let (took, calls) = (start.elapsed(), calls(&output));
        assert!(output.status.success(), "{mood}: {output:?}");
        println!("{mood}: calls {calls:?} (alone {alone:?}), process {took:?} (alone {without:?})");
        // Far below the five seconds that one attempt to send may take.
        assert!(calls < alone + Duration::from_secs(2), "{mood}: {calls:?}");
        assert!(took < without + Duration::from_secs(4), "{mood}: {took:?}");
    }
    // What cannot be an address is said before anything runs.
    let wrong = replay(&desk, "not a url");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("OTEL_EXPORTER_OTLP_"), "{wrong:?}");
}
