//! Policy inputs as documents: trees that borrow their texts from the bytes that were read.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::cedar_needs::OfRun;
use crate::json;
use crate::plain::{self, Build, Kept, Part};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// No 64-bit signed integer.
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Members<'a>),
}

/// The members of a JSON object.
///
/// INVARIANT: in byte order of their names, each name once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

impl<'a> Node<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(name),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) const fn as_object(&self) -> Option<&Members<'a>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    fn into_owned(self) -> Node<'static> {
        match self {
            Self::Null => Node::Null,
            Self::Bool(value) => Node::Bool(value),
            Self::Integer(value) => Node::Integer(value),
            Self::Number(value) => Node::Number(value),
            Self::Text(text) => Node::Text(text.into_owned().into()),
            Self::Array(items) => Node::Array(items.into_iter().map(Node::into_owned).collect()),
            Self::Object(Members(members)) => {
                let owned = |(name, member): (Cow<'_, str>, Node<'_>)| {
                    (Cow::Owned(name.into_owned()), member.into_owned())
                };
                Node::Object(Members(members.into_iter().map(owned).collect()))
            }
        }
    }
}

impl<'a> Members<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&Node<'a>> {
        self.place(name).and_then(|place| self.0.get(place)).map(|(_, member)| member)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Node<'a>> {
        self.place(name).map(|place| self.0.remove(place).1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node<'a>)> + Clone {
        self.0.iter().map(|(name, member)| (&**name, member))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()
    }
}

impl From<Value> for Node<'static> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => number.as_i64().map_or(Self::Number(number), Self::Integer),
            Value::String(text) => Self::Text(text.into()),
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(members.into()),
        }
    }
}

impl From<Map<String, Value>> for Members<'static> {
    fn from(members: Map<String, Value>) -> Self {
        let mut members: Vec<_> =
            members.into_iter().map(|(name, member)| (Cow::Owned(name), member.into())).collect();
        members.sort_by(|a: &(Cow<'_, str>, _), b| a.0.cmp(&b.0));
        Self(members)
    }
}

/// A policy input.
pub(crate) struct Document<'a> {
    /// Its members, without the facts.
    pub(crate) members: Members<'a>,
    /// Facts in byte order of their names; `None` where they are no object.
    pub(crate) facts: Option<Vec<Fact<'a>>>,
    /// Whether there is no number in it but integers of at most 18 digits.
    pub(crate) small: bool,
}

/// A fact and its name.
pub(crate) type Fact<'a> = (Cow<'a, str>, Arc<Node<'static>>);

/// Reads policy inputs.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Facts as they were last read, with whether there are decimals in them.
    facts: Kept<(Arc<Node<'static>>, bool)>,
    /// Members of `run` that were left out, without decimals.
    left_out: Kept<()>,
    /// Which members of `run` are looked at for which call; `None` for all.
    of_run: Option<Arc<OfRun>>,
}

impl Documents {
    /// A reader for whoever looks at these members of `run`, and at decimals wherever they are.
    pub(crate) fn with_run(of_run: Arc<OfRun>) -> Self {
        Self { of_run: Some(of_run), ..Self::default() }
    }

    /// Reads a policy input.
    ///
    /// # Errors
    /// As for [`json::read_input`].
    pub(crate) fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Document<'a>, String> {
        let mut reading = self.reading();
        if let Some(Node::Object(members)) = plain::read(bytes, &mut reading) {
            return Ok(Document { members, facts: reading.facts, small: !reading.decimals });
        }
        let mut members = Members::from(json::read_input(bytes)?);
        let facts = match members.remove("facts") {
            Some(Node::Object(Members(facts))) => {
                Some(facts.into_iter().map(|(name, fact)| (name, Arc::new(fact))).collect())
            }
            _ => None,
        };
        Ok(Document { members, facts, small: false })
    }

    fn reading<'a>(&mut self) -> Reading<'_, 'a> {
        Reading {
            documents: self,
            facts: None,
            decimals: false,
            decimals_in_fact: false,
            tools: Members::default(),
            wanted: None,
        }
    }
}

/// A document that is being read.
struct Reading<'d, 'a> {
    documents: &'d mut Documents,
    facts: Option<Vec<Fact<'a>>>,
    /// Whether a decimal was read, since the input began and since the fact at hand did.
    decimals: bool,
    decimals_in_fact: bool,
    tools: Members<'a>,
    /// Members of `run` that are looked at for the call that was read; `None` for all.
    wanted: Option<Arc<BTreeSet<String>>>,
}

impl<'a> Build<'a> for Reading<'_, 'a> {
    type Name = Cow<'a, str>;
    type Value = Node<'a>;

    fn null(&mut self) -> Node<'a> {
        Node::Null
    }
    fn bool(&mut self, value: bool) -> Node<'a> {
        Node::Bool(value)
    }
    fn unsigned(&mut self, value: u64) -> Node<'a> {
        i64::try_from(value).map_or_else(|_| Node::Number(value.into()), Node::Integer)
    }
    fn negative(&mut self, value: i64) -> Node<'a> {
        Node::Integer(value)
    }
    fn decimal(&mut self, value: f64) -> Node<'a> {
        (self.decimals, self.decimals_in_fact) = (true, true);
        Number::from_f64(value).map_or(Node::Null, Node::Number)
    }
    fn text(&mut self, text: Cow<'a, str>) -> Node<'a> {
        Node::Text(text)
    }
    fn array(&mut self, items: Vec<Node<'a>>) -> Node<'a> {
        Node::Array(items)
    }
    fn name(&mut self, name: Cow<'a, str>) -> Cow<'a, str> {
        name
    }
    fn object(&mut self, members: Vec<(Cow<'a, str>, Node<'a>)>) -> Node<'a> {
        Node::Object(Members(members))
    }
    fn told(&mut self, name: &str, value: &Node<'a>) {
        if let (Some(of_run), "call") = (&self.documents.of_run, name) {
            self.wanted = of_run.of_call(value);
        }
    }
    fn wants_of_run(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name))
    }
    fn find_left_out(&self, name: &str, rest: &str) -> Option<usize> {
        self.documents.left_out.find(name, rest).map(|(length, ())| length)
    }
    fn keep_left_out(&mut self, name: &str, text: &str) {
        self.documents.left_out.keep(name, text, &());
    }
    fn part_begin(&mut self, part: Part) {
        match part {
            Part::Facts => (self.facts, self.decimals_in_fact) = (Some(Vec::new()), false),
            Part::Tools => self.tools = Members::default(),
        }
    }
    fn known(&mut self, part: Part, name: Cow<'a, str>, rest: &str) -> Option<usize> {
        let (length, (value, decimals)) =
            (part == Part::Facts).then(|| self.documents.facts.find(&name, rest))??;
        self.decimals |= decimals;
        self.facts.get_or_insert_default().push((name, value));
        Some(length)
    }
    fn member(&mut self, part: Part, name: Cow<'a, str>, text: &str, value: Node<'a>) {
        if part == Part::Tools {
            self.tools.0.push((name, value));
            return;
        }
        let value = Arc::new(value.into_owned());
        let decimals = std::mem::take(&mut self.decimals_in_fact);
        self.documents.facts.keep(&name, text, &(Arc::clone(&value), decimals));
        self.facts.get_or_insert_default().push((name, value));
    }
    fn part_end(&mut self, part: Part) -> Node<'a> {
        match part {
            // They stand beside the document, where they can be shared.
            Part::Facts => Node::Null,
            Part::Tools => Node::Object(std::mem::take(&mut self.tools)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether a text is plain; and then it is read as the strict reader reads it, whatever was read before.
    fn is_plain_after(text: &[u8], documents: &mut Documents) -> bool {
        let is_plain = plain::read(text, &mut documents.reading()).is_some();
        let expected = json::read_input(text);
        let whole = documents.read(text).map(|Document { mut members, facts, small }| {
            let is_small = |node: &Node<'_>| !holds_decimals(node);
            let all_small = members.iter().all(|(_, member)| is_small(member))
                && facts.iter().flatten().all(|(_, fact)| is_small(fact));
            assert!(!small || all_small);
            if let Some(facts) = facts {
                let facts = facts.into_iter().map(|(name, fact)| (name, Node::clone(&fact))).collect();
                let place = members.0.partition_point(|(name, _)| **name < *"facts");
                // Where a plain text has them, a place is kept for them.
                members.0.retain(|(name, _)| name != "facts");
                members.0.insert(place, ("facts".into(), Node::Object(Members(facts))));
            }
            members
        });
        let expected = expected.map(Members::from);
        match expected {
            // Facts that are no object are left out: their reader says so.
            Ok(expected) if expected.get("facts").is_some_and(|facts| facts.as_object().is_none()) => {}
            expected => assert_eq!(whole, expected, "{}", text.escape_ascii()),
        }
        is_plain
    }

    fn holds_decimals(node: &Node<'_>) -> bool {
        match node {
            Node::Number(_) => true,
            Node::Array(items) => items.iter().any(holds_decimals),
            Node::Object(members) => members.iter().any(|(_, member)| holds_decimals(member)),
            _ => false,
        }
    }

    /// The JSON of a document, canonical.
    fn value(node: &Node<'_>) -> Value {
        match node {
            Node::Null => Value::Null,
            Node::Bool(value) => (*value).into(),
            Node::Integer(value) => (*value).into(),
            Node::Number(number) => Value::Number(number.clone()),
            Node::Text(text) => Value::String(text.to_string()),
            Node::Array(items) => items.iter().map(value).collect(),
            Node::Object(members) => {
                Value::Object(members.iter().map(|(name, member)| (name.to_owned(), value(member))).collect())
            }
        }
    }

    fn is_plain(text: &[u8]) -> bool {
        is_plain_after(text, &mut Documents::default())
    }

    #[test]
    fn what_is_plain() {
        for text in [
            "{}",
            r#"{"a":[],"b":[{}],"c":{"d":null,"e":true,"f":false}}"#,
            r#"{"":0,"a":-1,"b":123456789012345678,"c":0.1,"d":-0.0,"e":10.25}"#,
            r#"{"a":"\"\\\/\b\f\n\r\t","b":"é\u007f","b\n":"x"}"#.replace("\\u007f", "\u{7f}").as_str(),
        ] {
            assert!(is_plain(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "[]",
            "null",
            "1",
            "{",
            "{}{}",
            "{} ",
            " {}",
            r#"{"a":1,}"#,
            r#"{"a" :1}"#,
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":-0}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":1e2}"#,
            r#"{"a":+1}"#,
            r#"{"a":1-1}"#,
            r#"{"a":0.1.2}"#,
            r#"{"a":1234567890123456789}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"}"#,
            r#"{"a":"\"#,
            "{\"a\":\"\n\"}",
            r#"{"a":tru}"#,
            r#"{"a":[1,]}"#,
            r#"{"a"}"#,
            r#"{a:1}"#,
            r#"{"a":9007199254740993.0}"#,
            r#"{"a":0.10000000000000000001}"#,
        ] {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
        assert!(!is_plain(b"{\"a\":\"\xff\"}"));
        let deep = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
        assert!(is_plain(deep(json::INPUT_DEPTH_MAX).as_bytes()));
        assert!(!is_plain(deep(json::INPUT_DEPTH_MAX + 1).as_bytes()));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-100_000..100_000_i32).prop_map(|n| Value::from(f64::from(n) / 1000.0)),
            "[a-zé\"\\\\\n\u{1}\u{7f}]{0,6}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 48, 5, |inner| {
            let members = proptest::collection::btree_map("[a-c\"é\n]{0,3}", inner.clone(), 0..5);
            prop_oneof![
                proptest::collection::vec(inner, 0..5).prop_map(Value::Array),
                members.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    #[test]
    fn facts_that_go_on_are_told_from_those_that_are_the_same() {
        let mut documents = Documents::default();
        for facts in [
            r#"{"a":{"b":1},"c":{}}"#,
            r#"{"a":{"b":1},"c":{}}"#,
            r#"{"a":{"b":12},"c":{"d":1}}"#,
            r#"{"a":{"b":1},"b":{"b":1}}"#,
            r#"{"a":1,"b":[],"c":"x"}"#,
            r#"{"a":12,"b":[1],"c":"xy"}"#,
            r#"{"a":{"b":1}}"#,
            r#"{}"#,
        ] {
            let text = format!("{{\"agent\":\"x\",\"facts\":{facts},\"time\":1}}");
            assert!(is_plain_after(text.as_bytes(), &mut documents), "{text}");
            let tools =
                format!("{{\"run\":{{\"a\":1,\"seen\":{facts},\"tools\":{facts},\"x\":{facts},\"z\":[]}}}}");
            assert!(is_plain_after(tools.as_bytes(), &mut documents), "{tools}");
            // The same text where no facts are.
            let elsewhere = format!("{{\"call\":{facts},\"fact\":{{\"facts\":{facts}}}}}");
            assert!(is_plain_after(elsewhere.as_bytes(), &mut documents), "{elsewhere}");
        }
        for broken in
            [r#"{"facts":{"a":{"b":1}"#, r#"{"facts":{"a":{"b":1}x}}"#, r#"{"facts":{"a":{"b":1}{}}}"#]
        {
            assert!(!is_plain_after(broken.as_bytes(), &mut documents), "{broken}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_left_out_and_read_all_the_same() {
        let mut documents = Documents::with_run(Arc::new(OfRun::of_models(["id"])));
        for (told, left) in [
            (r#"{"calls":{"tool":1},"id":{"a":0.5},"tools":{"pay":{"ok":-2}}}"#, r#"{"id":{"a":0.5}}"#),
            (r#"{"id":1,"tools":[1,"x",null,true,{"a":[]}]}"#, r#"{"id":1}"#),
            (r#"{"id":1,"tools":{"pay":{"ok":0.00001}}}"#, r#"{"id":1,"tools":{"pay":{"ok":0.00001}}}"#),
            (r#"{"calls":[0.5],"id":1}"#, r#"{"calls":[0.5],"id":1}"#),
            // What is not plain is read by the strict reader, whole.
            (r#"{"calls":18446744073709551615}"#, r#"{"calls":18446744073709551615}"#),
            (r#"{"calls": 1}"#, r#"{"calls":1}"#),
        ] {
            let read = |documents: &mut Documents, call: &str| {
                let text = format!("{{\"call\":{call},\"run\":{told}}}");
                json::print(&value(documents.read(text.as_bytes()).unwrap().members.get("run").unwrap()))
            };
            assert_eq!(read(&mut documents, r#"{"kind":"model"}"#), left);
            // Another call looks at all of it.
            for call in
                [r#"{"kind":"agent"}"#, r#"{"kind":"tool","name":"pay"}"#, r#"{"kind":"x"}"#, "[]", "1"]
            {
                assert_eq!(read(&mut documents, call), told.replace(' ', ""), "{call}");
            }
        }
        for broken in
            [r#"{"calls":{"a":1,"a":1}}"#, r#"{"calls":1e999}"#, r#"{"calls":[}"#, r#"{"calls":01}"#]
        {
            let text = format!("{{\"call\":{{\"kind\":\"model\"}},\"run\":{broken}}}");
            assert!(documents.read(text.as_bytes()).is_err(), "{broken}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn facts_are_read_the_same_whatever_was_read_before(
            facts in proptest::collection::vec(("[ab]", any_json()), 1..20),
        ) {
            let mut documents = Documents::default();
            for pair in facts.windows(2) {
                let members: Map<_, _> = pair.iter().cloned().collect();
                let text = json::print(&Value::Object(Map::from_iter([("facts".to_owned(), Value::Object(members))])));
                is_plain_after(text.as_bytes(), &mut documents);
                is_plain_after(text.as_bytes(), &mut documents);
                let tools = format!("{{\"run\":{}}}", text.replacen("facts", "tools", 1));
                is_plain_after(tools.as_bytes(), &mut documents);
                is_plain_after(tools.as_bytes(), &mut documents);
            }
        }


        #[test]
        fn plain_is_strict(value in any_json(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut text = json::print(&Value::Object(Map::from_iter([("a".to_owned(), value)]))).into_bytes();
            is_plain(&text);
            let at = at.index(text.len());
            text[at] = byte;
            is_plain(&text);
            text.remove(at);
            is_plain(&text);
        }
    }
}
