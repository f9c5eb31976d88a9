//! `diff`: two copies that agree, that are of two times, that are damaged, and that prove that somebody told two stories.
//! Whatever is compared is also printed as JSON, and held against the published schema.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::kernel::{BUDGET, Kernel, honest, tiny};
use common::{Draft, Scenario, Sealed, index, run_id, schema, tiles};
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::proof::prove_multi_inclusion;
use sift_spec::record::{Body, KeyRole, Record, Status};
use sift_spec::types::LeafIndex;
use sift_verify::diff::{Diff, compare_logs, compare_packs};
use sift_verify::source::{Directory, Source};
use sift_verify::{CannotCheck, Code, Gap, Report, Verdict, log, run};
use tempfile::TempDir;

fn packs_with(a: &[u8], b: &[u8], log: Option<&dyn Source>) -> Result<Diff, CannotCheck> {
    let options = run::Options { allow_open: true };
    compare_packs([("a.sift", a), ("b.sift", b)], log, &common::trust(), &options).map(held)
}

/// The same, once the line that is printed for each report is one of the schema.
fn held(diff: Diff) -> Diff {
    for report in diff.sides.iter().chain([&diff.report]) {
        schema::hold(&report.to_json().unwrap());
    }
    diff
}

fn packs(a: &Pack, b: &Pack) -> Diff {
    packs_with(&a.write().unwrap(), &b.write().unwrap(), None).unwrap()
}

fn codes(report: &Report) -> Vec<Code> {
    report.findings().iter().map(|finding| finding.code).collect()
}

fn gaps(report: &Report) -> Vec<(Gap, &str)> {
    report.unchecked().iter().map(|gap| (gap.code, gap.detail.as_str())).collect()
}

fn verdicts(diff: &Diff) -> [Verdict; 3] {
    [diff.sides[0].verdict(), diff.sides[1].verdict(), diff.report.verdict()]
}

const FINE: [Verdict; 3] = [Verdict::Verified; 3];

/// A pack of a log as it was when it had fewer entries.
fn earlier(scenario: &Scenario, entries: usize) -> (Sealed, Pack) {
    let mut sealed = scenario.seal();
    sealed.entries.truncate(entries);
    sealed.in_pack.retain(|at| *at < entries);
    let pack = pruned(sealed.pack(scenario));
    (sealed, pack)
}

/// The honest run, and the same one with another call at the end: both signed by the kernel.
fn two_stories() -> (Scenario, Scenario) {
    let honest = honest();
    let mut other = honest.clone();
    for at in 13..16 {
        other.drafts[at] = Draft::new(common::kernel::beat(at as u64), other.drafts[at].time);
    }
    (honest, other)
}

/// The pack without objects that none of its records commits to.
fn pruned(pack: Pack) -> Pack {
    let entries = pack.entries.values().map(|bytes| Entry::parse(bytes.clone()).unwrap());
    let of_entry = |entry: Entry| match entry.record() {
        Some(record) => record.commitments().into_iter().map(|one| one.digest).collect(),
        None => Vec::new(),
    };
    let known: Vec<_> = entries.flat_map(of_entry).collect();
    let objects = pack.objects.into_iter().filter(|(digest, _)| known.contains(digest)).collect();
    Pack { objects, ..pack }
}

#[test]
fn the_same_pack_is_the_same() {
    let pack = honest().pack();
    let diff = packs(&pack, &pack);
    assert_eq!(verdicts(&diff), FINE);
    assert_eq!((codes(&diff.report), gaps(&diff.report)), (vec![], vec![]));
    let claims: Vec<_> = diff.report.verified().iter().map(|claim| (claim.what, claim.count)).collect();
    assert_eq!(claims, [("checkpoint", 1), ("checkpoint", 1), ("consistency", 1), ("entries", 21)]);
    assert_eq!(diff.report.judged(true).verdict(), Verdict::Verified);
}

#[test]
fn an_earlier_or_shorter_copy_contradicts_nothing() {
    let scenario = honest();
    let whole = scenario.pack();
    let (_, early) = earlier(&scenario, 14);
    let diff = packs(&early, &whole);
    assert_eq!(verdicts(&diff), FINE, "{}", sift_verify::text::render(&diff.report));
    let told = gaps(&diff.report);
    assert_eq!(told[0], (Gap::HeadsUncompared, "a.sift has the tree of 14 entries, b.sift that of 22"));
    assert_eq!(told[1], (Gap::OnlyInOne, "6 records, from seq 11 to 16: only in b.sift"));
    assert!(told.iter().any(|(_, detail)| *detail == "an entry that is none of the run's: only in b.sift"));
    assert!(told.contains(&(Gap::OnlyInOne, "the payload result: only in b.sift")));
    assert_eq!(diff.report.judged(true).verdict(), Verdict::Rejected);
    // With the log, one head is proven to extend the other; with another log, that one is at fault.
    let dir = TempDir::new().unwrap();
    tiles::write(&scenario.seal(), dir.path());
    let (a, b) = (early.write().unwrap(), whole.write().unwrap());
    let diff = packs_with(&a, &b, Some(&Directory::new(dir.path()))).unwrap();
    assert_eq!(verdicts(&diff), FINE);
    assert!(gaps(&diff.report).iter().all(|(gap, _)| *gap == Gap::OnlyInOne));
    let other = TempDir::new().unwrap();
    tiles::write(&two_stories().1.seal(), other.path());
    let diff = packs_with(&a, &b, Some(&Directory::new(other.path()))).unwrap();
    assert_eq!(codes(&diff.report), [Code::TileDiffers]);

    let without = Pack { objects: Default::default(), bundles: Default::default(), ..whole.clone() };
    let diff = packs(&whole, &without);
    assert_eq!((verdicts(&diff), codes(&diff.report)), (FINE, vec![]));
    let told = gaps(&diff.report);
    assert_eq!(told.len(), 1 + whole.objects.len());
    assert!(told.contains(&(Gap::OnlyInOne, "a policy bundle: only in a.sift")));
    assert!(told.contains(&(Gap::OnlyInOne, "the payload request: only in a.sift")));
    assert!(diff.report.unchecked().iter().all(|gap| gap.concern.object.is_some()));
}

#[test]
fn a_kernel_that_told_two_stories_is_named_with_both() {
    // One log holds both: as one that does not refuse the second would.
    let (honest, other) = two_stories();
    let (mut log, fork) = (honest.seal(), other.seal());
    let mine = pruned(log.pack(&honest));
    let start = log.entries.len();
    log.in_pack.retain(|at| *at < 16 || *at == 21);
    for at in 16..20 {
        log.in_pack.push(log.entries.len());
        log.entries.push(fork.entries[at].clone());
    }
    let theirs = pruned(log.pack(&other));
    let mine = {
        let mut all = log.clone();
        all.in_pack = honest.seal().in_pack;
        Pack { objects: mine.objects, ..pruned(all.pack(&honest)) }
    };
    for (a, b, at) in [(&mine, &theirs, 16), (&theirs, &mine, start)] {
        let diff = packs(a, b);
        assert_eq!(
            diff.sides[0].verdict(),
            Verdict::Verified,
            "{}",
            sift_verify::text::render(&diff.sides[0])
        );
        assert_eq!(
            diff.sides[1].verdict(),
            Verdict::Verified,
            "{}",
            sift_verify::text::render(&diff.sides[1])
        );
        assert_eq!(codes(&diff.report), [Code::ChainFork; 4]);
        let first = &diff.report.findings()[0];
        assert_eq!((first.concern.seq, first.concern.index), (Some(common::seq(13)), Some(index(at))));
        for part in ["acme.example/kernel signed both", "index 16", &format!("index {start}")] {
            assert!(first.detail.contains(part), "{}", first.detail);
        }
    }
}

#[test]
fn a_log_that_showed_two_histories_is_named_with_both() {
    let (honest, other) = two_stories();
    let diff = packs(&honest.pack(), &pruned(other.pack()));
    assert_eq!(diff.sides.each_ref().map(Report::verdict), [Verdict::Verified; 2]);
    // The heads, the first index, and the kernel that signed for both.
    let mut expected = vec![Code::HeadsInconsistent, Code::HeadsInconsistent];
    expected.extend([Code::ChainFork; 4]);
    assert_eq!(codes(&diff.report), expected);
    let at = &diff.report.findings()[1];
    assert_eq!(at.concern.index, Some(index(16)));
    for part in ["log.example/sift signed both trees", "later ones that differ: 3"] {
        assert!(at.detail.contains(part), "{}", at.detail);
    }
    // Of two sizes no proof is needed either: one index holds two entries.
    let (_, early) = earlier(&other, 20);
    let diff = packs(&honest.pack(), &early);
    assert_eq!(codes(&diff.report)[0], Code::HeadsInconsistent);
    assert_eq!(gaps(&diff.report)[0].0, Gap::HeadsUncompared);
    // The same record at two places.
    let mut twice = honest.seal();
    let last = twice.entries[19].clone();
    twice.entries.push(last);
    let mut moved = twice.clone();
    moved.in_pack.retain(|at| *at != 19);
    moved.in_pack.push(22);
    let diff = packs(&twice.pack(&honest), &moved.pack(&honest));
    assert_eq!(codes(&diff.report), [Code::HeadsInconsistent]);
    assert!(diff.report.findings()[0].detail.contains("took in one record twice"));
}

/// Neither copy was changed, and neither kernel told two stories: a log that is not honest let two of them open one run.
#[test]
fn a_run_that_two_kernels_opened_is_no_changed_copy() {
    let mut scenario = tiny();
    let second = common::other_kernel_key();
    scenario.operator_before.push(common::grant(&second, KeyRole::Kernel));
    let mut log = scenario.seal();
    let mut prev = None;
    let again = [4, 5].map(|at| {
        let record = Entry::parse(log.entries[at].clone()).unwrap().record().unwrap().clone();
        let entry = Entry::sign(&Record { prev, ..record }, &second).unwrap();
        prev = Some(entry.leaf());
        entry.into_bytes()
    });
    log.entries.splice(6..6, again);
    let pack = |records: [usize; 2]| {
        let in_pack = (0..4).chain(records).chain([9]).collect();
        Sealed { in_pack, ..log.clone() }.pack(&scenario)
    };
    let (mine, theirs) = (pack([4, 5]), pack([6, 7]));
    for (a, b) in [(&mine, &theirs), (&theirs, &mine)] {
        let diff = packs(a, b);
        assert_eq!(verdicts(&diff), [Verdict::Verified, Verdict::Verified, Verdict::Rejected]);
        assert_eq!(codes(&diff.report), [Code::RunMismatch; 2]);
        let detail = &diff.report.findings()[0].detail;
        for part in ["opened by two kernels", "acme.example/kernel", "acme.example/other"] {
            assert!(detail.contains(part), "{detail}");
        }
    }
    // What is not proven is no proof against the log.
    let mut unproven = theirs.clone();
    unproven.proof.0[0] = common::bytes_hash(9);
    assert_eq!(codes(&packs(&mine, &unproven).report), [Code::CopiesDiffer; 2]);
}

#[test]
fn a_damaged_or_forged_copy_proves_nothing_about_its_signer() {
    let scenario = honest();
    let honest = scenario.pack();
    // Changed after signing.
    let mut edited = honest.clone();
    let step = edited.entries.get_mut(&index(11)).unwrap();
    *step = String::from_utf8(step.clone()).unwrap().replace("accounts stay", "accounts went").into_bytes();
    let diff = packs(&honest, &edited);
    assert_eq!(verdicts(&diff), [Verdict::Verified, Verdict::Rejected, Verdict::Rejected]);
    assert_eq!(codes(&diff.report), [Code::CopiesDiffer; 2]);
    // Signed again, by a key of that name which nobody granted, in a log of its own.
    let mut resigned = scenario.clone();
    for draft in &mut resigned.drafts[8..] {
        draft.stranger = true;
    }
    let sealed = resigned.seal();
    let diff = packs(&honest, &sealed.pack(&resigned));
    assert_eq!(verdicts(&diff), [Verdict::Verified, Verdict::Rejected, Verdict::Rejected]);
    // The log did sign both heads; the kernel did not sign both records.
    assert!(!codes(&diff.report).contains(&Code::ChainFork), "{:?}", codes(&diff.report));
    // No pack at all.
    let cut = &honest.write().unwrap()[..1000];
    let diff = packs_with(cut, &honest.write().unwrap(), None).unwrap();
    assert_eq!(diff.sides[0].verdict(), Verdict::Rejected);
    assert_eq!(gaps(&diff.report)[0].0, Gap::NotReached);
    // Another run.
    let stranger = Scenario { run: run_id(3), ..tiny() };
    let other = packs_with(&honest.write().unwrap(), &stranger.pack().write().unwrap(), None);
    assert!(matches!(other, Err(CannotCheck::TwoRuns(..))));
}

#[test]
fn no_flipped_byte_proves_a_second_story() {
    let honest = honest().pack().write().unwrap();
    let mut rejected = 0;
    for at in (0..honest.len()).step_by(101) {
        let mut flipped = honest.clone();
        flipped[at] ^= 1;
        let Ok(diff) = packs_with(&honest, &flipped, None) else { continue };
        assert!(!codes(&diff.report).contains(&Code::ChainFork), "byte {at}");
        assert!(!codes(&diff.report).contains(&Code::HeadsInconsistent), "byte {at}");
        assert_ne!(verdicts(&diff), FINE, "byte {at}");
        rejected += 1;
    }
    assert!(rejected > 100, "{rejected}");
}

/// A log of entries that are none of Sift's, as many logs hold.
fn log_of(entries: usize, changed: &[usize]) -> Sealed {
    let entry = |at| if changed.contains(&at) { format!("other {at}") } else { format!("entry {at}") };
    Sealed { entries: (0..entries).map(|at| entry(at).into_bytes()).collect(), in_pack: Vec::new() }
}

/// A directory that counts what is read.
struct Counting(Directory, AtomicUsize);

impl Source for Counting {
    fn name(&self) -> String {
        self.0.name()
    }

    fn fetch(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, CannotCheck> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.fetch(path, bytes_max)
    }
}

fn written(sealed: &Sealed, dir: &Path) -> Counting {
    tiles::write(sealed, dir);
    Counting(Directory::new(dir), AtomicUsize::new(0))
}

fn logs(a: &Sealed, b: &Sealed, audit: bool) -> (Diff, usize) {
    let (in_a, in_b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (a, b) = (written(a, in_a.path()), written(b, in_b.path()));
    let options = log::Options::default();
    let diff = held(compare_logs([&a, &b], &common::trust(), audit.then_some(&options)).unwrap());
    (diff, a.1.load(Ordering::Relaxed).max(b.1.load(Ordering::Relaxed)))
}

#[test]
fn mirrors_of_two_times_agree() {
    for (a, b) in [(1, 1), (700, 700), (1, 700), (255, 256), (256, 257), (511, 700), (512, 513), (700, 3)] {
        let (diff, _) = logs(&log_of(a, &[]), &log_of(b, &[]), false);
        assert_eq!(verdicts(&diff), FINE, "{a} {b}");
        assert_eq!(diff.report.verified()[0].count, a.min(b) as u64);
        let expected = a.abs_diff(b);
        let more: Vec<_> = gaps(&diff.report).into_iter().map(|(gap, _)| gap).collect();
        assert_eq!(more, vec![Gap::OnlyInOne; usize::from(expected > 0)]);
    }
}

#[test]
fn the_first_entry_that_differs_is_found_by_few_tiles() {
    for (size_a, size_b) in [(1, 1), (2, 3), (300, 300), (700, 513), (257, 700)] {
        let both: usize = size_a.min(size_b);
        for at in
            [0, 1, both / 2, both.saturating_sub(2), both - 1, 255, 256].into_iter().filter(|at| *at < both)
        {
            let later = [at, (at + 200).min(both - 1)];
            let (diff, read) = logs(&log_of(size_a, &[]), &log_of(size_b, &later), false);
            assert_eq!(codes(&diff.report), [Code::HeadsInconsistent], "{size_a} {size_b} {at}");
            let found = &diff.report.findings()[0];
            assert_eq!(found.concern.index, Some(index(at)));
            assert!(found.detail.starts_with("log.example/sift signed two trees"), "{}", found.detail);
            assert!(read < 12, "{read} of a log of {size_a}");
        }
    }
}

#[test]
fn every_entry_that_differs_is_listed_when_asked() {
    // Real records: with --full both are verified as `log` does.
    let (honest, other) = two_stories();
    let (diff, _) = logs(&honest.seal(), &other.seal(), true);
    assert_eq!(diff.sides.each_ref().map(Report::verdict), [Verdict::Verified; 2]);
    let found: Vec<_> =
        diff.report.findings().iter().map(|found| (found.code, found.concern.index)).collect();
    let expected: Vec<_> = (16..20).map(|at| (Code::HeadsInconsistent, Some(index(at)))).collect();
    assert_eq!(found, expected);
    let first = &diff.report.findings()[0].detail;
    assert!(first.contains(&format!("the intent of run {} at seq 13", honest.run)), "{first}");
    assert!(first.contains("the beat of run"), "{first}");
    let (diff, _) = logs(&honest.seal(), &honest.seal(), true);
    assert_eq!(verdicts(&diff), FINE);
}

#[test]
fn a_mirror_that_contradicts_its_own_head_is_damaged() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (sealed, other) = (log_of(700, &[]), log_of(700, &[300]));
    let (in_a, in_b) = (written(&sealed, a.path()), written(&other, b.path()));
    let compare = || held(compare_logs([&in_a, &in_b], &common::trust(), None).unwrap());
    let spoil = |path: &str, at: usize| {
        let path = b.path().join(path);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        move || std::fs::write(&path, &good).unwrap()
    };
    // The tile of the roots, then that of the leaves on the way down, then the entry itself.
    let mend = spoil("tile/1/000.p/2", 40);
    assert_eq!(codes(&compare().report), [Code::TileDiffers]);
    mend();
    let mend = spoil("tile/0/001", 7);
    let diff = compare();
    assert_eq!(codes(&diff.report), [Code::TileDiffers]);
    assert!(
        diff.report.findings()[0].concern.path.as_deref() == Some("tile/0/001"),
        "{:?}",
        diff.report.findings()
    );
    mend();
    let mend = spoil("tile/entries/001", 2 + 44 * 11);
    assert_eq!(codes(&compare().report), [Code::BundleMalformed, Code::HeadsInconsistent]);
    mend();
    assert_eq!(codes(&compare().report), [Code::HeadsInconsistent]);
    // A head that nobody signed, and a log of another name.
    std::fs::write(b.path().join("checkpoint"), sealed.checkpoint().replace("700", "701")).unwrap();
    let diff = compare();
    assert_eq!(codes(&diff.sides[1]), [Code::CheckpointInvalid]);
    assert_eq!((codes(&diff.report), gaps(&diff.report)[0].0), (vec![], Gap::NotReached));
    std::fs::remove_file(b.path().join("checkpoint")).unwrap();
    let missing = compare_logs([&in_a, &in_b], &common::trust(), None);
    assert!(matches!(missing, Err(CannotCheck::NoCheckpoint(_))));
}

#[test]
fn a_run_under_way_can_be_compared() {
    let mut kernel = Kernel::open(BUDGET);
    let call = kernel.tool("lookup", br#"{"id":"R1"}"#);
    kernel.finish(call, Status::Ok, br#"{"id":"R1"}"#, None);
    let scenario = kernel.close();
    assert!(matches!(scenario.drafts.last().unwrap().body, Body::Close(_)));
    let (sealed, early) = earlier(&scenario, 5);
    assert_eq!(early.entries.keys().copied().map(LeafIndex::get).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let tree = sealed.tree();
    let all: Vec<LeafIndex> = early.entries.keys().copied().collect();
    assert_eq!(early.proof, prove_multi_inclusion(&all, tree.size(), &tree).unwrap());
    let diff = packs(&early, &scenario.pack());
    assert_eq!(verdicts(&diff), FINE);
    assert!(gaps(&diff.report).iter().any(|(_, detail)| detail.starts_with("2 records, from seq 2 to 3")));
}
