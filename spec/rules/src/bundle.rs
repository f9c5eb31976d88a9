//! Policy bundles, compiled: the rules, limits, prices and facts that a run is bound to by the bundle's digest.
//!
//! A bundle holds `*.rego`, or `*.cedar` with an optional `schema.cedarschema`; and optionally `data.json`,
//! `budget.toml`, `prices.toml`, `facts.toml`, `README.md` and `tests/*.json`. Anything else is refused by name.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sift_spec::bundle::Bundle;
use sift_spec::types::Hash;

use crate::budget::Budget;
use crate::cedar::{self, CedarPolicy};
use crate::decide::{Decider, Engine};
use crate::explain::Explanation;
use crate::fact::{self, FactRules};
use crate::input::INPUT_BYTES_MAX;
use crate::json;
use crate::nesting;
use crate::price::Prices;
use crate::rego::{self, RegoPolicy};
use crate::rego_explain;

/// Why files are no policy. The author of the bundle is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// No `*.rego` and no `*.cedar`.
    #[error("the bundle holds no policy: neither *.rego nor *.cedar")]
    NoPolicy,
    /// Both `*.rego` and `*.cedar`.
    #[error("the bundle holds two kinds of policy, *.rego and *.cedar: split it")]
    TwoEngines,
    /// A file that has no meaning in a bundle.
    #[error("{0}: a bundle has no such file")]
    UnknownFile(String),
    /// A policy or schema file is no UTF-8, does not parse, or breaks a convention.
    #[error("{file}: {why}")]
    Policy {
        /// The file, or the files where it cannot be told which.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A file of settings or data is no UTF-8 or does not parse, or a key or value is not allowed.
    #[error("{file}: {why}")]
    Setting {
        /// The file.
        file: String,
        /// What is wrong, with the key.
        why: String,
    },
}

/// A compiled bundle. Share it in an `Arc`; give every worker its own [`Decider`].
#[derive(Debug)]
pub struct PolicyBundle {
    budget: Budget,
    digest: Hash,
    encoding: Vec<u8>,
    facts: FactRules,
    policy: Policy,
    prices: Prices,
}

#[derive(Debug)]
enum Policy {
    Cedar(CedarPolicy),
    Rego(RegoPolicy),
}

impl PolicyBundle {
    /// Compiles a bundle.
    ///
    /// # Errors
    /// When there is no policy, or are two kinds of it, or a file is unknown or does not parse. There is no default.
    pub fn compile(bundle: &Bundle) -> Result<Self, CompileError> {
        let mut rego = BTreeMap::new();
        let mut cedar = BTreeMap::new();
        let mut schema = None;
        let mut data = Map::new();
        let mut budget = Budget::default();
        let mut prices = Prices::default();
        let mut facts = FactRules::default();
        for (path, content) in bundle.files() {
            let path = path.as_str();
            match path {
                "data.json" => {
                    data = json::read_object(content)
                        .map_err(|why| CompileError::Setting { file: path.to_owned(), why })?;
                }
                "budget.toml" => budget = Budget::parse(path, text(path, content)?)?,
                "prices.toml" => prices = Prices::parse(path, text(path, content)?)?,
                "facts.toml" => facts = fact::parse(path, text(path, content)?)?,
                "schema.cedarschema" => schema = Some(text(path, content)?),
                "README.md" => {}
                _ if path.ends_with(".rego") => {
                    rego.insert(path, text(path, content)?);
                }
                _ if path.ends_with(".cedar") => {
                    cedar.insert(path, text(path, content)?);
                }
                _ if path.starts_with("tests/") && path.ends_with(".json") => {}
                _ => return Err(CompileError::UnknownFile(path.to_owned())),
            }
        }
        let policy = match (rego.is_empty(), cedar.is_empty(), schema) {
            (true, true, _) => return Err(CompileError::NoPolicy),
            (false, false, _) => return Err(CompileError::TwoEngines),
            (false, true, Some(_)) => return Err(CompileError::UnknownFile("schema.cedarschema".to_owned())),
            (false, true, None) => {
                nesting::check_rego(rego.iter().map(|(file, source)| (*file, *source)))?;
                Policy::Rego(RegoPolicy::compile(&rego, Value::Object(data))?)
            }
            (true, false, schema) => {
                cedar.iter().try_for_each(|(file, source)| nesting::check_cedar(file, source))?;
                schema.map_or(Ok(()), |schema| nesting::check_cedar("schema.cedarschema", schema))?;
                Policy::Cedar(CedarPolicy::compile(&cedar, schema, data)?)
            }
        };
        Ok(Self { budget, digest: bundle.digest(), encoding: bundle.encode(), facts, policy, prices })
    }

    /// The bundle's name: SHA-256 of its encoding.
    #[must_use]
    pub const fn digest(&self) -> Hash {
        self.digest
    }

    /// The bundle's one encoding, as stored and published.
    #[must_use]
    pub fn encoding(&self) -> &[u8] {
        &self.encoding
    }

    /// Engine and version that decides, for the field `engine` of `open`.
    #[must_use]
    pub const fn engine(&self) -> &'static str {
        match self.policy {
            Policy::Cedar(_) => cedar::ENGINE,
            Policy::Rego(_) => rego::ENGINE,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The prices.
    #[must_use]
    pub const fn prices(&self) -> &Prices {
        &self.prices
    }

    /// What to remember of a run.
    #[must_use]
    pub const fn facts(&self) -> &FactRules {
        &self.facts
    }

    /// A decider for one worker. Made at once, of what all deciders share: where several decide at the same time they
    /// wait for each other a little, as [`PolicyBundle::own_decider`] says.
    #[must_use]
    pub fn decider(&self) -> Decider {
        self.decider_of(true)
    }

    /// A decider for a worker that stays: with a copy of the policy, which takes about as long to make as compiling it.
    /// Both engines count references to the values of a policy; deciders that share them wait for each other's counts,
    /// and on two cores a decision takes up to half as long again. A policy that is too large for copies is shared.
    #[must_use]
    pub fn own_decider(&self) -> Decider {
        let own = match &self.policy {
            Policy::Cedar(policy) => policy.own_decider().map(Engine::Cedar),
            Policy::Rego(policy) => policy.own_decider().map(|own| Engine::Rego(Box::new(own))),
        };
        own.map_or_else(|| self.decider(), Decider::new)
    }

    /// A decider that runs all rules for every call: to compare with. It gives the same verdicts.
    #[must_use]
    pub fn decider_unsliced(&self) -> Decider {
        self.decider_of(false)
    }

    /// What the policy says about `input`, the exact bytes of a policy input, and what became of each of its rules.
    #[must_use]
    pub fn explain(&self, input: &[u8]) -> Explanation {
        let rules = match &self.policy {
            _ if input.len() > INPUT_BYTES_MAX => Vec::new(),
            Policy::Cedar(policy) => policy.explain(input),
            Policy::Rego(policy) => rego_explain::explain(policy, input),
        };
        Explanation { verdict: self.decider().decide(input), rules }
    }

    #[cfg(test)]
    pub(crate) fn rego_slices(&self) -> Option<&crate::rego_slice::Slices> {
        match &self.policy {
            Policy::Cedar(_) => None,
            Policy::Rego(policy) => Some(&policy.slices),
        }
    }

    fn decider_of(&self, sliced: bool) -> Decider {
        Decider::new(match &self.policy {
            Policy::Cedar(policy) => Engine::Cedar(policy.decider(sliced)),
            Policy::Rego(policy) => Engine::Rego(Box::new(policy.decider(sliced))),
        })
    }
}

fn text<'a>(file: &str, content: &'a [u8]) -> Result<&'a str, CompileError> {
    std::str::from_utf8(content)
        .map_err(|_| CompileError::Policy { file: file.to_owned(), why: "not UTF-8".to_owned() })
}
