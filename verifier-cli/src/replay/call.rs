//! A recorded call, decided again.

use serde::Serialize;
use sift_rules::HoldFor;
use sift_rules::history::Decided;
use sift_rules::simulate::{Change, Simulated};
use sift_rules::stage::Ruling;
use sift_rules::words::refusal_name;
use sift_spec::record::{Effect, Refusal};
use sift_spec::types::{LeafIndex, Seq};

/// A decision, recorded or made again. Fields appear in JSON in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// What becomes of the call.
    pub effect: Effect,
    /// The rules of the policy that decide.
    pub rules: Vec<String>,
    /// Its reasons.
    pub reasons: Vec<String>,
    /// Whose approvals the policy asks for, and how soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldFor>,
    /// Why the budget refuses what the policy lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Said {
    /// The rules that decide; the limit, where the budget does.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.refusal.as_ref().map_or_else(|| self.rules.clone(), |refusal| vec![refusal_name(refusal)])
    }
}

/// A recorded call, decided again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Index of its intent in the log.
    pub index: LeafIndex,
    /// Seq of its intent.
    pub seq: Seq,
    /// The tool, model or agent.
    pub name: String,
    /// As it is recorded.
    pub before: Said,
    /// As it is decided now, or why that cannot be told.
    pub after: Result<Said, String>,
    /// How it would be decided differently.
    pub change: Option<Change>,
}

impl Call {
    /// A decision that came out again, or was not made again.
    pub(super) fn recorded(
        index: LeafIndex,
        seq: Seq,
        name: String,
        decided: &Decided,
        undecided: bool,
    ) -> Self {
        let before = before(decided);
        let after = match undecided {
            true => Err("its arguments and its policy input are withheld or erased".to_owned()),
            false => Ok(before.clone()),
        };
        Self { index, seq, name, before, after, change: None }
    }

    /// A call that was simulated.
    pub(super) fn simulated(index: LeafIndex, simulated: Simulated) -> Self {
        let change = simulated.change();
        let Simulated { seq, name, old, new, .. } = simulated;
        // Of a verified record somebody decided.
        let before = old.as_ref().map(before);
        let before = before.unwrap_or_else(|| Said {
            effect: Effect::Allow,
            rules: Vec::new(),
            reasons: Vec::new(),
            hold: None,
            refusal: None,
        });
        let after = new.map(after).map_err(|unknown| unknown.to_string());
        Self { index, seq, name, before, after, change }
    }
}

fn before(decided: &Decided) -> Said {
    let Decided { effect, rules, reasons, hold, refusal, .. } = decided.clone();
    Said { effect, rules, reasons, hold, refusal }
}

fn after(ruling: Ruling) -> Said {
    let effect = ruling.effect();
    let Ruling { verdict, refusal, .. } = ruling;
    let words = |texts: &[_]| texts.iter().map(ToString::to_string).collect();
    let (rules, reasons) = (words(&verdict.rules), verdict.reasons.iter().map(ToString::to_string).collect());
    Said { effect, rules, reasons, hold: verdict.hold, refusal }
}
