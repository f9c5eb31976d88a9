//! What a slice of Cedar policies refers to of the context: nothing else is made into values for it.
//!
//! Read from the policies' JSON form. `context.a.b` and `context has a` are chains that start at the variable; a chain
//! says which member is needed, and what stands alone needs everything below it. So a policy that passes `context` or a
//! part of it on, compares it or looks into it in any other way is given all of that part. A member that no policy refers
//! to can be left out: no expression tells whether it is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::Policy;
use serde_json::Value;

use crate::document::Node;

/// What is needed of a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// All of it. Otherwise whether it is there, and these members.
    pub(crate) whole: bool,
    members: BTreeMap<String, Needs>,
}

impl Needs {
    /// Everything.
    pub(crate) fn whole() -> Self {
        Self { whole: true, members: BTreeMap::new() }
    }

    /// What these policies refer to of the context.
    pub(crate) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut needs = Self::default();
        for policy in policies {
            match policy.to_json() {
                Ok(json) => json.get("conditions").into_iter().for_each(|body| needs.walk(body)),
                Err(_) => return Self::whole(),
            }
        }
        needs
    }

    /// What is needed of a member; `None` where it is not needed.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        if self.whole { Some(self) } else { self.members.get(name) }
    }

    /// The members that are needed, by name; none where all are.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&String, &Self)> {
        self.members.iter()
    }

    fn walk(&mut self, expression: &Value) {
        if let Some(path) = chain(expression) {
            self.at(&path).whole = true;
            return;
        }
        match expression {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(members) => match expression.get("has").and_then(member) {
                // Whether it is there, and no more.
                Some(path) if members.len() == 1 => {
                    self.at(&path);
                }
                _ => members.values().for_each(|member| self.walk(member)),
            },
            _ => {}
        }
    }

    fn at(&mut self, path: &[&str]) -> &mut Self {
        path.iter().fold(self, |needs, name| needs.members.entry((*name).to_owned()).or_default())
    }
}

/// Members of `run` that are looked at; `None` for all of them.
pub(crate) type Members = Option<Arc<BTreeSet<String>>>;

/// Which members of `run` are looked at for which call.
#[derive(Debug, Clone, Default)]
pub(crate) struct OfRun {
    pub(crate) agent: Members,
    pub(crate) model: Members,
    /// By name.
    pub(crate) tools: HashMap<String, Members>,
    /// For tools that are not listed.
    pub(crate) rest: Members,
}

impl OfRun {
    /// The members for a call, as a policy input states it.
    pub(crate) fn of_call(&self, call: &Node<'_>) -> Members {
        let text = |name: &str| call.get(name).and_then(Node::as_str);
        match text("kind") {
            Some("agent") => self.agent.clone(),
            Some("model") => self.model.clone(),
            Some("tool") => text("name").and_then(|name| self.tools.get(name)).unwrap_or(&self.rest).clone(),
            _ => None,
        }
    }

    /// One that knows these members of the calls of models.
    #[cfg(test)]
    pub(crate) fn of_models<const N: usize>(members: [&str; N]) -> Self {
        Self { model: Some(Arc::new(members.map(str::to_owned).into())), ..Self::default() }
    }
}

/// The names of a chain of members that starts at the context.
fn chain(expression: &Value) -> Option<Vec<&str>> {
    let members = expression.as_object().filter(|members| members.len() == 1)?;
    if members.get("Var").and_then(Value::as_str) == Some("context") {
        return Some(Vec::new());
    }
    members.get(".").and_then(member)
}

/// The operands of `.` and `has`: a chain, and the name of one member more.
fn member(operands: &Value) -> Option<Vec<&str>> {
    let mut path = chain(operands.get("left")?)?;
    path.push(operands.get("attr")?.as_str()?);
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(conditions: &str) -> String {
        fn tell(needs: &Needs) -> String {
            if needs.whole {
                return "*".to_owned();
            }
            let members: Vec<_> =
                needs.members().map(|(name, needs)| format!("{name}{}", tell(needs))).collect();
            format!("({})", members.join(" "))
        }
        let policy: Policy = format!("permit (principal, action, resource) {conditions};").parse().unwrap();
        tell(&Needs::of([&policy]))
    }

    #[test]
    fn what_is_referred_to() {
        assert_eq!(needs(""), "()");
        assert_eq!(
            needs("when { context.args.amount > 5 } unless { context.args.to like \"x*\" }"),
            "(args(amount* to*))"
        );
        assert_eq!(needs("when { context has args && context.run has tools.pay.allowed }"), "(args() run*)");
        assert_eq!(
            needs("when { context[\"count\"][\"args.x\"] == 1 && context.count has \"args.y\" }"),
            "(count(args.x* args.y()))"
        );
        for all in [
            "when { context == context }",
            "when { {a: context}.a.b }",
            "when { (if true then context else context).a }",
            "when { [context].contains(context) }",
        ] {
            assert_eq!(needs(all), "*", "{all}");
        }
        assert_eq!(needs("when { (if true then context.a else context.b).c has d }"), "(a* b*)");
        assert_eq!(needs("when { context.a.b.contains(context.c) && (context has d).e }"), "(a(b*) c* d())");
    }
}
