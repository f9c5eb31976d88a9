//! Makes the vectors: for every code the smallest evidence that gives it, from fixed keys, salts and times.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::meter::Meter;
use sift_spec::note::KeyType;
use sift_spec::proof::{TreeHead, prove_consistency, prove_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::record::{
    Answer, Body, Call, Erase, LimitRefusal, OperatorBody, OperatorRecord, Refusal, Scope, Status, Window,
};
use sift_spec::types::{Hash, Text, TreeSize};
use sift_verify::{Code, Gap};
use tempfile::TempDir;

use super::watches::Watch;
use crate::common::bad_runs::intent;
use crate::common::delegated;
use crate::common::kernel::{BUDGET, Kernel, PROPOSAL, honest, tiny};
use crate::common::{self, Scenario, Sealed, bad_logs, bad_runs, index, log_key, tiles};

/// What a vector must give.
pub(crate) struct Case {
    /// Folder of its files: the code that it is a vector of.
    pub(crate) code: &'static str,
    /// Arguments of `sift-verify`, in the folder of all vectors.
    pub(crate) arguments: Vec<String>,
    pub(crate) findings: Vec<Code>,
    pub(crate) unchecked: Vec<Gap>,
    /// Of two copies that are compared, what each gives on its own.
    pub(crate) sides: Vec<Side>,
}

/// What one of two copies gives on its own.
pub(crate) struct Side {
    pub(crate) findings: Vec<Code>,
    pub(crate) unchecked: Vec<Gap>,
}

/// All vectors: files by path, cases, and what followers are shown.
#[derive(Default)]
pub(crate) struct Vectors {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) cases: Vec<Case>,
    pub(crate) watches: Vec<Watch>,
}

/// The trust file of most vectors.
pub(super) const TRUST: &str = "trust.txt";
/// One that asks for a witness.
pub(super) const WITNESSED: &str = "trust-witnessed.txt";
/// One without an operator.
const NO_OPERATOR: &str = "trust-no-operator.txt";

/// What follows where a run's records are not one chain.
const BROKEN: [Gap; 1] = [Gap::NotReached];
/// What every run with approvals leaves.
const SHOWN: [Gap; 1] = [Gap::ShownUnchecked];
/// What every whole log leaves.
const SEMANTICS: [Gap; 1] = [Gap::SemanticsUnchecked];

pub(crate) fn made() -> Vectors {
    let mut vectors = Vectors::default();
    let trust = common::trust_text();
    let witness = format!("witness w {}\nquorum w", common::witness_key().verifier());
    let unowned: String =
        trust.lines().filter(|line| !line.starts_with("#sift")).map(|line| format!("{line}\n")).collect();
    vectors.put(WITNESSED, trust.replace("quorum none", &witness).as_bytes());
    vectors.put(NO_OPERATOR, unowned.as_bytes());
    vectors.put(TRUST, trust.as_bytes());
    vectors.runs();
    vectors.gaps_of_runs();
    vectors.proofs();
    vectors.logs();
    vectors.heads();
    vectors.copies();
    vectors.watches();
    let lines: String = vectors.cases.iter().map(|case| case.line() + "\n").collect();
    vectors.put("cases.jsonl", lines.as_bytes());
    let lines: String = vectors.watches.iter().map(|watch| watch.line() + "\n").collect();
    vectors.put("follow.jsonl", lines.as_bytes());
    vectors
}

impl Case {
    /// The exit code: any finding of any report rejects.
    pub(crate) fn exit(&self) -> i32 {
        i32::from(!self.findings.is_empty() || self.sides.iter().any(|side| !side.findings.is_empty()))
    }

    /// The same when what better evidence could have shown rejects as well.
    pub(crate) fn exit_strict(&self) -> i32 {
        let gaps = self.sides.iter().flat_map(|side| &side.unchecked).chain(&self.unchecked);
        self.exit().max(i32::from(gaps.into_iter().any(|gap| !gap.is_out_of_scope())))
    }

    fn line(&self) -> String {
        let codes = |codes: Vec<&str>| serde_json::to_string(&codes).unwrap();
        let said = |findings: &[Code], unchecked: &[Gap]| {
            let findings = codes(findings.iter().map(|code| code.code()).collect());
            let unchecked = codes(unchecked.iter().map(|code| code.code()).collect());
            format!(r#""findings":{findings},"unchecked":{unchecked}"#)
        };
        let sides: Vec<String> =
            self.sides.iter().map(|side| format!("{{{}}}", said(&side.findings, &side.unchecked))).collect();
        let sides =
            if sides.is_empty() { String::new() } else { format!(r#","sides":[{}]"#, sides.join(",")) };
        format!(
            r#"{{"code":"{}","arguments":{},"exit":{},{}{sides}}}"#,
            self.code,
            serde_json::to_string(&self.arguments).unwrap(),
            self.exit(),
            said(&self.findings, &self.unchecked),
        )
    }
}

impl Vectors {
    pub(super) fn put(&mut self, path: &str, bytes: &[u8]) {
        assert!(self.files.insert(path.to_owned(), bytes.to_vec()).is_none(), "{path} twice");
    }

    fn case(&mut self, code: &'static str, arguments: &[&str], findings: &[Code], unchecked: &[Gap]) {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (findings, unchecked) = (findings.to_vec(), unchecked.to_vec());
        self.cases.push(Case { code, arguments, findings, unchecked, sides: Vec::new() });
    }

    fn has(&self, verb: &str, code: Code) -> bool {
        self.cases.iter().any(|case| case.code == code.code() && case.arguments[0] == verb)
    }

    fn run(&mut self, code: &'static str, trust: &str, pack: &[u8], findings: &[Code], unchecked: &[Gap]) {
        let path = format!("{code}/run.sift");
        self.put(&path, pack);
        self.case(code, &["run", "--trust", trust, &path], findings, unchecked);
    }

    /// The first falsified run of each code.
    fn runs(&mut self) {
        for (_, code, change) in bad_runs::MUTATIONS {
            if self.has("run", *code) {
                continue;
            }
            let unchecked: &[Gap] = match code {
                Code::PackMalformed => &[],
                Code::ChainGap
                | Code::ChainFork
                | Code::PrevDiffers
                | Code::TimeBackwards
                | Code::RunMismatch
                | Code::AfterClose => &BROKEN,
                Code::BudgetExceeded | Code::OutcomeUnexpected => {
                    &[Gap::CancelledUnproven, Gap::ShownUnchecked]
                }
                _ => &SHOWN,
            };
            self.run(code.code(), TRUST, &change.made(), &[*code], unchecked);
        }
        let pack = honest().pack().write().unwrap();
        self.run(Code::NotWitnessed.code(), WITNESSED, &pack, &[Code::NotWitnessed], &SHOWN);
        let (_, _, change) = bad_runs::MUTATIONS.iter().find(|(_, code, _)| *code == Code::ChainGap).unwrap();
        self.run(Gap::NotReached.code(), TRUST, &change.made(), &[Code::ChainGap], &BROKEN);
    }

    /// Honest runs, each with one thing that nobody can check.
    fn gaps_of_runs(&mut self) {
        let of = |calls: fn(&mut Kernel)| {
            let mut kernel = Kernel::open(BUDGET);
            calls(&mut kernel);
            kernel.close()
        };
        let looked_up = of(|kernel| {
            let call = kernel.tool("lookup", b"{}");
            kernel.finish(call, Status::Ok, b"{}", None);
        });
        let asked = of(|kernel| {
            let call = kernel.model(br#"{"max_tokens":100,"model":"gpt-4o"}"#);
            kernel.finish(call, Status::Ok, PROPOSAL, None);
        });
        let result_of = |scenario: &Scenario| match &scenario.drafts[2].body {
            Body::Outcome(outcome) => outcome.result.as_ref().unwrap().digest,
            other => panic!("{}", other.kind()),
        };
        let without = |scenario: &Scenario, digest: Hash| {
            let mut pack = scenario.pack();
            pack.objects.remove(&digest).unwrap();
            pack
        };

        let mut scenario = tiny();
        scenario.operator_after.clear();
        scenario.left_out = std::mem::take(&mut scenario.other_entries);
        self.gap(&[Gap::RevocationUnproven], &scenario.pack());
        let mut scenario = tiny();
        scenario.drafts.pop();
        self.gap_of_open(&[Gap::RunOpen], &scenario.pack());
        let mut scenario = looked_up.clone();
        scenario.drafts.truncate(2);
        let mut pack = scenario.pack();
        pack.objects.remove(&result_of(&looked_up));
        self.gap_of_open(&[Gap::OutcomePending, Gap::RunOpen], &pack);
        self.gap(&[Gap::PayloadWithheld], &without(&asked, result_of(&asked)));
        let mut scenario = asked.clone();
        let erase = Erase { digest: result_of(&asked), reason: Text::cut("test") };
        scenario.operator_after.push(OperatorBody::Erase(erase));
        self.gap(&[Gap::PayloadErased], &without(&scenario, result_of(&asked)));
        self.gap(&[Gap::BundleMissing], &Pack { bundles: BTreeMap::new(), ..asked.pack() });
        let mut scenario = tiny();
        let Body::Open(open) = &mut scenario.drafts[0].body else { panic!("no open") };
        open.engine = Text::cut("rego/another-1.0");
        self.gap(&[Gap::EngineDiffers], &scenario.pack());
        let mut scenario = looked_up.clone();
        let Call::Tool(call) = &intent(&mut scenario, 1).call else { panic!("no tool call") };
        let args = call.args.digest;
        self.gap(&[Gap::DecisionUnchecked, Gap::PayloadWithheld], &without(&scenario, args));
        let proposed = of(|kernel| {
            let call = kernel.model(br#"{"max_tokens":100,"model":"gpt-4o"}"#);
            kernel.finish(call, Status::Ok, b"an answer in prose", None);
            kernel.proposer = Some(call);
            let call = kernel.tool("lookup", b"{}");
            kernel.finish(call, Status::Ok, b"{}", None);
        });
        self.gap(&[Gap::ProposalUnchecked], &proposed.pack());
        let held = of(|kernel| {
            let call = kernel.tool("refund", b"{}");
            kernel.answer(call, Answer::Refuse);
            kernel.finish(call, Status::Cancelled, b"", None);
        });
        self.gap(&[Gap::ShownUnchecked], &held.pack());
        let unbounded = of(|kernel| {
            let call = kernel.model(b"{}");
            kernel.finish(call, Status::Ok, b"{}", None);
        });
        self.gap(&[Gap::BoundUnchecked], &unbounded.pack());
        self.gap(&[Gap::SumUnchecked], &Kernel::open("[agent]\ntool_calls = 9\n").close().pack());
        let given_up = of(|kernel| {
            let call = kernel.tool("lookup", b"{}");
            kernel.finish(call, Status::Cancelled, b"", None);
        });
        self.gap(&[Gap::CancelledUnproven], &given_up.pack());
        let used = delegated::calls(3).with(Meter::Agents, 1);
        let close = delegated::closed(&common::other_kernel_key(), |_| {});
        let mut scenario = delegated::parent(Some(&close), used);
        scenario.operator_before.pop();
        scenario.operator_after.clear();
        scenario.left_out = std::mem::take(&mut scenario.other_entries);
        self.gap(&[Gap::DelegatorUnproven, Gap::RevocationUnproven], &scenario.pack());
        self.gap(&[Gap::ParentUnchecked], &delegated::delegated().pack());

        // Refused by the run above this one, whose limit this run does not have.
        let mut kernel = Kernel::below("");
        kernel.elsewhere = Some(Refusal::Limit(LimitRefusal {
            have: 2,
            limit: 2,
            meter: Meter::ToolCalls,
            need: 1,
            scope: Scope::Run,
            window: Window::Run,
        }));
        kernel.tool("lookup", b"{}");
        let path = "sum-unchecked/above.sift";
        self.put(path, &kernel.close().pack().write().unwrap());
        let both = [Gap::SumUnchecked, Gap::ParentUnchecked];
        self.case(Gap::SumUnchecked.code(), &["run", "--trust", TRUST, path], &[], &both);
    }

    /// A run that verifies and leaves these gaps, the first of which it is a vector of.
    fn gap(&mut self, gaps: &[Gap], pack: &Pack) {
        self.run(gaps[0].code(), TRUST, &pack.write().unwrap(), &[], gaps);
    }

    fn gap_of_open(&mut self, gaps: &[Gap], pack: &Pack) {
        self.gap(gaps, pack);
        self.cases.last_mut().unwrap().arguments.insert(1, "--open".to_owned());
    }

    fn proof(
        &mut self,
        code: &'static str,
        trust: &str,
        evidence: (&[u8], &str),
        findings: &[Code],
        unchecked: &[Gap],
    ) {
        let (entry, receipt) = (format!("{code}/entry.note"), format!("{code}/entry.tlog-proof"));
        self.put(&entry, evidence.0);
        self.put(&receipt, evidence.1.as_bytes());
        let arguments = ["proof", "--trust", trust, "--entry", &entry, "--receipt", &receipt];
        self.case(code, &arguments, findings, unchecked);
    }

    fn proofs(&mut self) {
        let sealed = honest().seal();
        let (first, receipt_of_first) = (&sealed.entries[0], receipt(&sealed, 0));
        let alone = |entry: &[u8]| {
            let sealed = Sealed { entries: vec![entry.to_vec()], in_pack: Vec::new() };
            (sealed.entries[0].clone(), receipt(&sealed, 0))
        };
        let mut found = |code: Code, trust: &str, entry: &[u8], receipt: &str| {
            self.proof(code.code(), trust, (entry, receipt), &[code], &[]);
        };
        found(Code::ReceiptMalformed, TRUST, first, &receipt_of_first.replace("@v1", "@v2"));
        let stranger = common::key(common::LOG, KeyType::Ed25519, 77);
        let forged = Receipt::parse(receipt_of_first.as_bytes()).unwrap();
        let forged = Receipt { checkpoint: common::checkpoint(sealed.head(), &stranger), ..forged };
        found(Code::CheckpointInvalid, TRUST, first, &forged.to_string());
        found(Code::NotWitnessed, WITNESSED, first, &receipt_of_first);
        found(Code::NotIncluded, TRUST, first, &receipt(&sealed, 1));
        let (entry, its) = alone("sift/record@v1\n{}\n\n\u{2014} a AAAAAAAA\n".as_bytes());
        found(Code::RecordMalformed, TRUST, &entry, &its);
        let mut spoilt = first.clone();
        common::spoil_signature(&mut spoilt);
        let (entry, its) = alone(&spoilt);
        found(Code::SignatureInvalid, TRUST, &entry, &its);

        let record = OperatorRecord {
            body: honest().operator_before.remove(0),
            log: "other.example".parse().unwrap(),
            prev: None,
            seq: common::seq(0),
            time: common::millis(common::START_MS),
        };
        let entry = Entry::sign_operator(&record, &common::operator_key()).unwrap().into_bytes();
        let (entry, its) = alone(&entry);
        found(Code::OperatorInvalid, TRUST, &entry, &its);
        let mut record = bad_logs::open_of(&honest());
        let Body::Open(open) = &mut record.body else { panic!("no open") };
        open.log = "other.example".parse().unwrap();
        let entry = Entry::sign(&record, &common::kernel_key()).unwrap().into_bytes();
        let (entry, its) = alone(&entry);
        let (mismatch, unchecked) = (Code::RunMismatch, Gap::GrantUnchecked);
        self.proof(mismatch.code(), TRUST, (&entry, &its), &[mismatch], &[unchecked]);
        self.proof(unchecked.code(), TRUST, (&sealed.entries[3], &receipt(&sealed, 3)), &[], &[unchecked]);
        let unread = Gap::ContentUnread;
        let (entry, its) = alone(b"hello");
        self.proof(unread.code(), TRUST, (&entry, &its), &[], &[unread]);
        let nobodys = Gap::NoOperator;
        self.proof(nobodys.code(), NO_OPERATOR, (first, &receipt_of_first), &[], &[nobodys]);
    }

    /// A log as `write` writes it.
    fn log(
        &mut self,
        code: &'static str,
        trust: &str,
        write: impl FnOnce(&Path),
        findings: &[Code],
        unchecked: &[Gap],
    ) {
        let folder = format!("{code}/log");
        let dir = TempDir::new().unwrap();
        write(dir.path());
        self.put_all(&folder, dir.path());
        self.case(code, &["log", "--trust", trust, &folder], findings, unchecked);
    }

    pub(super) fn put_all(&mut self, folder: &str, dir: &Path) {
        for item in fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            let name = format!("{folder}/{}", item.file_name().to_str().unwrap());
            if item.path().is_dir() {
                self.put_all(&name, &item.path());
            } else {
                self.put(&name, &fs::read(item.path()).unwrap());
            }
        }
    }

    /// The first falsified log of each code.
    fn logs(&mut self) {
        for (_, code, change) in bad_logs::MUTATIONS {
            let unchecked: &[Gap] = match code {
                // Judged by the same function in a pack.
                Code::AfterClose | Code::PrevDiffers | Code::RunMismatch | Code::TimeBackwards => continue,
                Code::CheckpointInvalid => &[],
                _ => &SEMANTICS,
            };
            if !self.has("log", *code) {
                self.log(code.code(), TRUST, |dir| change.write(dir), &[*code], unchecked);
            }
        }
        let mut scenario = tiny();
        scenario.other_entries.clear();
        let sealed = scenario.seal();
        let honest = |dir: &Path| tiles::write(&sealed, dir);
        self.log(Code::NotWitnessed.code(), WITNESSED, honest, &[Code::NotWitnessed], &[]);
        self.log(Gap::SemanticsUnchecked.code(), TRUST, honest, &[], &SEMANTICS);
        let nobodys = [Gap::NoOperator, Gap::SemanticsUnchecked];
        self.log(Gap::NoOperator.code(), NO_OPERATOR, honest, &[], &nobodys);
    }

    /// Two heads, with a proof or a log to make one from.
    fn heads(&mut self) {
        let sealed = tiny().seal();
        let mut fork = sealed.clone();
        fork.entries[1] = b"another history".to_vec();
        let (tree, size) = (sealed.tree(), sealed.entries.len());
        let of = |sealed: &Sealed, size: usize| {
            let size = TreeSize::new(size as u64).unwrap();
            let head = TreeHead { size, root: sealed.tree().root(size).unwrap() };
            common::checkpoint(head, &log_key())
        };
        let (whole, old, forked) = (of(&sealed, size), of(&sealed, 3), of(&fork, 3));
        let proof = prove_consistency(TreeSize::new(3).unwrap(), tree.size(), &tree).unwrap();
        let proof: String = proof.0.iter().map(|hash| format!("{hash}\n")).collect();
        self.compare(Code::HeadsInconsistent, [&of(&fork, size), &whole], "--log", &[]);
        self.compare(Code::ConsistencyUnproven, [&forked, &whole], "--proof", proof.as_bytes());
        let stranger = common::checkpoint(sealed.head(), &common::key(common::LOG, KeyType::Ed25519, 77));
        self.compare(Code::CheckpointInvalid, [&stranger, &whole], "", &[]);
        // Tiles of another tree prove nothing about this one.
        self.compare(Code::TileDiffers, [&old, &of(&fork, size)], "--log", &[]);
        let dir = TempDir::new().unwrap();
        tiles::write(&sealed, dir.path());
        for code in [Code::HeadsInconsistent, Code::TileDiffers] {
            self.put_all(&format!("{code}/mirror"), dir.path());
        }
    }

    fn compare(&mut self, code: Code, heads: [&str; 2], basis: &str, proof: &[u8]) {
        let path = |name: &str| format!("{code}/{name}");
        let (old, new) = (path("old.checkpoint"), path("new.checkpoint"));
        self.put(&old, heads[0].as_bytes());
        self.put(&new, heads[1].as_bytes());
        let basis_path = path(if basis == "--log" { "mirror" } else { "old-new.proof" });
        let mut arguments = vec!["consistency", "--trust", TRUST, &old, &new];
        if !basis.is_empty() {
            arguments.extend([basis, basis_path.as_str()]);
        }
        if basis == "--proof" {
            self.put(&basis_path, proof);
        }
        self.case(code.code(), &arguments, &[code], &[]);
    }
}

fn receipt(sealed: &Sealed, at: usize) -> String {
    let tree = sealed.tree();
    let proof = prove_inclusion(index(at), tree.size(), &tree).unwrap();
    Receipt { extra: None, index: index(at), proof, checkpoint: sealed.checkpoint() }.to_string()
}
