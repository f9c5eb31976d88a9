//! What whoever runs a log relies on: metrics that say what was done, health that says what is, logs that say it once.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use sift_spec::api::ProblemKind;
use sift_spec::receipt::Receipt;
use sift_tests::{Scrape, TestLog, new_key, program};

async fn scrape(log: &TestLog) -> Scrape {
    let answer = log.http.get("/metrics").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.media, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    Scrape::parse(&answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_was_done() {
    let log = TestLog::start().await;
    let fresh = scrape(&log).await;
    assert_eq!(fresh.get("sift_log_records_admitted_total", &[]), 0.0);
    assert_eq!(fresh.get("sift_log_tree_size", &[("head", "committed")]), 0.0);
    // Every kind of problem is there from the start, so that an alarm on it can be written.
    for kind in ProblemKind::ALL {
        let kind = kind.urn().strip_prefix("urn:sift:problem:").unwrap();
        assert_eq!(fresh.get("sift_log_problems_total", &[("kind", kind)]), 0.0);
    }

    // Two operator records; a bundle of 22; 3 alone; one of them again.
    let writer = log.writer("test/kernel").await;
    let entries = writer.entries(&writer.run(10));
    log.http.add_all(&entries).await.unwrap();
    let single = writer.entries(&writer.run(1));
    for entry in &single[..3] {
        Receipt::parse(&log.http.add(entry).await.unwrap().body).unwrap();
    }
    log.http.add(&single[1]).await.unwrap();
    // Refused: two without a signature that holds, one by a stranger, one twice in a place, three that are nothing.
    let mut forged = single[3].clone();
    let end = forged.len() - 20;
    forged[end] = if forged[end] == b'A' { b'B' } else { b'A' };
    log.http.add(&forged).await.unwrap();
    log.http.add_all(&[forged]).await.unwrap();
    let stranger = sift_tests::Writer::new(new_key("test/stranger"), &writer.log);
    log.http.add(&stranger.entries(&stranger.run(0))[0]).await.unwrap();
    let mut other = writer.run(1);
    other.iter_mut().for_each(|record| {
        record.run = sift_spec::entry::Entry::parse(single[0].clone()).unwrap().record().unwrap().run;
    });
    log.http.add(&writer.entries(&other)[0]).await.unwrap();
    for _ in 0..3 {
        log.http.add(b"nothing").await.unwrap();
    }
    log.http.get("/v1/records/9999").await.unwrap();
    log.http.get("/no/such/path").await.unwrap();
    log.http.post("/checkpoint", "text/plain", vec![]).await.unwrap();

    let told = scrape(&log).await;
    let admitted = 2.0 + 22.0 + 3.0;
    assert_eq!(told.get("sift_log_records_admitted_total", &[]), admitted);
    for head in ["committed", "published"] {
        assert_eq!(told.get("sift_log_tree_size", &[("head", head)]), admitted);
    }
    assert_eq!(told.get("sift_log_commit_entries_sum", &[]), admitted);
    assert_eq!(told.get("sift_log_records_repeated_total", &[]), 1.0);
    assert_eq!(told.get("sift_log_equivocations_total", &[]), 1.0);
    // The commit of the equivocation holds no entry: 1 + 1 + 1 + 3 with entries, and that one.
    assert_eq!(told.get("sift_log_commit_seconds_count", &[]), 7.0);
    assert_eq!(told.get("sift_log_commit_entries_count", &[]), 7.0);
    let refused = |kind: &str| told.get("sift_log_records_refused_total", &[("kind", kind)]);
    assert_eq!(refused("signature-invalid"), 2.0);
    assert_eq!(refused("key-not-granted"), 1.0);
    assert_eq!(refused("equivocation"), 1.0);
    assert_eq!(refused("malformed-record"), 3.0);
    assert_eq!(told.sum("sift_log_records_refused_total"), 7.0);
    let problems = |kind: &str| told.get("sift_log_problems_total", &[("kind", kind)]);
    // One of the two was in a bundle, whose request was answered with 200.
    assert_eq!(problems("signature-invalid"), 1.0);
    assert_eq!(problems("not-found"), 2.0);
    assert_eq!(problems("method-not-allowed"), 1.0);
    let requests = |route, method, status| {
        told.get("sift_log_requests_total", &[("route", route), ("method", method), ("status", status)])
    };
    // Two of the operator, the bundles, 3 + 1 single ones.
    assert_eq!(requests("/v1/records", "POST", "2xx"), 2.0 + 2.0 + 4.0);
    assert_eq!(requests("/v1/records", "POST", "4xx"), 6.0);
    assert_eq!(requests("/v1/records/{name}", "GET", "4xx"), 1.0);
    assert_eq!(requests("none", "GET", "4xx"), 1.0);
    assert_eq!(requests("/metrics", "GET", "2xx"), 1.0);
    let of_records = [("route", "/v1/records"), ("method", "POST")];
    assert_eq!(told.get("sift_log_request_seconds_count", &of_records), 14.0);
    assert!(told.get("sift_log_request_seconds_sum", &of_records) > 0.0);
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
        "sift_log_store_bytes",
        "sift_log_store_files",
        "sift_log_store_memtables_bytes",
        "sift_log_disk_free_bytes",
        "sift_log_last_commit_timestamp_seconds",
        "sift_log_queue_requests_max",
        "sift_log_writing",
    ] {
        assert!(told.get(name, &[]) > 0.0, "{name}");
    }
    assert_eq!(told.get("sift_log_run_heads_cached", &[]), 2.0);
    println!("{} families", told.families().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logs_in_one_process_count_apart() {
    let (one, other) = (TestLog::start().await, TestLog::start().await);
    let writer = one.writer("test/kernel").await;
    one.http.add_all(&writer.entries(&writer.run(3))).await.unwrap();
    assert_eq!(scrape(&one).await.get("sift_log_records_admitted_total", &[]), 10.0);
    assert_eq!(scrape(&other).await.get("sift_log_records_admitted_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_says_why() {
    let log = TestLog::start().await;
    assert_eq!(log.http.get("/healthz").await.unwrap().text(), "ok\n");
    assert_eq!(log.http.get("/readyz").await.unwrap().text(), "ready\n");
    let verbose = log.http.get("/readyz?verbose=true").await.unwrap();
    assert_eq!((verbose.status, verbose.media.as_str()), (200, "application/json"));
    let verbose: serde_json::Value = serde_json::from_slice(&verbose.body).unwrap();
    assert_eq!(verbose["ready"], true, "{verbose}");
    let names: Vec<&str> =
        verbose["checks"].as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert!(names.starts_with(&["sequencer", "queue", "disk"]), "{names:?}");
}

fn sift_server(args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program("sift-server"));
    command.args(args).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Value and source of a setting, as `check-config` prints them.
fn setting<'a>(printed: &'a str, key: &str) -> (&'a str, &'a str) {
    let line = printed.lines().find(|line| line.split_whitespace().next() == Some(key)).expect(printed);
    let (source, value) = line[key.len()..].trim().split_once(' ').expect(line);
    (source, value.trim())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_says_what_is_in_force_and_where_it_came_from() {
    let mut log = TestLog::start().await;
    let dir = log.dir().to_str().unwrap().to_owned();
    // The log runs, and is not disturbed.
    let (code, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.ends_with("nothing is wrong\n"), "{printed}");
    assert_eq!(setting(&printed, "queue_max"), ("file", "4096"));
    assert_eq!(setting(&printed, "log_format"), ("file", "\"text\""));
    let environment = [("SIFT_SERVER_QUEUE_MAX", "8"), ("SIFT_SERVER_CONNECTIONS_MAX", "9")];
    let (_, printed, _) = sift_server(&["check-config", "--dir", &dir, "--queue-max", "7"], &environment);
    assert_eq!(setting(&printed, "queue_max"), ("flag", "7"));
    assert_eq!(setting(&printed, "connections_max"), ("environment", "9"));
    // The private key is named and never said.
    let secret = std::fs::read_to_string(log.dir().join("log.key")).unwrap();
    let secret = secret.trim().splitn(5, '+').last().unwrap();
    assert!(secret.len() > 40 && !printed.contains(secret));
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_tells_all_that_is_wrong() {
    let mut log = TestLog::start().await;
    log.stop().await;
    let dir = log.dir().to_str().unwrap().to_owned();
    let path = log.dir().join("sift-server.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    // Two misspelt keys, and a number that is none.
    let bad = good
        .replace("queue_max = 4096", "queue_mx = 1\nconections_max = 2")
        .replace("connections_max = 4096", "connections_max = \"many\"");
    std::fs::write(&path, bad).unwrap();
    let (code, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    println!("{printed}");
    assert_eq!(code, Some(1));
    assert!(printed.contains("3 problems"), "{printed}");
    assert!(
        printed.contains("queue_mx: line 5: there is no such setting; did you mean \"queue_max\"?"),
        "{printed}"
    );
    assert!(printed.contains("did you mean \"connections_max\"?"), "{printed}");
    // `serve` says the same, and does not start.
    let (code, _, said) = sift_server(&["serve", "--dir", &dir], &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("did you mean \"queue_max\"?") && said.contains("did you mean \"connections_max\"?"),
        "{said}"
    );

    // What the file names: a key that others may read and that is another's, an operator who is none, a checkpoint
    // that is not there.
    std::fs::write(&path, &good).unwrap();
    let seen = log.dir().join("no-such-checkpoint");
    std::fs::write(&path, format!("seen = [\"{}\"]\n{good}", seen.display())).unwrap();
    let key = log.dir().join("log.key");
    let other = new_key("test.sift.example/log").to_secret_text();
    std::fs::write(&key, other.as_bytes()).unwrap();
    let (code, printed, _) =
        sift_server(&["check-config", "--dir", &dir, "--operator", "nobody", "--json"], &[]);
    assert_eq!(code, Some(1));
    let told: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told["ok"], false);
    let keys: Vec<&str> =
        told["problems"].as_array().unwrap().iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    println!("{told:#}");
    assert_eq!(keys, ["operator", "log_key", "seen", "trust.policy"]);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (_, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    assert!(printed.contains("chmod 600"), "{printed}");
    let (code, printed, _) = sift_server(&["check-config", "--dir", "/nowhere"], &[]);
    assert_eq!(code, Some(1));
    assert!(printed.contains("sift-server init"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_knows_of_key_changes_and_witnesses() {
    let mut log = TestLog::start().await;
    log.stop().await;
    let (path, key) = (log.dir().join("sift-server.toml"), log.config_mut().log_key.clone());
    let good = std::fs::read_to_string(&path).unwrap();
    let dir = log.dir().to_str().unwrap().to_owned();
    let next = log.dir().join("log-2.key");
    sift_server::rotation::next_key(log.config_mut(), &next).unwrap();
    let next_and =
        |also: &str| format!("log_key = \"{}\"\n{also}{}", next.display(), without(&good, "log_key"));
    // The next key alone is another log's, as far as the store knows; beside the old one it is this log's.
    std::fs::write(&path, next_and("")).unwrap();
    let (code, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    assert!(code == Some(1) && printed.contains("log_key"), "{printed}");
    let also = format!("log_keys_also = [\"{}\"]\n", key.display());
    std::fs::write(&path, next_and(&also)).unwrap();
    let (code, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    assert!(code == Some(0) && printed.ends_with("nothing is wrong\n"), "{printed}");
    // A policy file that is not there.
    std::fs::write(&path, format!("{good}\n[witnesses]\npolicy = \"/nowhere\"\n")).unwrap();
    let (code, printed, _) = sift_server(&["check-config", "--dir", &dir], &[]);
    assert!(code == Some(1) && printed.contains("witnesses") && printed.contains("/nowhere"), "{printed}");
}

/// A configuration without one of its settings.
fn without(text: &str, key: &str) -> String {
    text.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_where_it_is_asked_for_and_say_it_once() {
    let mut log = TestLog::start().await;
    log.stop().await;
    let mut child = Command::new(program("sift-server"))
        .args(["serve", "--log-format", "json", "--dir"])
        .arg(log.dir())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| {
        let line = line.unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let mut said = Vec::new();
    let address = loop {
        let line = lines.next().expect("a line");
        let address = line["address"].as_str().map(str::to_owned);
        said.push(line);
        if let Some(address) = address {
            break address;
        }
    };
    let http = sift_tests::Http::new(&format!("http://{address}"));
    for _ in 0..20 {
        assert_eq!(http.add(b"nothing").await.unwrap().status, 400);
    }
    // SIGTERM, by the program that everybody has for it.
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    said.extend(lines);
    assert!(child.wait().unwrap().success());
    let messages: Vec<&str> = said.iter().map(|line| line["message"].as_str().unwrap()).collect();
    println!("{messages:#?}");
    let count = |start: &str| messages.iter().filter(|message| message.starts_with(start)).count();
    for once in ["starting", "recovered", "serving", "refused", "stopping", "stopped"] {
        assert_eq!(count(once), 1, "{once}");
    }
    assert!(said.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    // A refused start is said in the same form, with its reason.
    std::fs::remove_file(log.dir().join("log.key")).unwrap();
    let (code, _, said) =
        sift_server(&["serve", "--log-format", "json", "--dir", log.dir().to_str().unwrap()], &[]);
    assert_eq!(code, Some(1));
    let refused = said.lines().find(|line| line.contains("not serving")).expect(&said);
    let refused: serde_json::Value = serde_json::from_str(refused).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("log.key"), "{refused}");
}

#[test]
fn help_teaches() {
    for command in ["init", "serve", "check-config", "fsck", "backup", "restore", "operator"] {
        let (code, printed, _) = sift_server(&[command, "--help"], &[]);
        assert_eq!(code, Some(0), "{command}");
        if command != "operator" {
            assert!(printed.contains("Example"), "{command}: {printed}");
        }
    }
    let (_, printed, _) = sift_server(&["serve", "--help"], &[]);
    // Every setting is a flag and a variable.
    for setting in sift_server::settings::SETTINGS {
        assert!(printed.contains(&format!("--{}", setting.flag)), "{}", setting.key);
        assert!(printed.contains(setting.variable), "{}", setting.key);
    }
    let (code, _, said) = sift_server(&["fsk"], &[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("fsck"), "{said}");
}
