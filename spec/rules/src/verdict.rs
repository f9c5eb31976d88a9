//! What a policy says about one call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sift_spec::payload::Commitment;
use sift_spec::record::{Decision, Effect, HOLD_ROLES_MAX, Hold, LIST_MAX, Needed};
use sift_spec::types::{INTEGER_MAX, Text, UnixMillis, Word};

use crate::json;

/// The rule of a denial that no rule of the policy asked for: nothing allowed the call.
pub const DEFAULT_DENY: &str = "sift.default-deny";

/// The rule of a denial because the policy could not be evaluated.
pub const EVALUATION_ERROR: &str = "sift.evaluation-error";

/// Longest time in seconds that a call may wait for an approval: seven days.
pub const HOLD_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Most bytes of the rules and reasons of a verdict together, as JSON prints them: 16 KiB, a quarter of a record. What
/// comes after is left out.
pub const WORDS_BYTES_MAX: usize = 16 << 10;

/// What a policy says about one call. Equal bundle and equal input bytes give an equal verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Allow, deny or hold.
    pub effect: Effect,
    /// Who must approve, and how soon; present exactly when the effect is `hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldFor>,
    /// Names of the rules that decided: sorted, each once, at most 64 and, with the reasons, [`WORDS_BYTES_MAX`].
    pub rules: Vec<Text<128>>,
    /// Why, in words for people, in the order of the rules and each once, at most 64 and, with the rules,
    /// [`WORDS_BYTES_MAX`]. Published with the record: values of the call are in it only if the policy put them there.
    pub reasons: Vec<Text<512>>,
}

/// Who must approve a held call, and within which time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldFor {
    /// Whose approvals it needs, all of them: sorted by role, each role once, 1 to 8.
    pub approvals: Vec<Needed>,
    /// Seconds from the decision to the deadline, from 1 to [`HOLD_SECONDS_MAX`].
    pub seconds: u64,
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fired {
    pub(crate) rule: Text<128>,
    pub(crate) reason: Option<Text<512>>,
}

/// A rule that asks for an approval.
#[derive(Debug, Clone)]
pub(crate) struct FiredHold {
    pub(crate) fired: Fired,
    pub(crate) hold: AskFor,
}

/// Whose approvals one rule asks for.
#[derive(Debug, Clone)]
pub(crate) struct AskFor {
    pub(crate) needed: Needed,
    /// Seconds from the decision to the deadline, from 1 to [`HOLD_SECONDS_MAX`].
    pub(crate) seconds: u64,
}

impl Verdict {
    /// A denial by [`EVALUATION_ERROR`].
    #[must_use]
    pub fn evaluation_error(why: &str) -> Self {
        Self::single(Effect::Deny, EVALUATION_ERROR, why)
    }

    /// The verdict as an intent records it: `input` commits to the bytes that were decided, `time` is the intent's, from
    /// which the deadline of a hold runs.
    #[must_use]
    pub fn into_decision(self, input: Commitment, time: UnixMillis) -> Decision {
        let Self { effect, hold, rules, reasons } = self;
        let hold = hold.map(|HoldFor { approvals, seconds }| {
            let deadline = time.get().saturating_add(seconds.saturating_mul(1000)).min(INTEGER_MAX);
            Hold { approvals, deadline: UnixMillis::new(deadline).unwrap_or(time) }
        });
        Decision { effect, hold, input, reasons, rules }
    }

    /// The verdict on which both engines agree: any denial, else any hold, else any permission, else a denial.
    pub(crate) fn combine(deny: Vec<Fired>, hold: Vec<FiredHold>, allow: Vec<Fired>) -> Self {
        if !deny.is_empty() {
            return Self::of(Effect::Deny, None, deny);
        }
        if let Some(seconds) = hold.iter().map(|held| held.hold.seconds).min() {
            // Every role that any rule asks for, by as many as the rule that asks for most.
            let mut most: BTreeMap<Word, u32> = BTreeMap::new();
            for Needed { count, role } in hold.iter().map(|held| &held.hold.needed) {
                let so_far = most.entry(role.clone()).or_default();
                *so_far = (*so_far).max(*count);
            }
            if most.len() > HOLD_ROLES_MAX {
                return Self::evaluation_error("rules ask for the approvals of more than 8 roles");
            }
            let approvals = most.into_iter().map(|(role, count)| Needed { count, role }).collect();
            let hold_for = HoldFor { approvals, seconds };
            return Self::of(Effect::Hold, Some(hold_for), hold.into_iter().map(|held| held.fired).collect());
        }
        if allow.is_empty() {
            return Self::single(Effect::Deny, DEFAULT_DENY, "no rule of the policy allows this call");
        }
        Self::of(Effect::Allow, None, allow)
    }

    fn single(effect: Effect, rule: &str, reason: &str) -> Self {
        Self { effect, hold: None, rules: vec![Text::cut(rule)], reasons: vec![Text::cut(reason)] }
    }

    fn of(effect: Effect, hold: Option<HoldFor>, mut fired: Vec<Fired>) -> Self {
        fired.sort();
        let mut rules: Vec<Text<128>> = Vec::new();
        let mut reasons: Vec<Text<512>> = Vec::new();
        let mut left = WORDS_BYTES_MAX;
        let mut fits = |text: &str| {
            // With its quotation marks and a comma.
            let rest = left.checked_sub(json::print(&text.into()).len() + 1);
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        for Fired { rule, reason } in fired {
            if rules.len() < LIST_MAX && rules.last() != Some(&rule) && fits(rule.as_str()) {
                rules.push(rule);
            }
            if let Some(reason) = reason
                && reasons.len() < LIST_MAX
                && !reasons.contains(&reason)
                && fits(reason.as_str())
            {
                reasons.push(reason);
            }
        }
        Self { effect, hold, rules, reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(rule: &str) -> Fired {
        Fired { rule: Text::cut(rule), reason: Some(Text::cut(&format!("because of {rule}"))) }
    }

    fn needed(count: u32, role: &str) -> Needed {
        Needed { count, role: role.parse().unwrap() }
    }

    fn held(rule: &str, role: &str, seconds: u64) -> FiredHold {
        FiredHold { fired: fired(rule), hold: AskFor { needed: needed(1, role), seconds } }
    }

    fn names(verdict: &Verdict) -> Vec<&str> {
        verdict.rules.iter().map(Text::as_str).collect()
    }

    #[test]
    fn denial_before_hold_before_permission() {
        let verdict = Verdict::combine(vec![fired("d")], vec![held("h", "boss", 9)], vec![fired("a")]);
        assert_eq!((verdict.effect, names(&verdict)), (Effect::Deny, vec!["d"]));
        let verdict = Verdict::combine(vec![], vec![held("h", "boss", 9)], vec![fired("a")]);
        assert_eq!((verdict.effect, names(&verdict)), (Effect::Hold, vec!["h"]));
        let verdict = Verdict::combine(vec![], vec![], vec![fired("b"), fired("a"), fired("b")]);
        assert_eq!((verdict.effect, names(&verdict)), (Effect::Allow, vec!["a", "b"]));
        let verdict = Verdict::combine(vec![], vec![], vec![]);
        assert_eq!((verdict.effect, names(&verdict)), (Effect::Deny, vec![DEFAULT_DENY]));
    }

    #[test]
    fn holds_add_up_and_the_shortest_deadline_counts() {
        let verdict = Verdict::combine(vec![], vec![held("x", "boss", 90), held("y", "boss", 30)], vec![]);
        assert_eq!(verdict.hold, Some(HoldFor { approvals: vec![needed(1, "boss")], seconds: 30 }));
        assert_eq!(names(&verdict), ["x", "y"]);
        // Every role, the highest count of each, whatever the order in which rules fired.
        let mut two = held("z", "boss", 60);
        two.hold.needed.count = 2;
        let rules = [held("x", "boss", 90), held("y", "auditor", 30), two];
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            let rules = order.map(|at| rules[at].clone()).to_vec();
            let verdict = Verdict::combine(vec![], rules, vec![]);
            let approvals = vec![needed(1, "auditor"), needed(2, "boss")];
            assert_eq!(verdict.hold, Some(HoldFor { approvals, seconds: 30 }));
            assert_eq!((verdict.effect, names(&verdict)), (Effect::Hold, vec!["x", "y", "z"]));
        }
        let many = |n: usize| (0..n).map(|n| held("x", &format!("r{n}"), 9)).collect();
        let verdict = Verdict::combine(vec![], many(8), vec![]);
        assert_eq!(verdict.hold.unwrap().approvals.len(), 8);
        let verdict = Verdict::combine(vec![], many(9), vec![]);
        assert_eq!((verdict.effect, names(&verdict)), (Effect::Deny, vec![EVALUATION_ERROR]));
    }

    #[test]
    fn lists_end_at_64() {
        let many = (0..200).map(|n| fired(&format!("rule-{n:03}"))).collect();
        let verdict = Verdict::combine(many, vec![], vec![]);
        assert_eq!((verdict.rules.len(), verdict.reasons.len()), (64, 64));
        assert!(verdict.rules.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn words_end_at_16_kib_of_json() {
        for filler in ["x", "\u{1}", "\"", "é"] {
            let many = (0..64).map(|n| Fired {
                rule: Text::cut(&format!("{n:03}{}", filler.repeat(125))),
                reason: Some(Text::cut(&format!("{n:03}{}", filler.repeat(509)))),
            });
            let verdict = Verdict::combine(many.collect(), vec![], vec![]);
            let printed = serde_json::to_string(&(&verdict.rules, &verdict.reasons)).unwrap();
            assert!(printed.len() <= WORDS_BYTES_MAX + "[[],[]]".len(), "{}", printed.len());
            assert!(!verdict.rules.is_empty() && !verdict.reasons.is_empty());
        }
    }
}
