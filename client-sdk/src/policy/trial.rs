//! Trials: the cases of a bundle, run.

use std::collections::BTreeSet;

use sift_rules::PolicyBundle;
use sift_spec::bundle::Bundle;
use sift_spec::meter::Amounts;
use sift_spec::record::{Effect, Status};
use sift_spec::types::{RunId, Seq, Text, UnixMillis};

use super::case::{Case, Given};
use super::source::{RuleSite, Source};
use super::stage::{Opened, Ruling, Stage};
use super::word;

/// Something that is not as a case expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What: `effect`, `rules`, `given[0]`, ...
    pub what: String,
    /// As the case expects it.
    pub expected: String,
    /// As it is.
    pub found: String,
}

/// A case that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The file of the case.
    pub file: String,
    /// Its name.
    pub name: String,
    /// What is not as expected: none when it passes.
    pub differences: Vec<Difference>,
    /// What became of the call in question; `None` where the run did not come so far.
    pub ruling: Option<Ruling>,
}

/// All cases of a bundle, run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// In the order of files and places.
    pub tried: Vec<Tried>,
    /// Rules of the policy's text that fired for no call in question, and decided none of what was given.
    pub unfired: Vec<RuleSite>,
    /// How many rules the policy's text names.
    pub rules: usize,
}

impl Trial {
    /// How many cases fail.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.tried.iter().filter(|tried| !tried.differences.is_empty()).count()
    }
}

/// Runs cases.
#[must_use]
pub fn run(bundle: &Bundle, compiled: &PolicyBundle, cases: &[Case]) -> Trial {
    let mut fired = BTreeSet::new();
    let tried = cases.iter().map(|case| one(compiled, case, &mut fired)).collect();
    let source = Source::of(bundle);
    let rules = source.rules.len();
    let unfired = source.rules.into_iter().filter(|rule| !fired.contains(&rule.name)).collect();
    Trial { tried, unfired, rules }
}

fn one(bundle: &PolicyBundle, case: &Case, fired: &mut BTreeSet<String>) -> Tried {
    let mut play = Play { stage: Stage::new(bundle), run: run_id(0), seq: 0, time: case.time, fired };
    let (differences, ruling) = match play.play(case) {
        Ok(ruling) => (compare(case, &ruling), Some(ruling)),
        Err(difference) => (vec![difference], None),
    };
    Tried { file: case.file.clone(), name: case.name.clone(), differences, ruling }
}

struct Play<'a, 'b> {
    stage: Stage<'a>,
    run: RunId,
    seq: u64,
    time: UnixMillis,
    fired: &'b mut BTreeSet<String>,
}

impl Play<'_, '_> {
    fn play(&mut self, case: &Case) -> Result<Ruling, Difference> {
        // The runs above it, which only the ledger and the depth know.
        for depth in 0..=case.depth {
            let parent = depth.checked_sub(1).map(run_id);
            self.run = run_id(depth);
            let (agent, time) = (case.agent.clone(), case.time);
            let labels = if depth == case.depth { case.labels.clone() } else { Default::default() };
            let opened = Opened { run: self.run, agent, parent, depth, time, labels };
            self.stage.open(opened).map_err(|error| Difference {
                what: "depth".to_owned(),
                expected: format!("a run at depth {depth}"),
                found: error.to_string(),
            })?;
        }
        for (position, given) in case.given.iter().enumerate() {
            for _ in 0..given.repeat {
                self.given(&format!("given[{position}]"), given)?;
            }
        }
        let (_, _, ruling) = self.propose("call", &case.call, 1)?;
        // Those too that another one outdid.
        let rules = self.stage.bundle().explain(&ruling.input).rules;
        self.fired.extend(rules.iter().flat_map(super::explain::fired));
        Ok(ruling)
    }

    fn given(&mut self, what: &str, given: &Given) -> Result<(), Difference> {
        let (seq, call, ruling) = self.propose(what, &given.call, given.after_seconds)?;
        let effect = ruling.effect();
        if effect != given.effect {
            return Err(Difference {
                what: what.to_owned(),
                expected: word(&given.effect),
                found: described(&ruling),
            });
        }
        self.stage.on_intent(self.run, &call, effect);
        if effect == Effect::Deny {
            return Ok(());
        }
        let settled = match (&given.usage, &call) {
            _ if given.status == Status::Cancelled => Amounts::ZERO,
            (Some(usage), sift_rules::CallInput::Model { model, provider, .. }) => {
                self.stage.bundle().billed(provider.as_str(), model.as_str(), usage)
            }
            _ => ruling.reserved,
        };
        let wrong = |why: String| Difference {
            what: what.to_owned(),
            expected: "a settlement".to_owned(),
            found: why,
        };
        self.stage.settle(self.run, seq, self.time, settled).map_err(|error| wrong(error.to_string()))?;
        self.seq += 1;
        let result = match (&given.result, &given.result_text) {
            (Some(result), _) => sift_rules::json::print(result),
            (None, text) => text.clone().unwrap_or_default(),
        };
        self.stage.on_outcome(self.run, &call, given.status, result.as_bytes());
        Ok(())
    }

    fn propose(
        &mut self,
        what: &str,
        call: &super::case::CaseCall,
        after_seconds: u64,
    ) -> Result<(Seq, sift_rules::CallInput, Ruling), Difference> {
        let wrong = |why: String| Difference {
            what: what.to_owned(),
            expected: "a call that can be decided".to_owned(),
            found: why,
        };
        let (call, identity) = call.input().map_err(wrong)?;
        let ms = after_seconds.saturating_mul(1000).saturating_add(self.time.get());
        self.time = UnixMillis::new(ms).map_err(|error| wrong(error.to_string()))?;
        self.seq += 1;
        let seq = Seq::new(self.seq).map_err(|error| wrong(error.to_string()))?;
        let ruling = self.stage.propose(self.run, seq, self.time, &call, identity);
        let ruling = ruling.map_err(|error| wrong(error.to_string()))?;
        self.fired.extend(ruling.verdict.rules.iter().map(ToString::to_string));
        Ok((seq, call, ruling))
    }
}

fn run_id(depth: u32) -> RunId {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&depth.to_be_bytes());
    RunId::from_parts(UnixMillis::ZERO, &random)
}

fn compare(case: &Case, ruling: &Ruling) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, expected: String, found: String| {
        if expected != found {
            differences.push(Difference { what: what.to_owned(), expected, found });
        }
    };
    let expect = &case.expect;
    let verdict = &ruling.verdict;
    if ruling.effect() != expect.effect {
        differ("effect", word(&expect.effect), described(ruling));
    }
    let list = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(", ");
    if let Some(rules) = &expect.rules {
        let found = list(&mut verdict.rules.iter().map(Text::as_str));
        differ("rules", list(&mut rules.iter().map(String::as_str)), found);
    }
    if let Some(reasons) = &expect.reasons {
        let found = list(&mut verdict.reasons.iter().map(Text::as_str));
        differ("reasons", list(&mut reasons.iter().map(String::as_str)), found);
    }
    if let Some(hold) = &expect.hold {
        let found = verdict.hold.as_ref().map_or_else(|| "none".to_owned(), super::hold_words);
        differ("hold", super::hold_words(hold), found);
    }
    if let Some(refused) = &expect.refused {
        let found = ruling
            .refusal
            .as_ref()
            .map_or_else(|| "not refused by the budget".to_owned(), super::refusal_name);
        differ("refused", refused.clone(), found);
    }
    differences
}

/// A ruling in one line: `deny by book-payments-max (a reservation is paid with at most five methods)`.
#[must_use]
pub fn described(ruling: &Ruling) -> String {
    let effect = word(&ruling.effect());
    let names = ruling.names().join(", ");
    if ruling.refusal.is_some() {
        return format!("{effect} by the budget ({names})");
    }
    let reasons: Vec<&str> = ruling.verdict.reasons.iter().map(Text::as_str).collect();
    match reasons.is_empty() {
        true => format!("{effect} by {names}"),
        false => format!("{effect} by {names} ({})", reasons.join("; ")),
    }
}
