//! JSON as Cedar values, and the helpers that make its arrays and objects usable in Cedar.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::RestrictedExpression as Expr;
use serde_json::Number;

use crate::cedar_needs::Needs;
use crate::document::{Members, Node};

/// Elements of an array that are reachable by position.
pub(crate) const ITEMS_MAX: usize = 16;

/// Most decimals of a number, the bound of Cedar's `decimal`.
const DECIMALS_MAX: usize = 4;

/// A JSON value as Cedar sees it; `None` for null, which Cedar does not have.
///
/// # Errors
/// When a number is neither a 64-bit signed integer nor a decimal of at most four decimals. The text does not quote it:
/// it becomes a reason, and reasons are published.
pub(crate) fn convert(value: &Node<'_>) -> Result<Option<Expr>, String> {
    Ok(Some(match value {
        Node::Null => return Ok(None),
        Node::Bool(value) => Expr::new_bool(*value),
        Node::Integer(integer) => Expr::new_long(*integer),
        Node::Number(number) => convert_number(number)?,
        Node::Text(text) => Expr::new_string(text.to_string()),
        Node::Array(items) => {
            let items: Vec<_> = items.iter().map(convert).collect::<Result<_, _>>()?;
            Expr::new_set(items.into_iter().flatten())
        }
        Node::Object(members) => convert_object(members)?,
    }))
}

/// A JSON object as a record, without the members that are null.
///
/// # Errors
/// As for [`convert`].
pub(crate) fn convert_object(members: &Members<'_>) -> Result<Expr, String> {
    let mut record = Vec::new();
    for (name, member) in members.iter() {
        if let Some(member) = convert(member)? {
            record.push((name.to_owned(), member));
        }
    }
    Expr::new_record(record).map_err(|_| "a member is given twice".to_owned())
}

/// What is needed of a JSON object, as [`convert_object`] gives all of it.
///
/// # Errors
/// As for [`convert`], for what is needed.
pub(crate) fn convert_needed(members: &Members<'_>, needs: &Needs) -> Result<Expr, String> {
    convert_members(members.iter(), needs)
}

/// What is needed of an object with these members, each name once.
///
/// # Errors
/// As for [`convert`], for what is needed.
pub(crate) fn convert_members<'a>(
    members: impl Iterator<Item = (&'a str, &'a Node<'a>)>,
    needs: &Needs,
) -> Result<Expr, String> {
    let mut record = Vec::new();
    for (name, member) in members {
        if let Some(needs) = needs.get(name)
            && let Some(member) = convert_part(member, needs)?
        {
            record.push((name.to_owned(), member));
        }
    }
    Expr::new_record(record).map_err(|_| "a member is given twice".to_owned())
}

/// What is needed of a JSON value, as [`convert`] gives all of it.
///
/// # Errors
/// As for [`convert`], for what is needed.
pub(crate) fn convert_part(value: &Node<'_>, needs: &Needs) -> Result<Option<Expr>, String> {
    match value {
        Node::Object(members) => convert_needed(members, needs).map(Some),
        // Whether it is there, and of what type.
        Node::Array(_) if !needs.whole => Ok(Some(Expr::new_set([]))),
        value => convert(value),
    }
}

/// Whether a JSON value can be converted.
///
/// # Errors
/// As for [`convert`].
pub(crate) fn check(value: &Node<'_>) -> Result<(), String> {
    match value {
        Node::Number(number) => convert_number(number).map(|_| ()),
        Node::Array(items) => items.iter().try_for_each(check),
        Node::Object(members) => members.iter().try_for_each(|(_, member)| check(member)),
        _ => Ok(()),
    }
}

/// A number that is no 64-bit signed integer.
fn convert_number(number: &Number) -> Result<Expr, String> {
    // The digits that the policy input is printed with.
    let text = number.to_string();
    let text = text.strip_suffix(".0").unwrap_or(&text);
    match text.split_once('.') {
        None => text.parse().ok().map(Expr::new_long),
        Some((whole, decimals)) => {
            // Cedar's decimal is a 64-bit integer of ten-thousandths; -922337203685477 and beyond is cut off safely.
            let fits = decimals.len() <= DECIMALS_MAX && whole.trim_start_matches('-').len() <= 14;
            let is_plain = decimals.bytes().all(|digit| digit.is_ascii_digit());
            (fits && is_plain).then(|| Expr::new_decimal(text))
        }
    }
    .ok_or_else(|| "a number is neither a 64-bit integer nor a decimal of at most four decimals".to_owned())
}

/// Which of the [`Shapes`] are needed.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    all: bool,
    /// Of each kind: its name, and the paths.
    kinds: [Needs; 4],
}

/// The names of the records, in the order of [`Wanted`].
const KINDS: [&str; 4] = ["count", "keys", "columns", "items"];

impl Wanted {
    /// What is needed of a context.
    pub(crate) fn of(needs: &Needs) -> Self {
        let kinds = KINDS.map(|kind| needs.get(kind).cloned().unwrap_or_default());
        Self { all: kinds.iter().any(|kind| kind.whole), kinds }
    }

    /// Whether something at this path or below it may be needed.
    pub(crate) fn below(&self, path: &str) -> bool {
        self.all || self.kinds.iter().any(|kind| kind.members().any(|(wanted, _)| wanted.starts_with(path)))
    }

    fn has(&self, kind: usize, path: &str) -> bool {
        self.kinds.get(kind).is_some_and(|kind| kind.get(path).is_some())
    }
}

/// What Cedar cannot ask of sets and records, by path: see [`crate::cedar`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes {
    /// Number of elements of an array.
    count: BTreeMap<String, i64>,
    /// Names of an object's members.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// Values of one member over an array's objects.
    columns: BTreeMap<String, Vec<Expr>>,
    /// Elements of an array.
    items: BTreeMap<String, Expr>,
}

impl Shapes {
    /// Adds the wanted of the arrays and objects that are reached from `value` through objects alone.
    ///
    /// # Errors
    /// As for [`convert`].
    pub(crate) fn add(&mut self, path: &str, value: &Node<'_>, wanted: &Wanted) -> Result<(), String> {
        if !wanted.below(path) {
            return Ok(());
        }
        match value {
            Node::Array(items) => {
                if wanted.has(0, path) {
                    let count = i64::try_from(items.len()).map_err(|error| error.to_string())?;
                    self.count.insert(path.to_owned(), count);
                }
                for (position, item) in items.iter().enumerate() {
                    let at = format!("{path}[{position}]");
                    if position < ITEMS_MAX
                        && wanted.has(3, &at)
                        && let Some(item) = convert(item)?
                    {
                        self.items.insert(at, item);
                    }
                    let members = item.as_object().into_iter().flat_map(Members::iter);
                    for (name, member) in members.filter(|(name, _)| is_plain(name)) {
                        let column = format!("{path}.{name}");
                        if wanted.has(2, &column) {
                            self.columns.entry(column).or_default().extend(convert(member)?);
                        }
                    }
                }
                Ok(())
            }
            Node::Object(members) => self.add_object(path, members, wanted),
            _ => Ok(()),
        }
    }

    /// Adds an object, as [`Shapes::add`] does.
    ///
    /// # Errors
    /// As for [`convert`].
    pub(crate) fn add_object(
        &mut self,
        path: &str,
        members: &Members<'_>,
        wanted: &Wanted,
    ) -> Result<(), String> {
        self.add_members(path, members.iter(), wanted)
    }

    /// Adds an object with these members, as [`Shapes::add`] does.
    ///
    /// # Errors
    /// As for [`convert`].
    pub(crate) fn add_members<'a>(
        &mut self,
        path: &str,
        members: impl Iterator<Item = (&'a str, &'a Node<'a>)> + Clone,
        wanted: &Wanted,
    ) -> Result<(), String> {
        if !wanted.below(path) {
            return Ok(());
        }
        if wanted.has(1, path) {
            self.keys.insert(path.to_owned(), members.clone().map(|(name, _)| name.to_owned()).collect());
        }
        for (name, member) in members.filter(|(name, _)| is_plain(name)) {
            self.add(&format!("{path}.{name}"), member, wanted)?;
        }
        Ok(())
    }

    /// The records of those four that are needed.
    ///
    /// # Errors
    /// Never, as names in a map are unique; Cedar's constructor says otherwise.
    pub(crate) fn into_records(self, needs: &Needs) -> Result<Vec<(String, Expr)>, String> {
        let names = |names: BTreeSet<String>| Expr::new_set(names.into_iter().map(Expr::new_string));
        let records: [Vec<(String, Expr)>; 4] = [
            self.count.into_iter().map(|(path, n)| (path, Expr::new_long(n))).collect(),
            self.keys.into_iter().map(|(path, keys)| (path, names(keys))).collect(),
            self.columns.into_iter().map(|(path, column)| (path, Expr::new_set(column))).collect(),
            self.items.into_iter().collect(),
        ];
        let needed = KINDS.into_iter().zip(records).filter(|(kind, _)| needs.get(kind).is_some());
        needed
            .map(|(kind, members)| match Expr::new_record(members) {
                Ok(record) => Ok((kind.to_owned(), record)),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }
}

/// Whether a name can be part of a path without making two paths look alike.
fn is_plain(name: &str) -> bool {
    !name.contains(['.', '[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use cedar_policy::Context;
    use proptest::prelude::*;
    use serde_json::Value;

    fn number(text: &str) -> Result<Option<Expr>, String> {
        convert(&json::read(text.as_bytes()).unwrap().into())
    }

    #[test]
    fn numbers() {
        for fine in ["0", "-9223372036854775808", "5.0", "0.1", "-12.3456", "99999999999999.5"] {
            let value = number(fine).unwrap().unwrap();
            assert!(Context::from_pairs([("n".to_owned(), value)]).is_ok(), "{fine}");
        }
        for bad in ["18446744073709551615", "0.00001", "1.23456", "1e-7", "1.5e-7", "999999999999999.5"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_would_make_paths_alike_have_none() {
        let value = json::read(br#"{"a.b":[1],"a":{"b":[1,2]},"c[0]":[1]}"#).unwrap();
        let mut shapes = Shapes::default();
        shapes.add("args", &value.into(), &Wanted::of(&Needs::whole())).unwrap();
        assert_eq!(shapes.count.into_iter().collect::<Vec<_>>(), [("args.a.b".to_owned(), 2)]);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| Value::Number(n.into())),
            any::<u64>().prop_map(|n| Value::Number(n.into())),
            any::<f64>().prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
            (-1_000_000..1_000_000_i32).prop_map(|n| {
                Number::from_f64(f64::from(n) / 10_000.0).map_or(Value::Null, Value::Number)
            }),
            ".{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map("[a-c.\\[]{0,3}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn conversion_never_panics_and_gives_a_context(value in any_json()) {
            let value = Node::from(value);
            let mut shapes = Shapes::default();
            let whole = Needs::whole();
            let parts = shapes.add("args", &value, &Wanted::of(&whole)).and_then(|()| convert(&value));
            prop_assert_eq!(check(&value).is_ok(), convert(&value).is_ok());
            if let Ok(converted) = parts {
                let mut pairs = shapes.into_records(&whole).unwrap();
                pairs.extend(converted.map(|value| ("args".to_owned(), value)));
                prop_assert!(Context::from_pairs(pairs).is_ok());
            }
        }
    }
}
