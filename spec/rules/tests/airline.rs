//! The example bundles of the airline, in Rego and in Cedar, on 100 recorded conversations.
//!
//! Both must say the same about every call. The data is not part of the project: without it the test says so and
//! passes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sift_rules::input::INPUT_BYTES_MAX;
use sift_rules::{CallInput, Decider, PolicyBundle, RunState, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::record::{Effect, Status};
use sift_spec::types::{RunId, Seq, Text, UnixMillis};

/// How often each rule decided. Every denial was checked against the airline's text: see the bundles' README.
const EXPECTED: &[(&str, &str, usize)] = &[
    ("allow", "book", 15),
    ("allow", "change", 71),
    ("allow", "harmless", 89),
    ("allow", "lookup", 356),
    ("allow", "model", 1243),
    ("allow", "transfer", 22),
    ("deny", "bags-free-charged", 4),
    ("deny", "book-bag-allowance", 7),
    ("deny", "book-one-certificate", 4),
    ("deny", "book-payments-max", 3),
    ("deny", "cancel-flown", 7),
    ("deny", "cancel-not-covered", 10),
    ("deny", "change-payment-unread", 1),
    ("deny", "flights-basic-economy", 15),
    ("deny", "flights-payment-kind", 3),
    ("hold", "certificate-approval", 3),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bundle(name: &str) -> PolicyBundle {
    let folder = root().join("client-sdk/examples/airline").join(name);
    let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    // Its cases are for `sift-kernel policy test`, and decide nothing.
    let files = paths
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()));
    PolicyBundle::compile(&Bundle::new(files).unwrap()).unwrap()
}

/// One conversation under one engine.
struct Replay {
    decider: Decider,
    unsliced: Decider,
    state: RunState,
    seq: u64,
    time: u64,
}

impl Replay {
    fn new(bundle: &PolicyBundle, number: usize) -> Self {
        let time = 1_764_000_000_000 + number as u64 * 1_000_000;
        let started = UnixMillis::new(time).unwrap();
        let run = RunId::from_parts(started, &[7; 10]);
        let agent = "airline/gpt-4o".parse().unwrap();
        let state = RunState::new(agent, run, 0, started, BTreeMap::new(), bundle.facts());
        Self { decider: bundle.decider(), unsliced: bundle.decider_unsliced(), state, seq: 0, time }
    }

    fn propose(&mut self, call: &CallInput) -> (Vec<u8>, Verdict) {
        self.seq += 1;
        self.time += 1000;
        let (seq, time) = (Seq::new(self.seq).unwrap(), UnixMillis::new(self.time).unwrap());
        let input = self.state.input(call.clone(), seq, time).to_bytes();
        let verdict = self.decider.decide(&input);
        assert_eq!(self.decider.decide(&input), verdict, "a decision is a function of its input");
        assert_eq!(self.unsliced.decide(&input), verdict, "what is not run could not have said anything");
        self.state.on_intent(call, verdict.effect);
        (input, verdict)
    }
}

#[test]
fn rego_and_cedar_say_the_same_about_every_recorded_call() {
    let data = root().join("../shared/data/tau-airline-gpt-4o.json");
    if !data.exists() {
        println!("skipped: {} is not here", data.display());
        return;
    }
    let (table, inputs) = replay(&data);
    let table: Vec<_> =
        table.iter().map(|((effect, rule), n)| (effect.as_str(), rule.as_str(), *n)).collect();
    assert_eq!(table, EXPECTED);
    compare_with_the_interpreter(&bundle("rego"), &inputs);
}

#[test]
fn rego_and_cedar_say_the_same_about_the_conversations_of_the_example() {
    let (table, _) = replay(&root().join("client-sdk/examples/airline/conversations.json"));
    let denied = table.keys().filter(|(effect, _)| effect == "deny").map(|(_, rule)| rule.as_str());
    assert_eq!(
        denied.collect::<Vec<_>>(),
        ["cancel-not-covered", "change-flight-reported", "flights-basic-economy", "sift.default-deny"]
    );
}

/// How often each effect and rule came.
type Table = BTreeMap<(String, String), usize>;

/// Proposes every recorded call under both engines. The table, and the inputs of tool calls.
fn replay(data: &Path) -> (Table, Vec<Vec<u8>>) {
    let conversations: Vec<Value> = serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap();
    let (rego, cedar) = (bundle("rego"), bundle("cedar"));
    let mut table = Table::new();
    let mut calls = 0;
    let mut inputs = Vec::new();
    let mut longest = 0;
    for (number, conversation) in conversations.iter().enumerate() {
        let mut by_rego = Replay::new(&rego, number);
        let mut by_cedar = Replay::new(&cedar, number);
        let mut prompt_bytes = 0;
        let mut pending: BTreeMap<String, CallInput> = BTreeMap::new();
        for message in conversation["traj"].as_array().unwrap() {
            let mut proposals = Vec::new();
            if message["role"] == "assistant" {
                proposals.push((
                    None,
                    CallInput::Model {
                        input_tokens: prompt_bytes,
                        max_output: 4096,
                        model: "gpt-4o".parse().unwrap(),
                        provider: "openai".parse().unwrap(),
                    },
                ));
            }
            prompt_bytes += message["content"].as_str().unwrap_or_default().len() as u64;
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let name: Text<128> = call["function"]["name"].as_str().unwrap().parse().unwrap();
                let args = call["function"]["arguments"].as_str().unwrap();
                proposals.push((call["id"].as_str(), CallInput::tool(name, args.as_bytes())));
            }
            for (id, call) in proposals {
                let (input, verdict) = by_rego.propose(&call);
                let (other_input, other) = by_cedar.propose(&call);
                let shown = String::from_utf8_lossy(&input);
                assert_eq!(input, other_input);
                longest = longest.max(input.len());
                assert_eq!(
                    (verdict.effect, &verdict.rules),
                    (other.effect, &other.rules),
                    "{other:?}\n{shown}"
                );
                assert_eq!(verdict.hold, other.hold);
                calls += 1;
                if call.as_tool().is_some() {
                    inputs.push(input.clone());
                }
                for rule in &verdict.rules {
                    *table.entry((verdict.effect.to_string(), rule.to_string())).or_default() += 1;
                }
                let is_denied = call.as_tool().is_some() && verdict.effect == Effect::Deny;
                if is_denied && std::env::var_os("SIFT_SHOW_DENIALS").is_some() {
                    println!("{number} {:?}\n  {shown}", verdict.rules);
                }
                if let (Some(id), true) = (id, verdict.effect != Effect::Deny) {
                    pending.insert(id.to_owned(), call);
                }
            }
            if message["role"] == "tool" {
                let result = message["content"].as_str().unwrap();
                let status = if result.starts_with("Error") { Status::Error } else { Status::Ok };
                if let Some(call) = pending.remove(message["tool_call_id"].as_str().unwrap()) {
                    by_rego.state.on_outcome(&call, status, result.as_bytes());
                    by_cedar.state.on_outcome(&call, status, result.as_bytes());
                }
            }
        }
        assert_eq!(by_rego.state, by_cedar.state);
    }
    println!("{calls} calls in {} conversations; the longest input has {longest} bytes", conversations.len());
    assert!(longest < INPUT_BYTES_MAX / 16);
    for ((effect, rule), count) in &table {
        println!("{effect:<6} {rule:<26} {count:>5}");
    }
    (table, inputs)
}

/// A user, gold, who owns AAAAAA and has gift_card_1 and credit_card_1; a run that has read what `read` names.
fn proposed(read: &[(&str, &str)], tool: &str, args: &str) -> [Verdict; 2] {
    ["rego", "cedar"].map(|engine| {
        let mut replay = Replay::new(&bundle(engine), 0);
        for (tool, report) in read {
            let report = report.replace('\'', "\"");
            let args = match *tool {
                "get_user_details" => r#"{"user_id":"u"}"#,
                "search_direct_flight" => r#"{"date":"2024-05-20"}"#,
                _ => "{}",
            };
            let call = CallInput::tool(tool.parse().unwrap(), args.as_bytes());
            replay.state.on_intent(&call, Effect::Allow);
            replay.state.on_outcome(&call, Status::Ok, report.as_bytes());
        }
        replay.propose(&CallInput::tool(tool.parse().unwrap(), args.replace('\'', "\"").as_bytes())).1
    })
}

const USER: (&str, &str) = (
    "get_user_details",
    "{'membership':'regular','payment_methods':{'gift_card_1':{},'credit_card_1':{}},'reservations':['AAAAAA']}",
);

const RESERVATION: (&str, &str) = (
    "get_reservation_details",
    "{'reservation_id':'AAAAAA','user_id':'u','cabin':'basic_economy','created_at':'2024-05-01T00:00:00','insurance':'no',\
     'flights':[{'flight_number':'F1','date':'2024-05-20'},{'flight_number':'F2','date':'2024-05-21'}],\
     'passengers':[{'first_name':'A'},{'first_name':'B'}],'payment_history':[{'payment_id':'gift_card_1','amount':100}],\
     'total_baggages':1,'nonfree_baggages':1}",
);

const BOOKED: (&str, &str) = (
    "book_reservation",
    "{'reservation_id':'BBBBBB','user_id':'u','cabin':'economy','created_at':'2024-05-15T15:00:00','insurance':'no',\
     'flights':[],'passengers':[{'first_name':'A'}],'payment_history':[],'total_baggages':1,'nonfree_baggages':0}",
);

/// What no recorded call tries. Both engines deny it, and allow the like of it that is right.
#[test]
fn loopholes_are_closed_in_both_engines() {
    let (book, bags, flights, passengers) = (
        "book_reservation",
        "update_reservation_baggages",
        "update_reservation_flights",
        "update_reservation_passengers",
    );
    let all = &[USER, RESERVATION, BOOKED][..];
    let unread = &[RESERVATION][..];
    let stranger = &[
        ("get_user_details", "{'membership':'gold','payment_methods':{'gift_card_1':{}},'reservations':[]}"),
        RESERVATION,
    ][..];
    let diamond = &[
        (
            "get_user_details",
            "{'membership':'diamond','payment_methods':{'gift_card_1':{}},'reservations':['AAAAAA']}",
        ),
        RESERVATION,
    ][..];
    let booking = |passengers: &str, payments: &str, total: &str, nonfree: &str| {
        format!(
            "{{'user_id':'u','origin':'A','destination':'B','flight_type':'one_way','cabin':'economy','flights':[],\
             'passengers':{passengers},'payment_methods':{payments},'total_baggages':{total},'nonfree_baggages':{nonfree},\
             'insurance':'no'}}"
        )
    };
    let of_bags = |id: &str, total: &str, nonfree: &str, payment: &str| {
        format!(
            "{{'reservation_id':'{id}','total_baggages':{total},'nonfree_baggages':{nonfree},'payment_id':{payment}}}"
        )
    };
    let of_flights = |flights: &str, payment: &str| {
        format!("{{'reservation_id':'AAAAAA','cabin':'economy','flights':{flights},'payment_id':{payment}}}")
    };
    let (f1, f2) =
        ("{'flight_number':'F1','date':'2024-05-20'}", "{'flight_number':'F2','date':'2024-05-21'}");
    let (both, gift) = (format!("[{f1},{f2}]"), "'gift_card_1'");
    let methods = "[{'payment_id':'gift_card_1','amount':1}]";
    for (allowed, read, tool, args) in [
        // Ten bags, none paid for; paid for fewer than before; paid for rightly, also in business after an upgrade.
        (false, all, bags, of_bags("AAAAAA", "10", "0", gift)),
        (false, all, bags, of_bags("AAAAAA", "10", "5", gift)),
        (false, all, bags, of_bags("AAAAAA", "1", "0", gift)),
        (true, all, bags, of_bags("AAAAAA", "10", "10", gift)),
        (true, all, bags, of_bags("AAAAAA", "5", "1", gift)),
        (false, unread, bags, of_bags("AAAAAA", "10", "3", gift)),
        (true, unread, bags, of_bags("AAAAAA", "7", "1", gift)),
        // Types.
        (true, all, book, booking("[{}]", methods, "1", "0")),
        (false, all, book, booking("'ab'", methods, "1", "0")),
        (false, all, book, booking("[{}]", "'gift_card_1'", "1", "0")),
        (false, all, book, booking("[{}]", "['gift_card_1']", "1", "0")),
        (false, all, book, booking("[{}]", "[{'payment_id':['gift_card_1']}]", "1", "0")),
        (false, all, book, booking("[{}]", "[{'amount':1}]", "1", "0")),
        (false, all, book, booking("[{}]", "{'payment_id':'gift_card_1'}", "1", "0")),
        (false, all, book, booking("[{}]", methods, "'1'", "0")),
        (false, all, book, booking("[{}]", methods, "1", "'0'")),
        (false, all, bags, of_bags("AAAAAA", "'10'", "10", gift)),
        (false, all, bags, of_bags("AAAAAA", "10", "null", gift)),
        (false, all, bags, of_bags("AAAAAA", "10", "10", "['gift_card_1']")),
        (false, all, flights, of_flights("'F1'", gift)),
        (false, all, flights, of_flights(&both, "7")),
        (false, all, passengers, "{'reservation_id':'AAAAAA','passengers':'ab'}".to_owned()),
        (true, all, passengers, "{'reservation_id':'AAAAAA','passengers':[{},{}]}".to_owned()),
        // Flights of basic economy.
        (true, all, flights, of_flights(&both, gift)),
        (false, all, flights, of_flights(&format!("[{f1},{f2},{f2}]"), gift)),
        (false, all, flights, of_flights(&format!("[{f1},{f2},{{'flight_number':'F3'}}]"), gift)),
        (false, all, flights, of_flights(&format!("[{f1}]"), gift)),
        // Another customer's reservation, and one that was booked in this run.
        (false, stranger, bags, of_bags("AAAAAA", "1", "1", gift)),
        (false, stranger, passengers, "{'reservation_id':'AAAAAA','passengers':[{},{}]}".to_owned()),
        (true, all, bags, of_bags("BBBBBB", "1", "0", gift)),
        (false, all, bags, of_bags("BBBBBB", "1", "0", "'gift_card_9'")),
        // Payment without a profile.
        (true, unread, flights, of_flights(&both, gift)),
        (false, unread, flights, of_flights(&both, "'credit_card_1'")),
        (true, all, flights, of_flights(&both, "'credit_card_1'")),
        // A tier that nobody knows.
        (false, diamond, book, booking("[{}]", methods, "0", "0")),
        (false, diamond, bags, of_bags("AAAAAA", "1", "1", gift)),
        // Powers.
        (true, all, "calculate", "{'expression':'2 * (3 + 4)'}".to_owned()),
        (false, all, "calculate", "{'expression':'9**9**9'}".to_owned()),
        (false, all, "calculate", "{'expression':99}".to_owned()),
    ] {
        for verdict in proposed(read, tool, &args) {
            let expected = if allowed { Effect::Allow } else { Effect::Deny };
            assert_eq!(verdict.effect, expected, "{tool} {args}: {verdict:?}");
        }
    }
}

const SEARCHED: (&str, &str) = ("search_direct_flight", "[{'flight_number':'F3'}]");

const ONESTOP: (&str, &str) = (
    "search_onestop_flight",
    "[[{'flight_number':'F4','date':'2024-05-22'},{'flight_number':'F5','date':'2024-05-23'}]]",
);

/// What rests on the history of the run. Both engines deny for the same reason, and allow the like of it that is right.
#[test]
fn both_engines_hold_the_run_to_what_it_has_seen() {
    let economy = RESERVATION.1.replace("basic_economy", "economy");
    let of_other = RESERVATION.1.replace("'user_id':'u'", "'user_id':'v'");
    let (economy, of_other) =
        (("get_reservation_details", economy.as_str()), ("get_reservation_details", of_other.as_str()));
    let transferred = ("transfer_to_human_agents", "Transfer successful");
    let flight = |number: &str, day: u32| format!("{{'flight_number':'{number}','date':'2024-05-{day}'}}");
    let book = |flights: &[String]| {
        let args = format!(
            "{{'user_id':'u','origin':'A','destination':'B','flight_type':'one_way','cabin':'economy','flights':[{}],\
             'passengers':[{{}}],'payment_methods':[],'total_baggages':0,'nonfree_baggages':0,'insurance':'no'}}",
            flights.join(",")
        );
        ("book_reservation", args)
    };
    let change = |flights: &[String]| {
        let flights = flights.join(",");
        let args = format!(
            "{{'reservation_id':'AAAAAA','cabin':'economy','flights':[{flights}],'payment_id':'gift_card_1'}}"
        );
        ("update_reservation_flights", args)
    };
    let rename =
        || ("update_reservation_passengers", "{'reservation_id':'BBBBBB','passengers':[{}]}".to_owned());
    let certificate = |user: &str| ("send_certificate", format!("{{'user_id':'{user}','amount':100}}"));
    let broken = "{'flight_number':['F3'],'date':'2024-05-20'}".to_owned();
    for (rule, read, (tool, args)) in [
        // Booked is what a search reported, on a day it was about.
        ("book", &[USER, SEARCHED][..], book(&[flight("F3", 20)])),
        ("book", &[USER, ONESTOP], book(&[flight("F4", 22), flight("F5", 23)])),
        ("book-flight-searched", &[USER], book(&[flight("F3", 20)])),
        ("book-flight-searched", &[USER, SEARCHED], book(&[flight("F3", 21)])),
        ("book-flight-searched", &[USER, SEARCHED], book(&[flight("F3", 20), flight("F9", 20)])),
        ("book-flight-searched", &[USER, RESERVATION], book(&[flight("F1", 20)])),
        ("book-flight-searched", &[USER, SEARCHED], book(&["'F3'".to_owned()])),
        ("book-flight-searched", &[USER, SEARCHED], book(&["{'flight_number':'F3'}".to_owned()])),
        ("book-flight-searched", &[USER, SEARCHED], book(&[broken])),
        // A report that is no JSON has reported nothing.
        ("book-flight-searched", &[USER, ("search_direct_flight", "F3")], book(&[flight("F3", 20)])),
        // Changed to is what a search reported, and what the reservation has.
        ("change", &[USER, economy, SEARCHED], change(&[flight("F1", 20), flight("F3", 20)])),
        ("change", &[economy, SEARCHED], change(&[flight("F3", 20)])),
        ("change-flight-reported", &[USER, economy], change(&[flight("F1", 20), flight("F3", 20)])),
        ("change-flight-reported", &[USER, economy, SEARCHED], change(&[flight("F3", 25)])),
        // A certificate is for one whose reservation was read.
        ("certificate-approval", &[USER, RESERVATION], certificate("u")),
        ("certificate-reservation-read", &[USER], certificate("u")),
        ("certificate-reservation-read", &[USER, of_other], certificate("u")),
        // After a transfer nothing is written, and everything is read.
        ("change", &[USER, BOOKED], rename()),
        ("transferred", &[USER, BOOKED, transferred], rename()),
        ("transferred", &[USER, SEARCHED, transferred], book(&[flight("F3", 20)])),
        ("transferred", &[USER, economy, transferred], change(&[flight("F1", 20)])),
        ("transferred", &[USER, RESERVATION, transferred], certificate("u")),
        ("lookup", &[transferred], ("get_user_details", "{'user_id':'u'}".to_owned())),
    ] {
        for verdict in proposed(read, tool, &args) {
            let rules: Vec<&str> = verdict.rules.iter().map(|rule| rule.as_str()).collect();
            assert_eq!(rules, [rule], "{tool} {args}: {verdict:?}");
        }
    }
}

/// The hardened program against regorus's interpreter in its strict mode, on the recorded calls and on damaged ones:
/// an error there is an error here, and otherwise the verdict is the same, unless values of different types were
/// compared by order, which only the hardened program refuses. Running every rule gives the same verdict again.
fn compare_with_the_interpreter(bundle: &PolicyBundle, inputs: &[Vec<u8>]) {
    let files = Bundle::decode(bundle.encoding()).unwrap();
    let mut interpreter = regorus::Engine::new();
    interpreter.set_strict_builtin_errors(true);
    for (path, content) in files.files() {
        let text = String::from_utf8(content.clone()).unwrap();
        match path.as_str() {
            "data.json" => interpreter.add_data_json(&text).unwrap(),
            "airline.rego" => drop(interpreter.add_policy(path.clone(), text).unwrap()),
            _ => {}
        }
    }
    let mut rules_of = |set: &str, input: &str| {
        interpreter.set_input_json(input).unwrap();
        let fired = interpreter.eval_rule(format!("data.sift.{set}")).ok()?;
        let name = |element: &regorus::Value| element["rule"].as_string().unwrap().to_string();
        Some(fired.as_set().unwrap().iter().map(name).collect::<BTreeSet<_>>())
    };
    let (mut decider, mut unsliced) = (bundle.decider(), bundle.decider_unsliced());
    let (mut errors, mut stricter, mut same) = (0, 0, 0);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for input in inputs {
        for damage in 0..6 {
            let mut document: Value = serde_json::from_slice(input).unwrap();
            for part in ["call", "facts"].into_iter().cycle().take(damage) {
                damage_one(&mut document[part], &mut seed);
            }
            let text = sift_rules::json::print(&document);
            let verdict = decider.decide(text.as_bytes());
            assert_eq!(unsliced.decide(text.as_bytes()), verdict, "{text}");
            let is_error =
                verdict.rules.iter().any(|rule| rule.as_str() == sift_rules::verdict::EVALUATION_ERROR);
            let sets = ["deny", "hold", "allow"].map(|set| rules_of(set, &text));
            if sets.iter().any(Option::is_none) {
                assert!(is_error, "the interpreter fails, the program does not: {verdict:?}\n{text}");
                errors += 1;
                continue;
            }
            if is_error {
                assert!(
                    damage > 0 && verdict.reasons[0].as_str().starts_with(['<', '>']),
                    "{verdict:?}\n{text}"
                );
                stricter += 1;
                continue;
            }
            let expected = sets.into_iter().flatten().find(|set| !set.is_empty());
            let expected =
                expected.unwrap_or_else(|| BTreeSet::from([sift_rules::verdict::DEFAULT_DENY.to_owned()]));
            let found: BTreeSet<String> = verdict.rules.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
            same += 1;
        }
    }
    println!("against the interpreter: {same} alike, {errors} errors in both, {stricter} only here");
    assert!(same > 0 && errors > 0);
}

/// Replaces or removes one member or element at a random place.
fn damage_one(value: &mut Value, seed: &mut u64) {
    let mut next = |bound: usize| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed % bound as u64) as usize
    };
    let mut place = value;
    loop {
        let stop = next(4) == 0;
        let children = match &*place {
            Value::Object(members) => members.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if stop || children == 0 {
            break;
        }
        let child = next(children);
        place = match place {
            Value::Object(members) => members.values_mut().nth(child).unwrap(),
            Value::Array(items) => &mut items[child],
            _ => unreachable!("a scalar has no children"),
        };
    }
    let kinds = [r"null", "7", "-1.5", r#""text""#, "[]", "{}", "true", r#"["a",1]"#, r#"{"a":null}"#];
    *place = serde_json::from_str(kinds[next(kinds.len())]).unwrap();
}
