//! Policy inputs as Rego values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use regorus::Value;
use regorus::value::Object;
use serde_json::Map;

use crate::json;
use crate::plain::{self, Build, Kept, Part};
use crate::rego_slice::Slices;

/// A JSON value as Rego sees it. Not through its text, of which regorus would read decimals less exactly.
pub(crate) fn convert(value: serde_json::Value) -> Result<Value, String> {
    match Value::from(value) {
        Value::Undefined => Err("not a value for Rego".to_owned()),
        value => Ok(value),
    }
}

/// Reads policy inputs.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    names: Names,
}

impl Inputs {
    /// The value of an input. Where `slices` are given, facts and run may be missing if no rule looks at them that a call
    /// like this one runs ([`Entry::call_only`](crate::rego_slice::Entry::call_only)).
    pub(crate) fn read(&mut self, bytes: &[u8], slices: Option<&Arc<Slices>>) -> Result<Value, String> {
        self.names.slices = slices.cloned();
        self.names.call_only = false;
        if let Some(value) = plain::read(bytes, &mut self.names) {
            return Ok(value);
        }
        let input: Map<_, _> = json::read_input(bytes).map_err(|why| format!("the policy input: {why}"))?;
        convert(serde_json::Value::Object(input))
    }
}

/// Names of members, which are the same from one input to the next: kept, so that they are not made again.
///
/// A table in which each name has one place, and the last one of several names with the same place keeps it. Names are
/// words of policies and tools, not values of calls; a longer one is not kept.
#[derive(Debug)]
struct Names {
    kept: Vec<Value>,
    facts: Kept<Value>,
    tools: Kept<Value>,
    /// Members of `run` that are objects: labels, and what calls without arguments see.
    run: Kept<Value>,
    /// What says whether facts and run are looked at, and what it says of the call that was read.
    slices: Option<Arc<Slices>>,
    call_only: bool,
    /// Facts that were left out.
    left_out: Kept<()>,
    /// The members of the part that is being read.
    told: Vec<(Value, Value)>,
}

/// Places in the table.
const PLACES: usize = 512;

/// Longest name that is kept, in bytes.
const NAME_BYTES_MAX: usize = 64;

impl Default for Names {
    fn default() -> Self {
        Self {
            kept: vec![Value::Undefined; PLACES],
            facts: Kept::default(),
            tools: Kept::default(),
            run: Kept::default(),
            slices: None,
            call_only: false,
            left_out: Kept::default(),
            told: Vec::new(),
        }
    }
}

impl<'a> Build<'a> for Names {
    type Name = Value;
    type Value = Value;

    fn null(&mut self) -> Value {
        Value::Null
    }

    fn bool(&mut self, value: bool) -> Value {
        Value::Bool(value)
    }

    fn unsigned(&mut self, value: u64) -> Value {
        Value::from(value)
    }

    fn negative(&mut self, value: i64) -> Value {
        Value::from(value)
    }

    fn decimal(&mut self, value: f64) -> Value {
        Value::from(value)
    }

    fn text(&mut self, text: Cow<'a, str>) -> Value {
        Value::String(text.into())
    }

    fn array(&mut self, items: Vec<Value>) -> Value {
        Value::from(items)
    }

    fn name(&mut self, name: Cow<'a, str>) -> Value {
        self.kept_name(&name)
    }

    fn object(&mut self, members: Vec<(Value, Value)>) -> Value {
        Value::Object(Object::from(members.into_iter().collect::<BTreeMap<_, _>>()).into())
    }

    fn told(&mut self, name: &str, value: &Value) {
        if let Some(slices) = self.slices.as_ref().filter(|_| name == "call") {
            self.call_only = slices.find_call(value).call_only;
        }
    }

    fn wants(&self, _: &str) -> bool {
        !self.call_only
    }

    fn find_left_out(&self, name: &str, rest: &str) -> Option<usize> {
        self.left_out.find(name, rest).map(|(length, ())| length)
    }

    fn keep_left_out(&mut self, name: &str, text: &str) {
        // Counters differ from one input to the next.
        if name == "facts" {
            self.left_out.keep(name, text, &());
        }
    }

    fn wants_of_run(&self, _: &str) -> bool {
        true
    }

    fn find(&self, name: &str, rest: &str) -> Option<(usize, Value)> {
        self.run.find(name, rest)
    }

    fn keep(&mut self, name: &str, text: &str, value: &Value) {
        self.run.keep(name, text, value);
    }

    fn part_begin(&mut self, _: Part) {
        self.told.clear();
    }

    fn known(&mut self, part: Part, name: Cow<'a, str>, rest: &str) -> Option<usize> {
        let (length, value) = self.kept_of(part).find(&name, rest)?;
        let name = self.name(name);
        self.told.push((name, value));
        Some(length)
    }

    fn member(&mut self, part: Part, name: Cow<'a, str>, text: &str, value: Value) {
        self.kept_of(part).keep(&name, text, &value);
        let name = self.name(name);
        self.told.push((name, value));
    }

    fn part_end(&mut self, _: Part) -> Value {
        let told = std::mem::take(&mut self.told);
        self.object(told)
    }
}

impl Names {
    fn kept_name(&mut self, name: &str) -> Value {
        // FNV-1a: spread is all that is asked of it.
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let place = name.bytes().take(NAME_BYTES_MAX).fold(0x811c_9dc5, step) as usize % PLACES;
        match self.kept.get_mut(place) {
            Some(Value::String(kept)) if **kept == *name => Value::String(kept.clone()),
            Some(place) if name.len() <= NAME_BYTES_MAX => {
                *place = name.into();
                place.clone()
            }
            _ => name.into(),
        }
    }

    const fn kept_of(&mut self, part: Part) -> &mut Kept<Value> {
        match part {
            Part::Facts => &mut self.facts,
            Part::Tools => &mut self.tools,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_run_is_what_it_was() {
        let mut inputs = Inputs::default();
        for run in [
            r#"{"calls":{"tool":1},"labels":{"a":"b"},"seen":{"x":{"new":[]}}}"#,
            r#"{"calls":{"tool":1},"labels":{"a":"b"},"seen":{"x":{"new":[]}}}"#,
            r#"{"calls":{"tool":12},"labels":{"a":"b","c":"d"},"seen":{"x":{"new":[1]}}}"#,
            r#"{"calls":{"tool":1},"labels":{},"seen":{"x":{"new":[]},"y":1}}"#,
            r#"{"calls":{},"labels":[],"seen":{"labels":{"a":"b"}}}"#,
            r#"{"calls":{"tool":1},"labels":{"a":"b"}}"#,
        ] {
            let text = format!("{{\"run\":{run},\"time\":1}}");
            let expected = convert(serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(inputs.read(text.as_bytes(), None).unwrap(), expected, "{run}");
        }
        for broken in [r#"{"labels":{"a":"b"}"#, r#"{"labels":{"a":"b"}x}"#, r#"{"labels":{"a":"b"}{}}"#] {
            assert!(
                inputs.read(format!("{{\"run\":{broken},\"time\":1}}").as_bytes(), None).is_err(),
                "{broken}"
            );
        }
    }

    #[test]
    fn names_that_share_a_place_stay_apart() {
        let mut inputs = Inputs::default();
        for round in 0..3 {
            for number in 0..5 * PLACES {
                let text = format!("{{\"{number}\":{number},\"x{number}\":-{round}.5}}");
                let expected = convert(serde_json::from_str(&text).unwrap()).unwrap();
                assert_eq!(inputs.read(text.as_bytes(), None).unwrap(), expected);
            }
        }
        let long = format!("{{\"{}\":[null,true,\"\"]}}", "n".repeat(100));
        let expected = convert(serde_json::from_str(&long).unwrap()).unwrap();
        assert_eq!(inputs.read(long.as_bytes(), None).unwrap(), expected);
        assert!(inputs.read(b"{", None).unwrap_err().starts_with("the policy input: "));
    }
}
