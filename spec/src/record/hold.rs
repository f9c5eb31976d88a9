//! Holds: whose approvals a call waits for, and which answers count (SPEC §3.6).
//!
//! Kernel and verifier count by the same function. Whether a statement is genuine is not judged here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Answer;
use crate::note::VerifierKey;
use crate::types::{UnixMillis, Word};

/// Most roles whose approvals one call waits for.
pub const HOLD_ROLES_MAX: usize = 8;

/// Most approvals that one call waits for in one role.
pub const HOLD_COUNT_MAX: u32 = 16;

/// What a held call waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Whose approvals it needs, all of them: sorted by role, each role once, 1 to [`HOLD_ROLES_MAX`].
    pub approvals: Vec<Needed>,
    /// An approval counts only if it is recorded at or before this time of the kernel's clock.
    pub deadline: UnixMillis,
}

/// Approvals that are needed in one role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needed {
    /// By how many different approvers, from 1 to [`HOLD_COUNT_MAX`].
    pub count: u32,
    /// The role that their keys must have.
    pub role: Word,
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.role)
    }
}

/// Why a list is not one of needed approvals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NeededError(pub &'static str);

impl Hold {
    /// Whether the list of needed approvals has its one form.
    ///
    /// # Errors
    /// When it is empty, too long, not sorted by role, or a count is out of bounds.
    pub fn check(&self) -> Result<(), NeededError> {
        let demand = |holds: bool, why| if holds { Ok(()) } else { Err(NeededError(why)) };
        let list = &self.approvals;
        demand((1..=HOLD_ROLES_MAX).contains(&list.len()), "a hold needs approvals of 1 to 8 roles")?;
        let sorted = list.windows(2).all(|pair| pair[0].role < pair[1].role);
        demand(sorted, "the approvals of a hold are not sorted by role, each role once")?;
        let counts = list.iter().all(|needed| (1..=HOLD_COUNT_MAX).contains(&needed.count));
        demand(counts, "a hold needs 1 to 16 approvals of a role")
    }

    /// How many approvals it needs in a role; 0 in a role that it does not name.
    #[must_use]
    pub fn count(&self, role: &Word) -> u32 {
        self.approvals.iter().find(|needed| needed.role == *role).map_or(0, |needed| needed.count)
    }
}

/// An answer that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// What was answered.
    pub answer: Answer,
    /// The key that signed.
    pub key: VerifierKey,
    /// The role in which it did.
    pub role: Word,
}

/// The answers to a held call that counted so far, in the order in which they were recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Approvals(Vec<Counted>);

/// How far a held call is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldProgress {
    /// Somebody entitled refused: it never runs.
    Refused,
    /// It may run, once.
    Released,
    /// It waits for these approvals: sorted by role, none with count 0.
    Waits(Vec<Needed>),
}

/// Why a genuine answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// The call was released or refused before.
    #[error("the call is answered already; an answer counts once")]
    Over,
    /// The hold names other roles.
    #[error("the call needs no approval in the role {0}")]
    Role(Word),
    /// The same key, or one of the same name, has answered.
    #[error("{0} has answered already; a key counts once and in one role")]
    Again(String),
    /// The role has what it needs.
    #[error("the approvals in the role {0} are complete")]
    Complete(Word),
}

impl Approvals {
    /// The answers that counted.
    #[must_use]
    pub fn counted(&self) -> &[Counted] {
        &self.0
    }

    /// How far the call is.
    #[must_use]
    pub fn progress(&self, hold: &Hold) -> HoldProgress {
        if self.0.iter().any(|counted| counted.answer == Answer::Refuse) {
            return HoldProgress::Refused;
        }
        let missing = hold.approvals.iter().filter_map(|needed| {
            let have = self.0.iter().filter(|counted| counted.role == needed.role).count();
            let count = needed.count.saturating_sub(u32::try_from(have).unwrap_or(u32::MAX));
            (count > 0).then(|| Needed { count, role: needed.role.clone() })
        });
        let missing: Vec<Needed> = missing.collect();
        if missing.is_empty() { HoldProgress::Released } else { HoldProgress::Waits(missing) }
    }

    /// Counts one more genuine answer, in the order of SPEC §3.6.
    ///
    /// # Errors
    /// When it does not count; nothing changes.
    pub fn count(&mut self, hold: &Hold, counted: Counted) -> Result<HoldProgress, CountError> {
        // 1. The call still waits.
        let HoldProgress::Waits(missing) = self.progress(hold) else { return Err(CountError::Over) };
        // 2. In a role that it waits for.
        if hold.count(&counted.role) == 0 {
            return Err(CountError::Role(counted.role));
        }
        // 3. By somebody who has not answered: neither under this name nor with this key.
        let same = |other: &Counted| {
            other.key.name() == counted.key.name() || other.key.public() == counted.key.public()
        };
        if self.0.iter().any(same) {
            return Err(CountError::Again(counted.key.name().to_string()));
        }
        // 4. An approval that is still missing; a refusal always counts.
        let is_missing = missing.iter().any(|needed| needed.role == counted.role);
        if counted.answer == Answer::Approve && !is_missing {
            return Err(CountError::Complete(counted.role));
        }
        self.0.push(counted);
        Ok(self.progress(hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::{KeyType, SignerKey};

    fn counted(name: &str, seed: u8, role: &str, answer: Answer) -> Counted {
        let key = SignerKey::from_seed(name.parse().unwrap(), KeyType::Ed25519, &[seed; 32]).unwrap();
        Counted { answer, key: key.verifier().clone(), role: role.parse().unwrap() }
    }

    fn hold(approvals: &[(u32, &str)]) -> Hold {
        let needed = |(count, role): &(u32, &str)| Needed { count: *count, role: role.parse().unwrap() };
        Hold { approvals: approvals.iter().map(needed).collect(), deadline: UnixMillis::ZERO }
    }

    #[test]
    fn lists_have_one_form() {
        assert!(hold(&[(1, "a")]).check().is_ok() && hold(&[(16, "a"), (1, "b")]).check().is_ok());
        let nine: Vec<String> = (0..9).map(|n| format!("r{n}")).collect();
        let nine: Vec<(u32, &str)> = nine.iter().map(|role| (1, role.as_str())).collect();
        assert!(hold(&nine[..8]).check().is_ok());
        for bad in [&[][..], &nine, &[(0, "a")], &[(17, "a")], &[(1, "b"), (1, "a")], &[(1, "a"), (2, "a")]] {
            assert!(hold(bad).check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_role_is_needed_and_nobody_counts_twice() {
        use Answer::Approve;
        let hold = hold(&[(1, "auditor"), (2, "boss")]);
        let mut approvals = Approvals::default();
        let waits = |list: &[(u32, &str)]| HoldProgress::Waits(self::hold(list).approvals);
        assert_eq!(approvals.progress(&hold), waits(&[(1, "auditor"), (2, "boss")]));
        let ann = counted("ann", 1, "boss", Approve);
        assert_eq!(approvals.count(&hold, ann.clone()), Ok(waits(&[(1, "auditor"), (1, "boss")])));
        // The same key; another key of the same name; the same key under another name; and in another role.
        for again in [
            ann,
            counted("ann", 2, "boss", Approve),
            counted("bob", 1, "boss", Approve),
            counted("ann", 1, "auditor", Approve),
        ] {
            assert!(matches!(approvals.count(&hold, again), Err(CountError::Again(_))));
        }
        let clerk = counted("cid", 3, "clerk", Approve);
        assert!(matches!(approvals.count(&hold, clerk), Err(CountError::Role(_))));
        assert_eq!(approvals.count(&hold, counted("bob", 2, "boss", Approve)), Ok(waits(&[(1, "auditor")])));
        let third = counted("cid", 3, "boss", Approve);
        assert!(matches!(approvals.count(&hold, third), Err(CountError::Complete(_))));
        // A refusal counts even where the role is complete.
        let mut refused = approvals.clone();
        let no = counted("cid", 3, "boss", Answer::Refuse);
        assert_eq!(refused.count(&hold, no), Ok(HoldProgress::Refused));
        let late = counted("dee", 4, "auditor", Approve);
        assert_eq!(refused.count(&hold, late.clone()), Err(CountError::Over));
        assert_eq!(approvals.count(&hold, late), Ok(HoldProgress::Released));
        assert_eq!(approvals.count(&hold, counted("eve", 5, "auditor", Approve)), Err(CountError::Over));
    }
}
