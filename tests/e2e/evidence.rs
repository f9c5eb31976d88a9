//! A real run's evidence, changed in every way: nothing that was changed may verify.

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::store::{Retention, Store};
use sift_client::{Clock as _, CloseReason, Mode, OpenRun, Payload, Report, SystemClock, ToolCall, Verdict};
use sift_spec::evidence::Pack;
use sift_spec::meter::Usage;
use sift_spec::proof::prove_multi_inclusion;
use sift_spec::tree::MemoryTree;
use sift_spec::types::LeafIndex;
use sift_tests::{check_log, done, tool};
use sift_verify::run::{Options, verify};
use sift_verify::{Code, Report as Findings};

use crate::kernel::Scene;

/// A run with a tool call, a model call and a denial, and its pack.
async fn packed() -> (Scene, Pack) {
    let scene = Scene::new().await;
    let kernel = scene.kernel(Mode::Spool).await;
    // Another run, so that the pack is not the whole log.
    let other = kernel.open_run(OpenRun::of("test/other".parse().unwrap())).await.unwrap();
    other.close(CloseReason::Done).await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    tool(&run, "act", "one").await.dispatch(|| async { done() }).await.unwrap();
    let call = sift_client::ModelCall {
        provider: "p".to_owned(),
        model: "m".to_owned(),
        request: br#"{"model":"m","messages":[]}"#.to_vec(),
        max_output: Some(50),
    };
    let Verdict::Permitted(permit) = run.propose(call).await.unwrap() else { panic!("permitted") };
    let usage = Usage { input: 9, output: 7, ..Usage::default() };
    let answer = Report::ok(Payload::json(b"{}".to_vec())).with_model("m-1", Some("resp"), "provider", usage);
    permit.dispatch(|| async move { answer }).await.unwrap();
    let call =
        ToolCall { name: "unheard".to_owned(), id: "x".to_owned(), args: b"{}".to_vec(), proposed_by: None };
    let Verdict::Denied(_) = run.propose(call).await.unwrap() else { panic!("denied") };
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(std::time::Duration::from_secs(20)).await);
    let log = LogClient::new(scene.log.http.url()).unwrap();
    let pack =
        collect(run.id(), kernel.store(), &log, &scene.log.trust(), Disclosure::Everything).await.unwrap();
    kernel.close().await;
    (scene, pack)
}

fn judge(pack: &[u8], scene: &Scene) -> Findings {
    verify(pack, &scene.log.trust(), &Options::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn intact_evidence_verifies() {
    let (scene, pack) = packed().await;
    let report = judge(&pack.write().unwrap(), &scene);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    assert!(report.verified().len() >= 9);
    // Without payloads it verifies as well, and says what it could not look at.
    let withheld = Pack { objects: Default::default(), ..pack };
    let report = judge(&withheld.write().unwrap(), &scene);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    assert!(report.unchecked().iter().any(|gap| gap.code == sift_verify::Gap::PayloadWithheld));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_does_next_proves_that_nothing_was_revoked_before() {
    let (scene, pack) = packed().await;
    let unproven = |report: &Findings| {
        report.unchecked().iter().any(|gap| gap.code == sift_verify::Gap::RevocationUnproven)
    };
    assert!(unproven(&judge(&pack.write().unwrap(), &scene)), "the operator may have revoked since");
    let next = sift_tests::new_key("test/next");
    scene.log.operator().grant(next.verifier(), sift_spec::record::KeyRole::Kernel, "*").await;
    let path = format!("/v1/runs/{}/evidence", pack.run);
    let mut later = Pack::read(&scene.log.http.get(&path).await.unwrap().body).unwrap();
    assert_eq!(later.entries.len(), pack.entries.len() + 1);
    later.bundles = pack.bundles;
    later.objects = pack.objects;
    let report = judge(&later.write().unwrap(), &scene);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    assert!(!unproven(&report), "{:?}", report.unchecked());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_counts() {
    let (scene, pack) = packed().await;
    let bytes = pack.write().unwrap();
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 1 << (position % 8);
        let report = judge(&changed, &scene);
        assert!(!report.findings().is_empty(), "byte {position} may be changed");
    }
    for length in (0..bytes.len()).step_by(61) {
        assert!(!judge(&bytes[..length], &scene).findings().is_empty(), "cut to {length} bytes");
    }
    assert!(!judge(&[&bytes[..], b"x"].concat(), &scene).findings().is_empty(), "extended");
    println!("{} bytes flipped: none of these packs verifies", bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_counts() {
    let (scene, pack) = packed().await;
    let (_, entries) = check_log(&scene.log.http, &scene.log.trust()).await;
    let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
    // An entry left out, with an honest proof for the rest: the run has a gap, no beginning, no end, or no key.
    let indices: Vec<LeafIndex> = pack.entries.keys().copied().collect();
    let mut seen = std::collections::BTreeSet::new();
    for left_out in &indices {
        let mut less = pack.clone();
        less.entries.remove(left_out);
        let rest: Vec<LeafIndex> = less.entries.keys().copied().collect();
        less.proof = prove_multi_inclusion(&rest, tree.size(), &tree).unwrap();
        let report = judge(&less.write().unwrap(), &scene);
        assert!(!report.findings().is_empty(), "without entry {left_out}");
        seen.extend(report.findings().iter().map(|finding| finding.code));
    }
    for code in [Code::KeyNotGranted, Code::PolicyNotPublished, Code::ChainGap, Code::TailMissing] {
        assert!(seen.contains(&code), "{code} is not among {seen:?}");
    }
    // A foreign run's evidence under this run's name; another proof; another bundle; a payload too many.
    let (_, other) = packed().await;
    let foreign = Pack { run: other.run, ..pack.clone() };
    assert!(!judge(&foreign.write().unwrap(), &scene).findings().is_empty());
    let mut unproven = pack.clone();
    unproven.proof.0.push(sift_spec::hash::EMPTY_ROOT);
    assert!(judge(&unproven.write().unwrap(), &scene).findings().iter().any(|f| f.code == Code::NotIncluded));
    let mut stray = pack.clone();
    stray.objects.extend(other.objects.clone());
    assert!(judge(&stray.write().unwrap(), &scene).findings().iter().any(|f| f.code == Code::PayloadUnknown));
    let mut swapped = pack.clone();
    let digest = *swapped.bundles.keys().next().unwrap();
    swapped.bundles.insert(digest, b"sift/bundle@v1\n".to_vec());
    assert!(
        judge(&swapped.write().unwrap(), &scene).findings().iter().any(|f| f.code == Code::BundleDiffers)
    );
    for digest in pack.objects.keys() {
        let mut changed = pack.clone();
        changed.objects.get_mut(digest).unwrap()[16..].reverse();
        if changed != pack {
            let report = judge(&changed.write().unwrap(), &scene);
            assert!(report.findings().iter().any(|f| f.code == Code::PayloadDiffers), "{}", digest.hex());
        }
    }
    // Another log's trust file, and one without this operator.
    let (elsewhere, _) = packed().await;
    let report = verify(&pack.write().unwrap(), &elsewhere.log.trust(), &Options::default());
    assert!(report.findings().iter().any(|finding| finding.code == Code::CheckpointInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_erased_is_withheld_and_the_rest_verifies() {
    let (scene, pack) = packed().await;
    assert!(!pack.objects.is_empty());
    let store = Store::open(scene.dir.path()).unwrap();
    let nothing = Retention { days: None, bytes: Some(0) };
    let pruned = store.prune(nothing, SystemClock.now(), true).unwrap();
    assert_eq!((pruned.objects as usize, pruned.kept_bytes), (pack.objects.len(), 0));
    let log = LogClient::new(scene.log.http.url()).unwrap();
    let after = collect(pack.run, &store, &log, &scene.log.trust(), Disclosure::Everything).await.unwrap();
    assert_eq!((after.objects.len(), &after.bundles), (0, &pack.bundles));
    let report = judge(&after.write().unwrap(), &scene);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    assert!(report.unchecked().iter().any(|gap| gap.code == sift_verify::Gap::PayloadWithheld));
}
