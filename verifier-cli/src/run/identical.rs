//! Identical tool calls of a run, counted also where arguments are withheld (SPEC §6.6).
//!
//! An object of arguments is salted, so a withheld one tells nothing of its content but this: the same digest is the
//! same object. Other digests of one size may be the same arguments or not.

use std::collections::BTreeMap;

use sift_spec::hash::object_digest;
use sift_spec::record::{Call, Limits};
use sift_spec::types::Hash;

use super::payload::Payloads;

/// Tool calls that were let through.
#[derive(Default)]
pub(super) struct IdenticalCalls<'a> {
    /// By tool and size of the arguments.
    calls: BTreeMap<(&'a str, u64), Alike>,
    /// Digests of arguments by the digest of their object, each made once.
    contents: BTreeMap<Hash, Hash>,
}

/// Calls of one tool with arguments of one size.
#[derive(Default)]
struct Alike {
    all: u32,
    withheld: u32,
    same: BTreeMap<Args, u32>,
}

/// What tells arguments from others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Args {
    /// Digest of their bytes.
    Given(Hash),
    /// Digest of their object.
    Withheld(Hash),
}

/// What identical calls share.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    tool: &'a str,
    size: u64,
    args: Args,
}

/// How many calls before are identical to one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Those that are.
    pub(super) have: u32,
    /// Those that may be, for all that the pack shows.
    pub(super) maybe: u32,
}

impl<'a> IdenticalCalls<'a> {
    /// What a tool call shares with identical ones; `None` for another call.
    pub(super) fn identity(&mut self, call: &'a Call, payloads: &Payloads) -> Option<Identity<'a>> {
        let Call::Tool(call) = call else { return None };
        let args = match payloads.content(&call.args) {
            None => Args::Withheld(call.args.digest),
            Some(args) => {
                Args::Given(*self.contents.entry(call.args.digest).or_insert_with(|| object_digest(args)))
            }
        };
        Some(Identity { tool: call.name.as_str(), size: call.args.size, args })
    }

    /// How many calls that were let through are identical to this one.
    pub(super) fn count(&self, identity: Identity<'a>) -> Count {
        let Some(alike) = self.calls.get(&(identity.tool, identity.size)) else { return Count::default() };
        let have = alike.same.get(&identity.args).copied().unwrap_or(0);
        let maybe = match identity.args {
            Args::Given(_) => alike.withheld,
            Args::Withheld(_) => alike.all.saturating_sub(have),
        };
        Count { have, maybe }
    }

    /// Counts a call that was let through.
    pub(super) fn add(&mut self, identity: Identity<'a>) {
        let alike = self.calls.entry((identity.tool, identity.size)).or_default();
        alike.all += 1;
        alike.withheld += u32::from(matches!(identity.args, Args::Withheld(_)));
        *alike.same.entry(identity.args).or_default() += 1;
    }
}

impl Count {
    /// Whether withheld arguments decide if the limit on identical calls refuses the call.
    pub(super) fn is_undecided(self, limits: &Limits) -> bool {
        limits
            .identical_calls
            .is_some_and(|limit| self.have < limit && self.have.saturating_add(self.maybe) >= limit)
    }
}
