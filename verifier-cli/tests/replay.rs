//! `replay`: decisions made again under the recorded bundle and under others. Each way in which a call may change, and
//! each way in which that cannot be told, comes from one honest run. Whatever is replayed is also printed as JSON, and
//! held against the published schema.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::kernel::{BUDGET, FACTS, Kernel, POLICY, PRICES, honest};
use common::{index, schema};
use sift_rules::PolicyBundle;
use sift_rules::simulate::Change;
use sift_spec::bundle::Bundle;
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::meter::Meter;
use sift_spec::payload::Commitment;
use sift_spec::record::{Answer, Effect, LimitRefusal, Record, Refusal, Scope, Status, Window};
use sift_verify::replay::{self, Again, Decided, Options, Replayed, Sums};
use sift_verify::{Verdict, run};
use tempfile::TempDir;

/// The test bundle with files changed or added.
fn bundle(changes: &[(&str, &str)]) -> PolicyBundle {
    let files =
        [("policy.rego", POLICY), ("budget.toml", BUDGET), ("prices.toml", PRICES), ("facts.toml", FACTS)];
    let files = files.into_iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let files = files.chain(changes.iter().copied());
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    PolicyBundle::compile(&Bundle::new(files).unwrap()).unwrap()
}

fn policy(text: &str, by: &str) -> PolicyBundle {
    assert!(POLICY.contains(text), "{text}");
    bundle(&[("policy.rego", &POLICY.replace(text, by))])
}

fn put(dir: &Path, name: &str, pack: &Pack) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, pack.write().unwrap()).unwrap();
    path
}

fn replay_all(packs: &[PathBuf], options: &Options<'_>) -> (Vec<Replayed>, Sums) {
    let mut replayed = Vec::new();
    let sums = replay::replay(packs, &common::trust(), options, |path, one| {
        let one = one.unwrap();
        assert_eq!(one.report.subject(), path.display().to_string());
        schema::hold_all(&replay::lines_json(&one).unwrap());
        replayed.push(one);
    });
    schema::hold_all(&replay::sums_json(&sums).unwrap());
    (replayed, sums)
}

fn options(bundle: Option<&PolicyBundle>) -> Options<'_> {
    let run = run::Options::default();
    Options { run, strict: false, bundle, only_changes: true, threads: None, progress: &() }
}

/// One pack, replayed; its calls are all told where `all`.
fn replay_one(pack: &Pack, options: &Options<'_>) -> (Decided, Sums) {
    let dir = TempDir::new().unwrap();
    let (mut replayed, sums) = replay_all(&[put(dir.path(), "run.sift", pack)], options);
    let Replayed { report, again } = replayed.remove(0);
    let Again::Decided(decided) = again else { panic!("{}", sift_verify::text::render(&report)) };
    (*decided, sums)
}

/// How calls of the honest run change: seq, how, and the effect now.
fn changes(bundle: &PolicyBundle) -> Vec<(u64, Option<Change>, Option<Effect>)> {
    let (decided, sums) = replay_one(&honest().pack(), &options(Some(bundle)));
    let told = decided.calls.iter();
    let told =
        told.map(|call| (call.seq.get(), call.change, call.after.as_ref().ok().map(|said| said.effect)));
    let told: Vec<_> = told.collect();
    assert_eq!(sums.changed() + sums.unknown, told.len() as u64);
    assert_eq!(sums.calls, 7);
    told
}

#[test]
fn under_the_recorded_bundle_everything_comes_out_again() {
    for bundle in [None, Some(&bundle(&[]))] {
        let all = Options { only_changes: false, ..options(bundle) };
        let (decided, sums) = replay_one(&honest().pack(), &all);
        assert_eq!((sums.calls, sums.changed(), sums.unknown), (7, 0, 0));
        let calls: Vec<_> = decided.calls.iter().map(|call| (call.seq.get(), call.name.as_str())).collect();
        let names = ["gpt-4o", "lookup", "refund", "delete", "refund", "lookup", "lookup"];
        assert_eq!(calls, [1, 3, 5, 8, 9, 13, 15].into_iter().zip(names).collect::<Vec<_>>());
        for call in &decided.calls {
            assert_eq!(call.after.as_ref(), Ok(&call.before));
            assert_eq!(call.index, index(call.seq.get() as usize + 3));
        }
        let rules: Vec<_> = sums.rules.iter().map(|((rule, effect), n)| (&**rule, &**effect, *n)).collect();
        let expected = [
            ("delete", "deny", 1),
            ("identical_calls", "deny", 1),
            ("lookup", "allow", 2),
            ("models", "allow", 1),
            ("refund", "hold", 2),
        ];
        assert_eq!(rules, expected);
        let (decided, _) = replay_one(&honest().pack(), &options(bundle));
        assert!(decided.calls.is_empty(), "only changes are told");
    }
}

#[test]
fn each_kind_of_change_is_told() {
    let deny = |seq| (seq, Some(Change::Effect), Some(Effect::Deny));
    // The third lookup is refused by the budget; by the policy is another rule.
    let others = policy(
        "allow contains {\"rule\": \"lookup\"}",
        "deny contains {\"rule\": \"no\", \"reason\": \"no\"}",
    );
    assert_eq!(changes(&others), [deny(3), deny(13), (15, Some(Change::Rules), Some(Effect::Deny))]);
    let allows = policy(
        "deny contains {\"rule\": \"delete\", \"reason\": \"accounts stay\"}",
        "allow contains {\"rule\": \"delete\"}",
    );
    assert_eq!(changes(&allows), [(8, Some(Change::Effect), Some(Effect::Allow))]);
    let hold = |change| [(5, Some(change), Some(Effect::Hold)), (9, Some(change), Some(Effect::Hold))];
    assert_eq!(changes(&policy("\"seconds\": 600} if", "\"seconds\": 60} if")), hold(Change::Hold));
    assert_eq!(changes(&policy("\"rule\": \"refund\"", "\"rule\": \"repay\"")), hold(Change::Rules));
    assert_eq!(changes(&policy("a person decides", "somebody decides")), hold(Change::Reasons));
    let released = policy(
        "\"role\": \"supervisor\", \"seconds\": 600} if",
        "\"role\": \"auditor\", \"seconds\": 600} if",
    );
    assert_eq!(changes(&released), hold(Change::Hold));
}

#[test]
fn limits_prices_and_facts_are_those_of_the_new_bundle() {
    let budget = |from: &str, to: &str| bundle(&[("budget.toml", &BUDGET.replace(from, to))]);
    // The refused call is not refused any more; with one call of a kind, the second is.
    let more = changes(&budget("identical_calls = 2", "identical_calls = 3"));
    assert_eq!(more, [(15, Some(Change::Effect), Some(Effect::Allow))]);
    let fewer = changes(&budget("identical_calls = 2", "identical_calls = 1"));
    let expected =
        [(13, Some(Change::Effect), Some(Effect::Deny)), (15, Some(Change::Reasons), Some(Effect::Deny))];
    assert_eq!(fewer, expected);
    let dear =
        bundle(&[("prices.toml", &PRICES.replace("output = 10_000_000", "output = 10_000_000_000_000"))]);
    assert_eq!(changes(&dear), [(1, Some(Change::Effect), Some(Effect::Deny))]);
    // A rule about a fact that only the new bundle remembers.
    let facts = "[[fact]]\nname = \"balance\"\ntool = \"lookup\"\nkey = \"id\"\nlatest = true\n";
    let rules = POLICY.to_owned()
        + "\ndeny contains {\"rule\": \"paid\", \"reason\": \"nothing was paid\"} if input.facts.balance.paid == 900\n";
    let told = changes(&bundle(&[("facts.toml", facts), ("policy.rego", &rules)]));
    // Of call 15 because call 13, now denied, is not the second of its kind any more.
    assert_eq!(told.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [5, 13, 15], "{told:?}");
}

#[test]
fn what_is_withheld_is_counted_and_not_guessed() {
    let (scenario, new) = (honest(), policy("\"rule\": \"refund\"", "\"rule\": \"repay\""));
    let without = |name: &str| {
        let mut pack = scenario.pack();
        let named = |object: &Commitment| object.name.as_str() == name;
        let records = pack.entries.values().map(|entry| Entry::parse(entry.clone()).unwrap());
        let records: Vec<Record> = records.filter_map(|entry| entry.record().cloned()).collect();
        for commitment in records.iter().flat_map(Record::commitments).filter(|object| named(object)) {
            pack.objects.remove(&commitment.digest);
        }
        pack
    };
    let why = |pack: &Pack, bundle: Option<&PolicyBundle>| {
        let (decided, sums) = replay_one(pack, &options(bundle));
        let why: Vec<_> = decided.calls.iter().filter_map(|call| call.after.clone().err()).collect();
        assert_eq!(sums.unknown, why.len() as u64);
        why
    };
    // Arguments: no tool call can be decided anew. Under the recorded bundle the committed inputs are enough.
    let told = why(&without("arguments"), Some(&new));
    assert!(told.len() == 6 && told[0] == "its arguments are withheld or erased", "{told:?}");
    assert_eq!(why(&without("arguments"), None), [""; 0]);
    // Policy inputs: they are derived.
    assert_eq!(why(&without("policy-input"), Some(&new)), [""; 0]);
    assert_eq!(why(&without("policy-input"), None), [""; 0]);
    // Results that facts.toml remembers: nothing after the first is known. A bundle that remembers none needs none.
    let results = without("result");
    let remembered = "a result that facts.toml remembers is withheld or erased, of call 3";
    assert_eq!(why(&results, Some(&new)), [remembered; 5]);
    let forgets = bundle(&[("facts.toml", "")]);
    assert_eq!(why(&results, Some(&forgets)), [""; 0]);
    // Everything: what is left to decide about is the call of the model.
    let all = Pack { objects: Default::default(), ..scenario.pack() };
    assert_eq!(why(&all, Some(&new)).len(), 6);
    assert_eq!(why(&all, None).len(), 6);
}

#[test]
fn a_refusal_by_what_other_runs_used_is_not_judged_alone() {
    let budget = BUDGET.to_owned() + "[agent]\ntool_calls = 5\n";
    let mut kernel = Kernel::open(&budget);
    let (meter, scope, window) = (Meter::ToolCalls, Scope::Agent, Window::Run);
    let limit = LimitRefusal { have: 5, limit: 5, meter, need: 1, scope, window };
    kernel.elsewhere = Some(Refusal::Limit(limit));
    kernel.tool("lookup", br#"{"id":"R1"}"#);
    let call = kernel.tool("lookup", br#"{"id":"R2"}"#);
    kernel.finish(call, Status::Ok, br#"{"id":"R2"}"#, None);
    let pack = kernel.close().pack();
    let (decided, sums) = replay_one(&pack, &options(Some(&bundle(&[("budget.toml", &budget)]))));
    assert_eq!((sums.calls, sums.unknown, sums.changed()), (2, 1, 0));
    assert!(decided.calls[0].after.as_ref().unwrap_err().contains("the other runs are not here"));
    // A policy that denies it needs no ledger.
    let denies = policy(
        "allow contains {\"rule\": \"lookup\"}",
        "deny contains {\"rule\": \"no\", \"reason\": \"no\"}",
    );
    let (_, sums) = replay_one(&pack, &options(Some(&denies)));
    assert_eq!((sums.unknown, sums.changed()), (0, 2));
}

#[test]
fn what_does_not_verify_is_not_replayed() {
    let dir = TempDir::new().unwrap();
    let scenario = honest();
    let mut lies = scenario.clone();
    let common::Draft { body: sift_spec::record::Body::Intent(intent), .. } = &mut lies.drafts[8] else {
        panic!()
    };
    intent.decision.effect = Effect::Allow;
    let mut cut = scenario.pack().write().unwrap();
    cut.truncate(1000);
    std::fs::write(dir.path().join("cut.sift"), cut).unwrap();
    let packs = [
        put(dir.path(), "lies.sift", &lies.pack()),
        dir.path().join("cut.sift"),
        put(dir.path(), "honest.sift", &scenario.pack()),
        put(dir.path(), "again.sift", &scenario.pack()),
        put(dir.path(), "other.sift", &common::kernel::wired().pack()),
    ];
    for threads in [1, 2, 5] {
        for under in [None, Some(&bundle(&[]))] {
            let threads = std::num::NonZeroUsize::new(threads);
            let (replayed, sums) = replay_all(&packs, &Options { threads, ..options(under) });
            let became: Vec<_> = replayed
                .iter()
                .map(|one| match one.again {
                    Again::Decided(_) => "decided",
                    Again::Twice(_) => "twice",
                    Again::Rejected => "rejected",
                })
                .collect();
            // The last is of the same run identifier too.
            assert_eq!(became, ["rejected", "rejected", "decided", "twice", "twice"]);
            assert_eq!((sums.packs, sums.rejected, sums.twice, sums.runs, sums.calls), (5, 2, 2, 1, 7));
            assert_eq!(replayed[0].report.verdict(), Verdict::Rejected);
        }
    }
    // Strictly, what is withheld rejects.
    let withheld = Pack { objects: Default::default(), ..scenario.pack() };
    let withheld = [put(dir.path(), "withheld.sift", &withheld)];
    let (_, sums) = replay_all(&withheld, &options(None));
    assert_eq!((sums.rejected, sums.unknown), (0, 6));
    let (_, sums) = replay_all(&withheld, &Options { strict: true, ..options(None) });
    assert_eq!((sums.rejected, sums.calls), (1, 0));
}

#[test]
fn a_policy_without_end_or_with_errors_denies_and_ends() {
    // 40^4 steps for each call, which the limit of instructions ends.
    let endless = POLICY.to_owned()
        + "\nmany := {n | some a in data.n; some b in data.n; some c in data.n; some d in data.n; n := (a + b) + (c + d)}\n\
           deny contains {\"rule\": \"many\", \"reason\": \"many\"} if count(many) == 0\n";
    let numbers: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let data = format!("{{\"n\":[{}]}}", numbers.join(","));
    let errs = POLICY.to_owned()
        + "\ndeny contains {\"rule\": \"errs\", \"reason\": \"errs\"} if to_number(input.call.kind) > 1\n";
    for bundle in
        [bundle(&[("policy.rego", &endless), ("data.json", &data)]), bundle(&[("policy.rego", &errs)])]
    {
        let (decided, sums) = replay_one(&honest().pack(), &options(Some(&bundle)));
        assert_eq!((sums.calls, sums.changed()), (7, 7));
        for call in &decided.calls {
            let after = call.after.as_ref().unwrap();
            assert_eq!(
                (after.effect, after.names()),
                (Effect::Deny, vec!["sift.evaluation-error".to_owned()])
            );
        }
    }
}

#[test]
fn a_run_in_progress_is_replayed_where_it_is_accepted() {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.tool("refund", br#"{"id":"R1"}"#);
    kernel.answer(call, Answer::Approve);
    let mut scenario = kernel.close();
    scenario.drafts.last_mut().unwrap().dropped = true;
    let dir = TempDir::new().unwrap();
    let packs = [put(dir.path(), "open.sift", &scenario.pack())];
    assert_eq!(replay_all(&packs, &options(None)).1.rejected, 1);
    let accepts = Options { run: run::Options { allow_open: true }, ..options(None) };
    assert_eq!(replay_all(&packs, &accepts).1.calls, 1);
}
