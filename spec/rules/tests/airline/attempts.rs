//! Attempts that no recording holds, each under both engines: what gets around a rule is denied, the like of it that is
//! right is not.

use sift_rules::{CallInput, Verdict};
use sift_spec::record::{Effect, Status};

use crate::{Replay, bundle};

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
