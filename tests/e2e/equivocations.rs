//! Evidence of equivocation: shown by the log, and checked by somebody who believes nobody but the operator.

use std::collections::BTreeMap;

use sift_spec::api::{Equivocation, EquivocationsAnswer, Place, ProblemKind};
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::leaf_hash;
use sift_spec::note::VerifierKey;
use sift_spec::receipt::Receipt;
use sift_spec::record::{Grant, KeyChange, KeyRole, OperatorBody, OperatorRecord, Record};
use sift_spec::types::{LeafIndex, Seq, UnixMillis};
use sift_tests::{TestLog, check_log, new_key, now};

/// What a stranger carries away: an item, and the operator's entries that it names, with their receipts.
struct Bundle {
    item: Equivocation,
    grants: BTreeMap<LeafIndex, (Vec<u8>, Vec<u8>)>,
}

async fn fetch(log: &TestLog, item: Equivocation) -> Bundle {
    let mut grants = BTreeMap::new();
    for index in &item.grants {
        let entry = log.http.get(&format!("/v1/records/{index}")).await.unwrap().body;
        let receipt = log.http.get(&format!("/v1/records/{index}.tlog-proof")).await.unwrap().body;
        grants.insert(*index, (entry, receipt));
    }
    Bundle { item, grants }
}

/// SPEC §10.4, step by step, with no network. Gives the name that is convicted.
fn check(bundle: &Bundle, log: &TestLog) -> Result<String, &'static str> {
    let (item, trust) = (&bundle.item, log.trust());
    let operator = trust.operator().ok_or("no operator")?;
    // 1. Two entries, and they differ.
    let parse = |text: &str| Entry::parse(text.as_bytes().to_vec()).map_err(|_| "step 1: not an entry");
    let (admitted, refused) = (parse(&item.admitted)?, parse(&item.refused)?);
    if admitted.bytes() == refused.bytes() {
        return Err("step 1: one entry");
    }
    // 2. One place.
    let place = |entry: &Entry| match entry.content() {
        Content::Run(record) => (Some(record.run), record.seq, None),
        Content::Operator(record) => (None, record.seq, Some(record.log.clone())),
    };
    if place(&admitted) != place(&refused) || (place(&admitted).0, place(&admitted).1) != (item.run, item.seq)
    {
        return Err("step 2: two places");
    }
    if admitted.signer() != refused.signer() {
        return Err("step 3: two names");
    }
    for entry in [&admitted, &refused] {
        // 3. The key: the operator's, or one that it granted.
        let key = match entry.content() {
            Content::Operator(_) => operator.clone(),
            Content::Run(record) => {
                granted(bundle, log, entry, record, operator).ok_or("step 3: no grant")?
            }
        };
        // 4. The signature.
        entry.verify(&key).map_err(|_| "step 4: a signature")?;
    }
    Ok(admitted.signer().to_string())
}

fn granted(
    bundle: &Bundle,
    log: &TestLog,
    entry: &Entry,
    record: &Record,
    operator: &VerifierKey,
) -> Option<VerifierKey> {
    bundle.grants.values().find_map(|(bytes, receipt)| {
        Receipt::parse(receipt).ok()?.verify(leaf_hash(bytes), &log.trust()).ok()?;
        let granted = Entry::parse(bytes.clone()).ok()?;
        granted.verify(operator).ok()?;
        let Content::Operator(OperatorRecord { body: OperatorBody::Key(KeyChange::Grant(grant)), .. }) =
            granted.content()
        else {
            return None;
        };
        let key: VerifierKey = grant.vkey.as_str().parse().ok()?;
        let fits = grant.role == KeyRole::Kernel
            && grant.agents.iter().any(|scope| scope.covers(&record.agent))
            && (key.name(), key.id()) == (entry.signer(), entry.key_id());
        fits.then_some(key)
    })
}

fn later(record: &Record, milliseconds: u64) -> Record {
    Record { time: UnixMillis::new(record.time.get() + milliseconds).unwrap(), ..record.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_checks_every_item_by_hand() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    assert_eq!(
        log.http.get("/v1/equivocations").await.unwrap().json::<EquivocationsAnswer>().equivocations,
        []
    );
    // Three runs; in each, several places are claimed twice, and some of them a third time.
    let mut expected = Vec::new();
    for _ in 0..3 {
        let records = writer.run(3);
        log.http.add_all(&writer.entries(&records)).await.unwrap();
        for record in [&records[5], &records[0], &records[3]] {
            for milliseconds in [1, 2] {
                let other = writer.sign(&later(record, milliseconds));
                let problem = log.http.add(other.bytes()).await.unwrap().problem();
                assert_eq!(problem.kind, ProblemKind::Equivocation);
            }
            let admitted = writer.sign(record).into_bytes();
            let refused = writer.sign(&later(record, 1)).into_bytes();
            expected.push(((Some(record.run), record.seq), admitted, refused));
        }
    }
    // The name's key is rotated in mid-run, and the new one contradicts the old.
    let records = writer.run(2);
    log.http.add_all(&writer.entries(&records[..2])).await.unwrap();
    let rotated = new_key("test/kernel");
    log.operator().grant(rotated.verifier(), KeyRole::Kernel, "*").await;
    let other = Entry::sign(&later(&records[1], 1), &rotated).unwrap();
    assert_eq!(log.http.add(other.bytes()).await.unwrap().status, 409);
    let place = (Some(records[1].run), records[1].seq);
    expected.push((place, writer.sign(&records[1]).into_bytes(), other.into_bytes()));
    // And the operator contradicts itself.
    let operator = log.operator();
    let vkey = new_key("test/other").verifier().to_string().parse().unwrap();
    let grant = Grant { agents: vec!["*".parse().unwrap()], role: KeyRole::Kernel, vkey };
    let body = OperatorBody::Key(KeyChange::Grant(grant));
    let record =
        OperatorRecord { body, log: writer.log.parse().unwrap(), prev: None, seq: Seq::ZERO, time: now() };
    let other = Entry::sign_operator(&record, operator.key()).unwrap();
    assert_eq!(log.http.add(other.bytes()).await.unwrap().problem().kind, ProblemKind::Equivocation);
    let first = log.http.get("/v1/records/0").await.unwrap().body;
    expected.push(((None, Seq::ZERO), first, other.into_bytes()));
    expected.sort();

    // All pages of every length are the same list, before and after a restart.
    for limit in [1, 2, 5, 11, 32] {
        if limit == 5 {
            log.stop().await;
            log.restart().await.unwrap();
        }
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = log.http.get(&format!("/v1/equivocations?limit={limit}{after}")).await.unwrap();
            let EquivocationsAnswer { equivocations, next } = page.json();
            assert!(equivocations.len() <= limit);
            found.extend(equivocations);
            match next {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let listed: Vec<_> = found
            .iter()
            .map(|item| {
                ((item.run, item.seq), item.admitted.clone().into_bytes(), item.refused.clone().into_bytes())
            })
            .collect();
        assert_eq!(listed.len(), expected.len(), "{limit} a page");
        assert!(listed == expected, "{limit} a page");
        // The first other record is kept, and the admitted one is in the log where the item says.
        for item in found {
            let admitted = log.http.get(&format!("/v1/records/{}", item.index)).await.unwrap().body;
            assert_eq!(admitted, item.admitted.as_bytes());
            let convicted = match item.run {
                Some(_) => "test/kernel".to_owned(),
                None => log.trust().operator().unwrap().name().to_string(),
            };
            let bundle = fetch(&log, item).await;
            assert_eq!(check(&bundle, &log), Ok(convicted));
        }
    }
    let place: Place = "operator/0".parse().unwrap();
    let after = log.http.get(&format!("/v1/equivocations?limit=1&after={place}")).await.unwrap();
    assert_eq!(after.json::<EquivocationsAnswer>().equivocations[0].run, expected[1].0.0);
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_evidence_fails_at_its_step() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let records = writer.run(1);
    log.http.add_all(&writer.entries(&records)).await.unwrap();
    assert_eq!(log.http.add(writer.sign(&later(&records[1], 1)).bytes()).await.unwrap().status, 409);
    let EquivocationsAnswer { equivocations, .. } = log.http.get("/v1/equivocations").await.unwrap().json();
    let good = fetch(&log, equivocations[0].clone()).await;
    assert_eq!(check(&good, &log), Ok("test/kernel".to_owned()));
    let text = |entry: Entry| String::from_utf8(entry.into_bytes()).unwrap();
    let stranger = new_key("test/kernel");
    let forged = text(Entry::sign(&later(&records[1], 1), &stranger).unwrap());
    let mut flipped = good.item.refused.clone().into_bytes();
    let position = flipped.len() - 20;
    flipped[position] = if flipped[position] == b'A' { b'B' } else { b'A' };
    type Change = Box<dyn Fn(&mut Equivocation)>;
    let other_place = text(writer.sign(&records[2]));
    let changes: Vec<(&str, Change)> = vec![
        ("step 1: one entry", Box::new(|item| item.refused = item.admitted.clone())),
        ("step 1: not an entry", Box::new(|item| item.refused.truncate(item.refused.len() - 1))),
        ("step 2: two places", Box::new(move |item| item.refused = other_place.clone())),
        ("step 2: two places", Box::new(|item| item.seq = Seq::ZERO)),
        ("step 2: two places", Box::new(|item| item.run = None)),
        ("step 3: no grant", Box::new(move |item| item.refused = forged.clone())),
        (
            "step 4: a signature",
            Box::new(move |item| item.refused = String::from_utf8(flipped.clone()).unwrap()),
        ),
    ];
    for (step, change) in changes {
        let mut item = good.item.clone();
        change(&mut item);
        assert_eq!(check(&Bundle { item, grants: good.grants.clone() }, &log), Err(step));
    }
    // Without the grants nobody is convicted.
    assert_eq!(check(&Bundle { item: good.item, grants: BTreeMap::new() }, &log), Err("step 3: no grant"));
}
