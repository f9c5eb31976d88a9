//! `sift-kernel policy simulate` and `explain`: recorded history under another bundle.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use sift_client::store::Store;
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::proof::Proof;
use sift_spec::record::{Body, Call};
use sift_spec::types::{LeafIndex, RunId};

use crate::harness::{POLICY, PRICES};
use crate::policy::{Bench, stderr, stdout};
use crate::program::Desk;

/// Lines of `simulate --json`: the calls, and the totals.
fn lines(output: &Output) -> (Vec<Value>, Value) {
    let text = stdout(output);
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = lines.pop().unwrap_or_else(|| panic!("{output:?}"))["total"].clone();
    (lines, total)
}

fn write(desk: &Desk, path: &str, text: &str) {
    let path = desk.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Another bundle beside the one that decided.
fn other(desk: &Desk, name: &str, policy: &str, files: &[(&str, &str)]) {
    write(desk, &format!("{name}/policy.rego"), policy);
    write(desk, &format!("{name}/prices.toml"), PRICES);
    files.iter().for_each(|(path, text)| write(desk, &format!("{name}/{path}"), text));
}

fn simulate(desk: &Desk, bundle: &str, more: &[&str]) -> Output {
    desk.run(&[&["--json", "policy", "simulate", bundle, "--dir", "kernel"], more].concat())
}

fn effects(total: &Value) -> BTreeMap<String, u64> {
    let one = |row: &Value| {
        let change = format!("{}->{}", row["old"].as_str().unwrap(), row["new"].as_str().unwrap());
        (change, row["count"].as_u64().unwrap())
    };
    total["effects"].as_array().unwrap().iter().map(one).collect()
}

async fn played() -> Desk {
    let desk = Desk::new().await;
    let replayed = desk.replay(None);
    assert!(replayed.status.success(), "{replayed:?}");
    desk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bundle_that_decided_decides_the_same_again() {
    let desk = played().await;
    let output = simulate(&desk, "bundle", &["--expect-no-change"]);
    assert!(output.status.success(), "{output:?}");
    let (calls, total) = lines(&output);
    assert_eq!(
        (calls.len(), &total["calls"], &total["changed"], &total["unknown"]),
        (7, &json!(7), &json!(0), &json!(0))
    );
    let money = &total["settled_micro_usd"];
    assert!(money["recorded"].as_u64().unwrap() > 0);
    assert_eq!(
        (&money["new"], &money["assumed"], &money["spared"]),
        (&money["recorded"], &json!(0), &json!(0))
    );
    assert_eq!(total["recorded_bundles"][0]["bundle"], total["bundle"]);
    // Every input is derived again, byte for byte.
    for call in &calls {
        let (run, seq) = (call["run"].as_str().unwrap(), call["seq"].to_string());
        let explained = desk
            .run(&["--json", "policy", "explain", "bundle", "--dir", "kernel", "--run", run, "--seq", &seq]);
        let report: Value = serde_json::from_slice(&explained.stdout).unwrap();
        assert_eq!((explained.status.code(), &report["agrees"]), (Some(0), &json!(true)), "{report}");
        assert_eq!(report["recorded"]["input"], "derived from the records; the recorded one is the same");
    }
    let only = desk.run(&["policy", "simulate", "bundle", "--dir", "kernel", "--only-changes"]);
    assert!(!stdout(&only).contains("seq") && stdout(&only).contains("7 calls in 1 runs"), "{only:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_bundle_says_what_would_change() {
    let desk = played().await;
    // The money of a model call doubles; two of four model calls are enough; erasing is allowed, paying is not held.
    let policy = POLICY.replace("\"read\", \"write\"", "\"read\", \"write\", \"erase\", \"pay\"");
    let policy = policy.split("hold contains").next().unwrap().to_owned();
    let prices = PRICES.replace("2_500_000", "5_000_000").replace("10_000_000", "20_000_000");
    other(&desk, "new", &policy, &[("budget.toml", "[run]\nmodel_calls = 2\n"), ("prices.toml", &prices)]);
    let output = simulate(&desk, "new", &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (calls, total) = lines(&output);
    let expected = [("allow->allow", 3), ("allow->deny", 2), ("deny->allow", 1), ("hold->allow", 1)];
    assert_eq!(effects(&total), expected.map(|(change, count)| (change.to_owned(), count)).into());
    let rules = [
        json!({ "rule": "read", "effect": "allow", "count": 2 }),
        json!({ "rule": "run model_calls per run", "effect": "deny", "count": 2 }),
    ];
    assert_eq!(total["by_rule"], json!(rules));
    let money = |name: &str| total["settled_micro_usd"][name].as_u64().unwrap();
    // What is left costs twice as much, up to rounding.
    let left = 2 * (money("recorded") - money("spared"));
    assert!(money("spared") > 0 && money("new").abs_diff(left) <= 4, "{total}");
    let refused = calls.iter().find(|call| call["new"]["refusal"] != Value::Null).unwrap();
    assert_eq!(
        (&refused["old"]["effect"], &refused["new"]["effect"], &refused["changes"]),
        (&json!("allow"), &json!("deny"), &json!(true))
    );
    assert_eq!(simulate(&desk, "new", &["--expect-no-change"]).status.code(), Some(1));
    let text = desk.run(&["policy", "simulate", "new", "--dir", "kernel", "--only-changes"]);
    let text = stdout(&text);
    assert!(text.contains("erase: deny by sift.default-deny -> allow by read"), "{text}");
    assert!(
        text.contains("deny by the budget (run model_calls per run)")
            && text.contains("might have gone another way"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_are_folded_anew_and_the_run_may_follow_the_new_decisions() {
    let desk = played().await;
    let policy = "package sift\nallow contains {\"rule\": \"all\"} if not input.facts.account\n\
        allow contains {\"rule\": \"model\"} if input.call.kind == \"model\"\n\
        deny contains {\"rule\": \"balance\", \"reason\": \"x\"} if input.facts.account.balance > 1\n\
        deny contains {\"rule\": \"no-reading\", \"reason\": \"x\"} if {\n\tinput.call.name == \"read\"\n\tinput.agent == data.agent\n}\n";
    let facts = "[[fact]]\nname = \"account\"\ntool = \"read\"\nkey = \"id\"\n";
    other(&desk, "facts", policy, &[("facts.toml", facts), ("data.json", "{\"agent\": \"nobody/x\"}")]);
    let denied = |output: &Output| {
        let (calls, _) = lines(output);
        let denied = calls.into_iter().filter(|call| call["new"]["effect"] == "deny");
        denied
            .map(|call| (call["call"].as_str().unwrap().to_owned(), call["new"]["rules"][0].clone()))
            .collect::<Vec<_>>()
    };
    let named = |names: &[(&str, &str)]| {
        names.iter().map(|(call, rule)| ((*call).to_owned(), json!(rule))).collect::<Vec<_>>()
    };
    // No bundle remembered anything when this was recorded; this one does.
    assert_eq!(denied(&simulate(&desk, "facts", &[])), named(&[("pay", "balance"), ("erase", "balance")]));
    // Denied, the reading was done all the same in what was recorded, and never in what follows the new bundle.
    write(&desk, "facts/data.json", "{\"agent\": \"airline/gpt-4o\"}");
    assert_eq!(
        denied(&simulate(&desk, "facts", &[])),
        named(&[("read", "no-reading"), ("pay", "balance"), ("erase", "balance")])
    );
    assert_eq!(denied(&simulate(&desk, "facts", &["--cascade"])), named(&[("read", "no-reading")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_is_counted_and_not_guessed() {
    let desk = played().await;
    let (mut read, mut reported) = (None, None);
    {
        let store = Store::open(&desk.path("kernel")).unwrap();
        let run = store.runs().unwrap()[0];
        for stored in store.run(run).unwrap() {
            let entry = Entry::parse(stored.entry).unwrap();
            let record = entry.record().unwrap().clone();
            match record.body {
                Body::Intent(intent) => match intent.call {
                    Call::Tool(call) if call.name.as_str() == "read" => {
                        read = Some((run, record.seq, stored.position, call.args.digest));
                    }
                    _ => {}
                },
                Body::Outcome(outcome) if read.as_ref().is_some_and(|read| read.1 == outcome.intent) => {
                    reported = Some((stored.position, outcome.result.unwrap().digest));
                }
                _ => {}
            }
        }
        let (position, digest) = reported.as_ref().unwrap();
        assert!(store.erase_object(*position, digest).unwrap());
    }
    // Nothing rests on it where facts.toml remembers nothing.
    assert!(simulate(&desk, "bundle", &[]).status.success());
    let facts = "[[fact]]\nname = \"account\"\ntool = \"read\"\nkey = \"id\"\n";
    other(&desk, "facts", POLICY, &[("facts.toml", facts)]);
    let output = simulate(&desk, "facts", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (calls, total) = lines(&output);
    assert_eq!(total["unknown"], 5, "all calls after the reading");
    assert!(
        calls
            .iter()
            .filter(|call| call["new"].is_null())
            .all(|call| call["unknown"].as_str().unwrap().contains("facts.toml remembers"))
    );
    assert!(stderr(&output).contains("5 of 7 calls could not be decided again"), "{output:?}");

    let (run, seq, position, digest) = read.unwrap();
    assert!(Store::open(&desk.path("kernel")).unwrap().erase_object(position, &digest).unwrap());
    let (calls, total) = lines(&simulate(&desk, "bundle", &[]));
    assert_eq!(total["unknown"], 1);
    let unknown = calls.iter().find(|call| !call["unknown"].is_null()).unwrap();
    assert_eq!(
        (&unknown["call"], &unknown["unknown"]),
        (&json!("read"), &json!("its arguments are withheld or erased"))
    );
    // The stated input is still there to be decided about.
    let (run, seq) = (run.to_string(), seq.to_string());
    let explained =
        desk.run(&["policy", "explain", "bundle", "--dir", "kernel", "--run", &run, "--seq", &seq]);
    assert!(
        explained.status.success() && stdout(&explained).contains("it cannot be derived again"),
        "{explained:?}"
    );
}

/// The pack of a run as the kernel has it: nothing in it is proved.
fn pack(store: &Store, run: RunId, origin: &str) -> Vec<u8> {
    let records = store.run(run).unwrap();
    let mut pack = Pack {
        run,
        checkpoint: format!("{origin}\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        entries: BTreeMap::new(),
        proof: Proof(Vec::new()),
        bundles: BTreeMap::new(),
        objects: BTreeMap::new(),
    };
    for stored in records {
        pack.objects.append(&mut store.objects(stored.position).unwrap());
        pack.entries.insert(LeafIndex::new(stored.position).unwrap(), stored.entry);
    }
    pack.write().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_say_the_same_as_the_store() {
    let desk = played().await;
    assert!(desk.replay(None).status.success());
    let (_, of_store) = lines(&simulate(&desk, "bundle", &[]));
    let runs = {
        let store = Store::open(&desk.path("kernel")).unwrap();
        let runs = store.runs().unwrap();
        for (number, run) in runs.iter().enumerate() {
            std::fs::write(desk.path(&format!("{number}.sift")), pack(&store, *run, "log.example")).unwrap();
        }
        std::fs::write(desk.path("other.sift"), pack(&store, runs[0], "other.example")).unwrap();
        runs
    };
    assert_eq!(runs.len(), 2);
    let packs =
        |files: &[&str]| desk.run(&[&["--json", "policy", "simulate", "bundle", "--pack"], files].concat());
    // Whatever their order, and a pack that is given twice counts once.
    for files in [&["0.sift", "1.sift"][..], &["1.sift", "0.sift", "1.sift"]] {
        let (_, mut of_packs) = lines(&packs(files));
        of_packs["seconds"] = of_store["seconds"].clone();
        assert_eq!(of_packs, of_store);
    }
    let mixed = packs(&["0.sift", "other.sift"]);
    assert_eq!(mixed.status.code(), Some(2));
    assert!(stderr(&mixed).contains("other.example"), "{mixed:?}");
    let bytes = std::fs::read(desk.path("0.sift")).unwrap();
    std::fs::write(desk.path("cut.sift"), &bytes[..bytes.len() - 7]).unwrap();
    assert_eq!(packs(&["cut.sift"]).status.code(), Some(2));
    let explained = desk.run(&["policy", "explain", "bundle", "--pack", "0.sift", "--seq", "3"]);
    assert!(stdout(&explained).contains("the same"), "{explained:?}");
    // A bundle that would have decided otherwise is told apart.
    other(&desk, "none", "package sift\nallow contains {\"rule\": \"x\"} if input.call.name == \"x\"\n", &[]);
    let explained = desk.run(&["policy", "explain", "none", "--pack", "0.sift", "--seq", "3"]);
    assert_eq!(explained.status.code(), Some(1));
    assert!(
        stdout(&explained).contains("ANOTHER") && stderr(&explained).contains("another one"),
        "{explained:?}"
    );
}

/// Both engines say the same about the recordings, whichever decisions the runs follow. Which rules decide how often is
/// in `spec/rules/tests/airline/`.
#[test]
fn both_engines_change_the_same_in_the_recordings() {
    let airline = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/airline");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tau-airline-gpt-4o.json");
    if !data.exists() {
        println!("skipped: {} is not here", data.display());
        return;
    }
    let bench = Bench::new(&[]);
    for more in [&[][..], &["--cascade"]] {
        let totals = ["rego", "cedar"].map(|engine| {
            let bundle = airline.join(engine);
            let args =
                ["--json", "simulate", bundle.to_str().unwrap(), "--recordings", data.to_str().unwrap()];
            let output = bench.run(&[&args[..], more].concat());
            assert!(output.status.success(), "{}", stderr(&output));
            let (calls, total) = lines(&output);
            let rate = calls.len() as f64 / total["seconds"].as_f64().unwrap();
            println!(
                "{engine} {more:?}: {} calls, {rate:.0} a second, {}",
                calls.len(),
                total["settled_micro_usd"]
            );
            assert_eq!((calls.len(), &total["unknown"]), (1848, &json!(0)));
            assert!(effects(&total)["made->deny"] > 0 && effects(&total)["made->hold"] > 0);
            [total["effects"].clone(), total["by_rule"].clone(), total["settled_micro_usd"].clone()]
        });
        assert_eq!(totals[0], totals[1]);
    }
}

#[test]
fn explain_takes_one_call_apart() {
    let cases = r#"[{ "name": "third", "given": [{ "call": { "tool": "write" }, "repeat": 2 }],
        "call": { "tool": "write" }, "expect": { "effect": "deny" } }]"#;
    let budget = "[run]\nmicro_usd = 10\n";
    let files = [
        ("b/policy.rego", POLICY),
        ("b/prices.toml", PRICES),
        ("b/budget.toml", budget),
        ("b/tests/a.json", cases),
    ];
    let bench = Bench::new(&files);
    let text = |args: &[&str]| {
        let output = bench.run(&[&["explain", "b"], args].concat());
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let held = text(&["--call", r#"{"tool":"pay","args":{"amount":5}}"#]);
    for part in [
        "tool pay",
        "hold: no rule denies",
        "pay  policy.rego:",
        "supervisor within 60 seconds",
        "1 tool_calls",
        "holds it",
    ] {
        assert!(held.contains(part), "{part}: {held}");
    }
    let unknown = text(&["--call", r#"{"tool":"erase"}"#]);
    assert!(unknown.contains("what nothing allows is denied") && unknown.contains("not asked"), "{unknown}");
    let dear =
        text(&["--call", r#"{"model":"gpt-4o","provider":"openai","input_tokens":1000,"max_output":1000}"#]);
    assert!(dear.contains("refuses: run micro_usd per run") && dear.contains("12500 micro_usd"), "{dear}");
    let third = text(&["--case", "third"]);
    assert!(third.contains("two-writes  policy.rego:7  decides"), "{third}");
    assert!(
        third.contains("read  policy.rego:6  fires, outdone") && third.contains("--rules lists them"),
        "{third}"
    );
    let all = text(&["--case", "third", "--rules"]);
    assert!(all.contains("pay  policy.rego:11  not about this call"), "{all}");
    // A rule that fails is named with what is wrong, and denies.
    bench.write("c/p.cedar", "@id(\"all\")\npermit (principal, action, resource);\n@id(\"dear\")\nforbid (principal, action, resource)\nwhen { context.args.amount > 5 };\n");
    let failed = stdout(&bench.run(&["explain", "c", "--call", r#"{"tool":"pay"}"#]));
    for part in
        ["deny: a rule could not be evaluated", "dear  p.cedar:3  fails: ", "all  p.cedar:1  fires, outdone"]
    {
        assert!(failed.contains(part), "{part}: {failed}");
    }
    // The input that it shows is one that it takes.
    let (_, report) = bench.json(&["explain", "b", "--case", "third", "--show-input"]);
    std::fs::write(bench.path("input.json"), serde_json::to_vec_pretty(&report["input"]).unwrap()).unwrap();
    let (code, again) = bench.json(&["explain", "b", "--input", "input.json"]);
    assert_eq!((code, &again["rules"], &again["agrees"]), (0, &report["rules"], &Value::Null));
    std::fs::write(bench.path("input.json"), "{}").unwrap();
    assert!(text(&["--input", "input.json"]).contains("no policy input"));
    for args in [
        &["explain", "b"][..],
        &["explain", "b", "--call", "{"],
        &["explain", "b", "--case", "none"],
        &["explain", "b", "--dir", "k"],
    ] {
        assert_eq!(bench.run(args).status.code(), Some(2), "{args:?}");
    }
}
