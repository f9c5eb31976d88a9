//! Schemathesis, which others wrote, on the log's OpenAPI document: it makes requests from the document, good and bad, and
//! compares every answer with it. All its checks are on.

use std::path::PathBuf;
use std::process::{Command, Output};

use sift_spec::types::{Seq, UnixMillis};
use sift_tests::{TestLog, check_log, python};

/// At a fixed version, from PyPI.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What differs from its defaults, and why.
const CONFIG: &str = r#"
# A stream has no end of its own: two events of each are read, or what comes within a second.
[[operations]]
include-path = "/v1/checkpoints/stream"
max-stream-events = 2
request-timeout = 1.0
generation.max-examples = 10

# A record is canonical JSON in a note, signed by an enrolled key over the hash of the record before it: no schema makes
# one, so 400 is right for whatever is made from the schema.
[[operations]]
include-path = "/v1/records"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "409", "429"]

# That the later tree is not the smaller one is a condition between two parameters, which a schema cannot say.
[[operations]]
include-path = "/v1/proof/consistency"
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "404"]
"#;

/// The program; or why it is not there.
fn install() -> Result<PathBuf, String> {
    let program =
        python::environment(&SCHEMATHESIS.replace("==", "-"), &[SCHEMATHESIS])?.join("bin/schemathesis");
    let version = run(Command::new(&program).arg("--version"))?;
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    Ok(program)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_answers_as_its_document_says() {
    let program = match install() {
        Ok(program) => program,
        Err(why) if std::env::var_os("CI").is_none() => {
            println!("skipped: {SCHEMATHESIS} is not to be had: {why}");
            return;
        }
        Err(why) => panic!("{SCHEMATHESIS} is not to be had: {why}"),
    };
    // Something of everything: a full tile, several runs, kept checkpoints, an equivocation.
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    for calls in [140, 3, 0, 20] {
        let records = writer.run(calls);
        log.http.add_all(&writer.entries(&records)).await.unwrap();
        let time = UnixMillis::new(records[0].time.get() + 1).unwrap();
        let other = sift_spec::record::Record { time, seq: Seq::ZERO, ..records[0].clone() };
        assert_eq!(log.http.add(writer.sign(&other).bytes()).await.unwrap().status, 409);
    }
    let before = log.http.get("/checkpoint").await.unwrap().body;
    let document: serde_json::Value = log.http.get("/openapi.json").await.unwrap().json();
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|item| item.as_object().unwrap().len()).sum();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("schemathesis.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("{}/openapi.json", log.http.url())])
        .args(["--checks", "all", "--seed", "1", "--max-examples", "50", "--workers", "1"])
        .args(["--request-timeout", "10", "--continue-on-failure", "--max-failures", "20"])
        .current_dir(dir.path())
        .env("NO_COLOR", "1");
    let found = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&found.stdout);
    println!("{said}{}", String::from_utf8_lossy(&found.stderr));
    assert!(found.status.success(), "the log does not answer as its document says");
    // It did all of it: every operation but that of the document itself, which it leaves out, in every phase.
    let others = operations - 1;
    assert!(said.contains(&format!("{others} selected / {others} total")), "of {others} operations");
    for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
        assert!(said.contains(&format!("✅ {phase}")), "{phase}");
    }
    // Whatever was sent, nothing of it is in the log, and the log is whole.
    assert_eq!(log.http.get("/checkpoint").await.unwrap().body, before);
    check_log(&log.http, &log.trust()).await;
}
