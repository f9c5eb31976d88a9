//! Records, operator records, statements and entries: each honest one is read, and whatever differs from it by one
//! byte, one member or one spelling is refused or is another record in its own one encoding.
#![allow(clippy::unwrap_used)]

mod common;

use common::honest::{Honest, delegation, kernel_key, more_records, p, stranger_key, witness_key};
use common::json::{Json, refused_changes};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sift_spec::entry::{Content, Entry, EntryError};
use sift_spec::record::{
    APPROVAL_HEADER, Body, DELEGATION_HEADER, Delegation, ENTRY_BYTES_MAX, Intent, OPERATOR_HEADER,
    OperatorRecord, RECORD_HEADER, Record, RecordError, Statement,
};
use sift_spec::types::{Hash, RunId, Seq, Text, UnixMillis};

/// A text and what reads it: prints what it read, so that one function serves all four kinds.
struct Case {
    name: String,
    header: &'static str,
    text: String,
}

fn read(header: &str, text: &str) -> Result<String, RecordError> {
    match header {
        RECORD_HEADER => Record::parse(text)?.text(),
        OPERATOR_HEADER => OperatorRecord::parse(text)?.text(),
        DELEGATION_HEADER => Delegation::parse(text)?.text(),
        _ => Statement::parse(text)?.text(),
    }
}

fn cases() -> Vec<Case> {
    let log = Honest::new();
    let mut cases = Vec::new();
    for (at, entry) in log.entries.iter().enumerate() {
        let (name, header, text) = match entry.content() {
            Content::Run(record) => {
                (format!("{at:02}-{}", record.body.kind()), RECORD_HEADER, record.text().unwrap())
            }
            Content::Operator(record) => {
                (format!("{at:02}-operator"), OPERATOR_HEADER, record.text().unwrap())
            }
        };
        cases.push(Case { name, header, text });
    }
    for (name, record) in more_records() {
        cases.push(Case { name, header: RECORD_HEADER, text: record.text().unwrap() });
    }
    let (text, _) = log.approval.split_once("\n\n").unwrap();
    cases.push(Case { name: "statement".to_owned(), header: APPROVAL_HEADER, text: format!("{text}\n") });
    let text = delegation().text().unwrap();
    cases.push(Case { name: "delegation".to_owned(), header: DELEGATION_HEADER, text });
    cases
}

fn json(case: &Case) -> &str {
    case.text[case.header.len() + 1..].trim_end_matches('\n')
}

#[test]
fn honest_records_are_read_and_printed_again() {
    for case in cases() {
        assert_eq!(read(case.header, &case.text).as_ref(), Ok(&case.text), "{}", case.name);
        assert_eq!(Json::of(json(&case)).print(), json(&case), "{}: members are sorted", case.name);
        for header in [RECORD_HEADER, OPERATOR_HEADER, APPROVAL_HEADER, DELEGATION_HEADER] {
            if header != case.header {
                assert!(matches!(read(header, &case.text), Err(RecordError::Header(_))), "{}", case.name);
            }
        }
    }
}

#[test]
fn every_byte_flipped_cut_or_added() {
    let (mut refused, mut other) = (0, 0);
    for case in cases() {
        let bytes = case.text.as_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                let Ok(text) = String::from_utf8(flipped) else {
                    refused += 1;
                    continue;
                };
                match read(case.header, &text) {
                    Err(_) => refused += 1,
                    // Another honest record, in its own one encoding.
                    Ok(printed) => {
                        assert_eq!(printed, text, "{} bit {bit} of byte {at}", case.name);
                        other += 1;
                    }
                }
            }
            if case.text.is_char_boundary(at) {
                assert!(read(case.header, &case.text[..at]).is_err(), "{} cut at {at}", case.name);
            }
        }
        for tail in ["\n", " ", "x", "{}", "\n\n", "\0"] {
            assert!(read(case.header, &format!("{}{tail}", case.text)).is_err(), "{} {tail:?}", case.name);
            assert!(read(case.header, &format!("{tail}{}", case.text)).is_err(), "{} {tail:?}", case.name);
        }
        // White space anywhere outside of strings.
        let (mut in_string, mut escaped) = (false, false);
        let start = case.header.len() + 1;
        for (at, byte) in bytes.iter().enumerate().skip(start) {
            if !in_string {
                for space in [" ", "\t", "\n", "\r"] {
                    let spaced = format!("{}{space}{}", &case.text[..at], &case.text[at..]);
                    assert!(read(case.header, &spaced).is_err(), "{} {space:?} at {at}", case.name);
                    refused += 1;
                }
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                _ => {}
            }
        }
    }
    println!("{refused} changed texts refused, {other} are other records in their own encoding");
}

#[test]
fn every_member_respelled() {
    let mut tried = 0;
    for case in cases() {
        for (what, changed) in Json::of(json(&case)).each(&refused_changes) {
            let text = format!("{}\n{}\n", case.header, changed.print());
            if text == case.text {
                continue; // such as 2^53 − 1 that stands there already
            }
            assert!(read(case.header, &text).is_err(), "{}: {what}\n{text}", case.name);
            tried += 1;
        }
        // A member left out is refused, or was optional, and then what is left is another record.
        let without = Json::of(json(&case)).each(&|node| match node {
            Json::Object(members) => (0..members.len())
                .map(|at| {
                    let mut fewer = members.clone();
                    let (name, _) = fewer.remove(at);
                    (format!("without-{name}"), Json::Object(fewer))
                })
                .collect(),
            _ => vec![],
        });
        for (what, changed) in without {
            let text = format!("{}\n{}\n", case.header, changed.print());
            if let Ok(printed) = read(case.header, &text) {
                assert_eq!(printed, text, "{}: {what}", case.name);
            }
            tried += 1;
        }
    }
    println!("{tried} respelled records refused");
}

#[test]
fn kind_names_the_one_body() {
    let log = Honest::new();
    let beat = log.record(8).record().unwrap().text().unwrap();
    let halt = r#""halt":{"cause":"clock","detail":""}"#;
    let two = beat.replace(r#","kind""#, &format!(r#",{halt},"kind""#));
    assert_eq!(Record::parse(&two), Err(RecordError::Kind));
    let wrong = beat.replace(r#""kind":"beat""#, r#""kind":"halt""#);
    assert_eq!(Record::parse(&wrong), Err(RecordError::Kind));
    let none = beat.replace(r#""beat":{"records":8},"#, "");
    assert_eq!(Record::parse(&none), Err(RecordError::Kind));
    for absent in ["approval", "close", "halt", "intent", "open", "outcome"] {
        let member = format!(r#""{absent}":null,"#);
        let text = match absent {
            "approval" => beat.replace(r#""beat""#, &format!(r#"{member}"beat""#)),
            "open" | "outcome" => beat.replace(r#""prev""#, &format!(r#"{member}"prev""#)),
            _ => beat.replace(r#""kind""#, &format!(r#"{member}"kind""#)),
        };
        assert_ne!(text, beat);
        assert!(Record::parse(&text).is_err(), "{absent}: null");
    }
}

#[test]
fn prev_is_absent_at_seq_0_and_only_there() {
    let log = Honest::new();
    let record = |seq: usize| log.record(seq).record().unwrap().clone();
    let with = |mut record: Record, prev| {
        record.prev = prev;
        record.text()
    };
    assert_eq!(with(record(0), Some(log.record(0).leaf())), Err(RecordError::Prev));
    assert_eq!(with(record(1), None), Err(RecordError::Prev));
    let mut operator = match log.entries[0].content() {
        Content::Operator(record) => record.clone(),
        Content::Run(_) => unreachable!(),
    };
    operator.prev = Some(log.record(0).leaf());
    assert_eq!(operator.text(), Err(RecordError::Prev));
}

#[test]
fn bodies_do_not_contradict_themselves() {
    let log = Honest::new();
    let record = |seq: usize| log.record(seq).record().unwrap().clone();
    let refused = |record: Record| matches!(record.text(), Err(RecordError::Inconsistent(_)));
    let changed_intent = |seq, change: &dyn Fn(&mut Intent)| {
        let mut record = record(seq);
        match &mut record.body {
            Body::Intent(intent) => change(intent),
            _ => unreachable!(),
        }
        refused(record)
    };
    let Body::Intent(held) = record(3).body else { unreachable!() };
    let Body::Intent(refusal) = record(7).body else { unreachable!() };
    assert!(
        changed_intent(1, &|intent| intent.decision.hold = held.decision.hold.clone()),
        "hold without hold"
    );
    assert!(changed_intent(3, &|intent| intent.decision.hold = None), "held for nobody");
    assert!(changed_intent(1, &|intent| intent.refusal = refusal.refusal.clone()), "refused and reserved");
    assert!(changed_intent(6, &|intent| intent.reserved = held.reserved), "denied and reserved");
    assert!(changed_intent(6, &|intent| intent.refusal = refusal.refusal.clone()), "denied twice");
    assert!(changed_intent(1, &|intent| intent.decision.rules = vec![p("b"), p("a")]), "rules not sorted");
    assert!(changed_intent(1, &|intent| intent.decision.rules = vec![p("a"), p("a")]), "rules twice");
    assert!(changed_intent(1, &|intent| intent.decision.reasons = vec![p("x"); 65]), "65 reasons");
    assert!(changed_intent(1, &|intent| {
        intent.decision.rules = (0..65).map(|n| p(&format!("{n:02}"))).collect();
    }));
    assert!(changed_intent(3, &|intent| match &mut intent.call {
        sift_spec::record::Call::Tool(call) => call.proposed_by = Some(Seq::new(3).unwrap()),
        _ => unreachable!(),
    }));

    let mut outcome = record(2);
    let Body::Outcome(body) = &mut outcome.body else { unreachable!() };
    body.error = Some(p("but it was ok"));
    assert!(refused(outcome.clone()));
    let Body::Outcome(body) = &mut outcome.body else { unreachable!() };
    (body.error, body.intent) = (None, Seq::new(2).unwrap());
    assert!(refused(outcome), "an outcome of itself");
    for answered in ["model", "result"] {
        let mut outcome = record(2);
        let Body::Outcome(body) = &mut outcome.body else { unreachable!() };
        (body.status, body.error) = (sift_spec::record::Status::Cancelled, Some(p("never sent")));
        match answered {
            "model" => body.result = None,
            _ => body.model = None,
        }
        assert!(refused(outcome), "cancelled, with {answered}");
    }
    let mut approval = record(4);
    let Body::Approval(body) = &mut approval.body else { unreachable!() };
    body.intent = Seq::new(9).unwrap();
    assert!(refused(approval), "an approval of what is to come");
    let mut beat = record(8);
    beat.body = Body::Beat(sift_spec::record::Beat { records: 7 });
    assert!(refused(beat));
    let mut close = record(10);
    let Body::Close(body) = &mut close.body else { unreachable!() };
    body.census.insert(sift_spec::record::Kind::Beat, 2);
    assert!(refused(close.clone()), "a census that does not add up");
    let Body::Close(body) = &mut close.body else { unreachable!() };
    body.census.insert(sift_spec::record::Kind::Beat, 1);
    body.census.insert(sift_spec::record::Kind::Close, 0);
    assert!(refused(close.clone()), "a kind that does not occur");
    let Body::Close(body) = &mut close.body else { unreachable!() };
    body.census.insert(sift_spec::record::Kind::Close, u64::MAX);
    assert!(refused(close), "a sum that overflows");
    let mut open = record(0);
    let Body::Open(body) = &mut open.body else { unreachable!() };
    body.limits.meters.swap(0, 1);
    assert!(refused(open.clone()));
    let Body::Open(body) = &mut open.body else { unreachable!() };
    body.limits.meters[1] = body.limits.meters[0];
    assert!(refused(open.clone()));
    let Body::Open(body) = &mut open.body else { unreachable!() };
    body.limits.meters.clear();
    body.labels = (0..65).map(|n| (p(&format!("l{n}")), p(""))).collect();
    assert!(refused(open.clone()));
    let Body::Open(body) = &mut open.body else { unreachable!() };
    body.labels.clear();
    body.parent = Some(sift_spec::record::Parent { depth: 0, run: common::honest::run(), seq: Seq::ZERO });
    assert!(refused(open));
    let mut large = record(1);
    let Body::Intent(body) = &mut large.body else { unreachable!() };
    let sift_spec::record::Call::Model(call) = &mut body.call else { unreachable!() };
    call.max_output = 1 << 53;
    assert!(refused(large), "an integer of 2^53");
}

#[test]
fn strings_have_one_spelling_and_no_normal_form() {
    let halt = |detail: &str| {
        let mut record = Honest::new().record(9).record().unwrap().clone();
        let Body::Halt(body) = &mut record.body else { unreachable!() };
        body.detail = p(detail);
        record.text().unwrap()
    };
    // Composed and decomposed are two texts and so two records; neither is touched.
    assert_ne!(halt("\u{e9}"), halt("e\u{301}"));
    for detail in
        ["\u{e9}", "e\u{301}", "\u{212b}", "\u{7f}", "\u{85}", "\u{2028}", "\u{feff}", "\u{10ffff}", ""]
    {
        let text = halt(detail);
        let Body::Halt(body) = Record::parse(&text).unwrap().body else { unreachable!() };
        assert_eq!(body.detail.as_str(), detail);
        if !detail.is_empty() {
            assert!(text.contains(detail), "printed as it is");
            let mut units = [0; 2];
            let escaped: String = detail
                .chars()
                .flat_map(|c| {
                    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>()
                })
                .collect();
            let at = text.find(detail).unwrap();
            assert_eq!(
                Record::parse(&text.replace(detail, &escaped)),
                Err(RecordError::NotCanonical(at)),
                "{escaped}"
            );
        }
    }
    let controls: String = (0..0x20_u8).map(char::from).chain(['"', '\\', '/']).collect();
    let text = halt(&controls);
    assert!(text.contains(
        r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f\"\\/""#
    ));
    assert!(Record::parse(&text).is_ok());
    for (from, to) in [
        ("\\u000b", "\\u000B"),
        ("\\b", "\\u0008"),
        ("\\n", "\\u000a"),
        ("\\f", "\\u000c"),
        ("\\\\/", "\\\\\\/"),
    ] {
        let refused = Record::parse(&text.replacen(from, to, 1)).unwrap_err();
        let RecordError::NotCanonical(at) = refused else { panic!("{to}: {refused:?}") };
        assert!((text.find(from).unwrap()..).take(from.len()).any(|within| within == at), "{to} at {at}");
    }
}

#[test]
fn an_entry_of_65535_bytes_and_no_more() {
    let key = kernel_key();
    let record = |reasons: usize, last: usize| {
        let mut record = Honest::new().record(1).record().unwrap().clone();
        let Body::Intent(intent) = &mut record.body else { unreachable!() };
        // A control character takes six bytes in JSON.
        intent.decision.reasons = vec![Text::cut(&"\u{1}".repeat(512)); reasons];
        intent.decision.reasons.push(Text::cut(&"x".repeat(last)));
        record
    };
    let reasons =
        (1..64).take_while(|reasons| Entry::sign(&record(*reasons, 0), &key).is_ok()).last().unwrap();
    let fits: Vec<usize> = (0..=512)
        .map_while(|n| Entry::sign(&record(reasons, n), &key).ok())
        .map(|e| e.bytes().len())
        .collect();
    let padded = (0..=512).find_map(|extra| {
        let mut record = record(reasons, 512);
        let Body::Intent(intent) = &mut record.body else { unreachable!() };
        intent.decision.reasons.push(Text::cut(&"\u{1}".repeat(extra)));
        Entry::sign(&record, &key).err()
    });
    assert!(fits.iter().all(|len| *len <= ENTRY_BYTES_MAX));
    assert!(matches!(padded, Some(EntryError::Record(RecordError::TooLong(len))) if len > ENTRY_BYTES_MAX));
    let largest = Entry::sign(&record(reasons, fits.len() - 1), &key).unwrap();
    assert_eq!(Entry::parse(largest.bytes().to_vec()).unwrap(), largest);
    let long = vec![b'x'; ENTRY_BYTES_MAX + 1];
    assert!(matches!(Entry::parse(long), Err(EntryError::Note(_))));
}

#[test]
fn an_entry_has_exactly_one_signature_of_its_key() {
    let log = Honest::new();
    let (key, other) = (kernel_key(), stranger_key());
    let entry = log.record(1);
    entry.verify(key.verifier()).unwrap();
    assert!(entry.verify(other.verifier()).is_err());
    let (text, line) = std::str::from_utf8(entry.bytes()).unwrap().split_once("\n\n").unwrap();
    let text = format!("{text}\n");
    let parse = |lines: &str| Entry::parse(format!("{text}\n{lines}").into_bytes());
    assert!(parse(line).is_ok());
    assert_eq!(parse(&format!("{line}{}", other.sign_text(&text))), Err(EntryError::Signatures));
    assert_eq!(
        parse(&sift_spec::checkpoint::cosign(&text, &witness_key(1), 1).unwrap()),
        Err(EntryError::Signatures),
        "72 bytes of signature"
    );
    assert!(matches!(parse(&format!("{line}{line}")), Err(EntryError::Note(_))));
    // A plain signature by a cosigner's key is none of an entry.
    let record = entry.record().unwrap();
    let cosigned = Entry::sign(record, &witness_key(1)).unwrap();
    assert!(cosigned.verify(witness_key(1).verifier()).is_err());
    // Statements and checkpoints are no entries.
    assert_eq!(Entry::parse(log.approval.clone().into_bytes()), Err(EntryError::Header));
    assert_eq!(Entry::parse(log.checkpoint().sign(&key).into_bytes()), Err(EntryError::Header));

    let mut refused = 0;
    for entry in &log.entries {
        let signer = [kernel_key(), common::honest::operator_key()];
        let signer = signer.iter().find(|key| key.verifier().name() == entry.signer()).unwrap();
        for at in 0..entry.bytes().len() {
            let mut bytes = entry.bytes().to_vec();
            bytes[at] ^= 1 << (at % 8);
            let accepted = Entry::parse(bytes).and_then(|entry| entry.verify(signer.verifier()));
            assert!(accepted.is_err(), "byte {at}");
            assert!(Entry::parse(entry.bytes()[..at].to_vec()).is_err(), "cut at {at}");
            refused += 2;
        }
    }
    println!("{refused} changed entries refused");
}

// Any record, not only the honest ones.

fn text<const MAX: usize>() -> impl Strategy<Value = Text<MAX>> {
    prop_oneof![any::<String>(), "[ -~]{0,40}", Just(String::new())].prop_map(|text| Text::cut(&text))
}

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![0..100_u64, Just((1 << 53) - 1), 0..1_u64 << 53]
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash::from_bytes)
}

fn record() -> impl Strategy<Value = Record> {
    let honest: Vec<Record> = {
        let log = Honest::new();
        let run = log.entries.iter().filter_map(|entry| entry.record().cloned());
        run.chain(more_records().into_iter().map(|(_, record)| record)).collect()
    };
    let fields =
        (hash(), integer(), any::<[u8; 10]>(), integer(), "[A-Za-z0-9._-]{1,20}(/[A-Za-z0-9._-]{1,20}){0,3}");
    let texts = (text::<512>(), text::<512>(), text::<128>(), text::<128>(), text::<64>());
    (proptest::sample::select(honest), fields, texts, integer(), integer()).prop_map(
        |(mut record, (prev, time, random, seq, agent), texts, a, b)| {
            let (detail, reason, name, rule, media) = texts;
            record.agent = p(&agent);
            record.time = UnixMillis::new(time).unwrap();
            record.run = RunId::from_parts(record.time, &random);
            // Seqs stay above what bodies refer to; beats and closes state their own.
            if !matches!(record.body, Body::Open(_) | Body::Beat(_) | Body::Close(_)) {
                record.seq = Seq::new(seq.max(10)).unwrap();
            }
            record.prev = (record.seq > Seq::ZERO).then_some(prev);
            match &mut record.body {
                Body::Halt(halt) => halt.detail = detail,
                Body::Open(open) => {
                    open.labels.insert(
                        p("any"),
                        reason.as_str().chars().take(60).collect::<String>().parse().unwrap(),
                    );
                    open.policy = prev;
                    for limit in &mut open.limits.meters {
                        limit.limit = a;
                    }
                }
                Body::Intent(intent) => {
                    intent.decision.reasons = vec![reason, detail];
                    intent.decision.rules = vec![rule];
                    intent.decision.input.media = media;
                    if let sift_spec::record::Call::Tool(call) = &mut intent.call {
                        call.name = name;
                    }
                }
                Body::Outcome(outcome) => {
                    outcome.settled = outcome.settled.with(sift_spec::meter::Meter::MicroUsd, b);
                    if outcome.error.is_some() {
                        outcome.error = Some(detail);
                    }
                }
                Body::Approval(_) | Body::Beat(_) | Body::Close(_) => {}
            }
            record
        },
    )
}

#[test]
fn any_record_has_one_encoding() {
    let seed = [23; 32];
    println!("any_record_has_one_encoding: ChaCha seed {seed:?}");
    let config = Config { cases: 3000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let flip = (record(), any::<prop::sample::Index>(), 0..8_u8);
    runner
        .run(&flip, |(record, at, bit)| {
            let text = record.text().unwrap();
            prop_assert_eq!(&Record::parse(&text).unwrap(), &record);
            prop_assert_eq!(
                Json::of(text.split('\n').nth(1).unwrap()).print(),
                text.split('\n').nth(1).unwrap()
            );
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes)
                && let Ok(other) = Record::parse(&changed)
            {
                prop_assert_eq!(other.text().unwrap(), changed);
                prop_assert_ne!(other, record);
            }
            Ok(())
        })
        .unwrap();
}
