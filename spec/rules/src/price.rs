//! Prices: `prices.toml` of a bundle.
//!
//! ```toml
//! [[model]]
//! name = "gpt-4o"             # exactly as the request names it
//! provider = "openai"         # optional: without it, the entry serves every provider
//! input = 2_500_000           # micro-dollars per million tokens
//! cache_read = 1_250_000      # optional
//! output = 10_000_000
//!
//! [[model.tier]]              # optional: prices once the whole prompt is longer than this
//! above_prompt_tokens = 128_000
//! input = 5_000_000
//! output = 20_000_000
//! ```
//!
//! A class without a price takes the dearest that makes sense: `cache_read` and `cache_write` the dearest price given
//! for any input in the same tier, `reasoning` that of `output`. A tier replaces all prices, whatever class.
//! Sums are exact in 128 bits and rounded up to whole micro-dollars once per call.

use serde::Deserialize;
use sift_spec::meter::Usage;
use sift_spec::types::{INTEGER_MAX, MicroUsd};

use crate::bundle::CompileError;

/// Prices are per this many tokens.
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// The prices of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prices {
    models: Vec<Model>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    name: String,
    provider: Option<String>,
    /// From the longest prompt down; the last one has no threshold.
    tiers: Vec<Tier>,
}

/// Prices in micro-dollars per million tokens, for prompts longer than `above` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tier {
    above: Option<u64>,
    cache_read: u64,
    cache_write: u64,
    input: u64,
    output: u64,
    reasoning: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    model: Vec<ModelEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    name: String,
    provider: Option<String>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    input: u64,
    output: u64,
    reasoning: Option<u64>,
    #[serde(default)]
    tier: Vec<TierEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierEntry {
    above_prompt_tokens: u64,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    input: u64,
    output: u64,
    reasoning: Option<u64>,
}

impl Prices {
    /// Reads `prices.toml`. `file` is its name, for errors.
    ///
    /// # Errors
    /// When the text is no TOML, a key is unknown or missing, a price is no integer from 0 to 2^53 − 1, or a model or
    /// tier is listed twice; names the file, and the key or model.
    pub fn parse(file: &str, text: &str) -> Result<Self, CompileError> {
        let setting = |why: String| CompileError::Setting { file: file.to_owned(), why };
        let entries = toml::from_str::<File>(text).map_err(|error| setting(error.to_string()))?.model;
        let mut prices = Self::default();
        for entry in entries {
            let ModelEntry { name, provider, cache_read, cache_write, input, output, reasoning, tier } =
                entry;
            if prices.models.iter().any(|known| known.name == name && known.provider == provider) {
                return Err(setting(format!("model {name:?} is listed twice")));
            }
            let mut tiers: Vec<Tier> = tier
                .into_iter()
                .map(|tier| {
                    let TierEntry { above_prompt_tokens, cache_read, cache_write, input, output, reasoning } =
                        tier;
                    Tier::new(Some(above_prompt_tokens), cache_read, cache_write, input, output, reasoning)
                })
                .collect();
            tiers.push(Tier::new(None, cache_read, cache_write, input, output, reasoning));
            tiers.sort_by_key(|tier| std::cmp::Reverse(tier.above));
            if tiers.windows(2).any(|pair| matches!(pair, [a, b] if a.above == b.above)) {
                return Err(setting(format!("model {name:?} has two tiers above the same length")));
            }
            if tiers.iter().flat_map(Tier::all).any(|price| price > INTEGER_MAX) {
                return Err(setting(format!("model {name:?} has a price above 2^53 - 1")));
            }
            prices.models.push(Model { name, provider, tiers });
        }
        Ok(prices)
    }

    /// What a call of `model` costs, rounded up, and at most 2^53 − 1: a usage beyond all bounds must not cost nothing.
    /// `None` when it has no price.
    #[must_use]
    pub fn cost(&self, provider: &str, model: &str, usage: &Usage) -> Option<MicroUsd> {
        let tiers = &self.find(provider, model)?.tiers;
        let tier = tiers.iter().find(|tier| tier.above.is_none_or(|above| usage.prompt() > above))?;
        round_up([
            (tier.cache_read, usage.cache_read),
            (tier.cache_write, usage.cache_write),
            (tier.input, usage.input),
            (tier.output, usage.output),
            (tier.reasoning, usage.reasoning),
        ])
        .or_else(|| MicroUsd::new(INTEGER_MAX).ok())
    }

    /// The most that a call of `model` can cost with a prompt of at most `input_tokens` and at most `max_output` tokens
    /// of output, reasoning included: every token in the dearest class of the dearest tier that such a prompt can
    /// reach. `None` when it has no price or may cost more than 2^53 − 1.
    #[must_use]
    pub fn worst_case(
        &self,
        provider: &str,
        model: &str,
        input_tokens: u64,
        max_output: u64,
    ) -> Option<MicroUsd> {
        let tiers = self.find(provider, model)?.tiers.iter();
        let reachable = tiers.filter(|tier| tier.above.is_none_or(|above| input_tokens > above));
        let costs = reachable.map(|tier| {
            let input = tier.input.max(tier.cache_read).max(tier.cache_write);
            round_up([(input, input_tokens), (tier.output.max(tier.reasoning), max_output)])
        });
        // A tier beyond all bounds makes the whole call unpriced.
        costs.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The entry for this provider, else the one for every provider.
    fn find(&self, provider: &str, model: &str) -> Option<&Model> {
        let named = |wanted: Option<&str>| {
            self.models.iter().find(|entry| entry.name == model && entry.provider.as_deref() == wanted)
        };
        named(Some(provider)).or_else(|| named(None))
    }
}

impl Tier {
    fn new(
        above: Option<u64>,
        cache_read: Option<u64>,
        cache_write: Option<u64>,
        input: u64,
        output: u64,
        reasoning: Option<u64>,
    ) -> Self {
        let dearest = input.max(cache_read.unwrap_or(0)).max(cache_write.unwrap_or(0));
        Self {
            above,
            cache_read: cache_read.unwrap_or(dearest),
            cache_write: cache_write.unwrap_or(dearest),
            input,
            output,
            reasoning: reasoning.unwrap_or(output),
        }
    }

    const fn all(&self) -> [u64; 5] {
        [self.cache_read, self.cache_write, self.input, self.output, self.reasoning]
    }
}

/// Sum of price × tokens in whole micro-dollars, rounded up.
fn round_up<const N: usize>(parts: [(u64, u64); N]) -> Option<MicroUsd> {
    let sum = parts.into_iter().try_fold(0_u128, |sum, (price, tokens)| {
        sum.checked_add(u128::from(price).checked_mul(u128::from(tokens))?)
    })?;
    let micro = u64::try_from(sum.div_ceil(TOKENS_PER_PRICE)).ok()?;
    MicroUsd::new(micro).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIERED: &str = "[[model]]\nname = \"m\"\ninput = 2_500_000\ncache_read = 1_250_000\noutput = 10_000_000\n\
        [[model.tier]]\nabove_prompt_tokens = 1000\ninput = 5_000_000\noutput = 20_000_000\nreasoning = 30_000_000\n";

    #[test]
    fn cost_rounds_up_once() {
        let prices = Prices::parse("prices.toml", TIERED).unwrap();
        let usage = Usage { input: 1, cache_read: 1, output: 1, ..Usage::default() };
        // 2.5 + 1.25 + 10 = 13.75 micro-dollars.
        assert_eq!(prices.cost("any", "m", &usage).unwrap().get(), 14);
        let long = Usage { input: 1001, reasoning: 10, ..Usage::default() };
        assert_eq!(prices.cost("any", "m", &long).unwrap().get(), 1001 * 5 + 300);
        assert_eq!(prices.cost("any", "other", &usage), None);
        let all = Usage { input: u64::MAX, ..Usage::default() };
        assert_eq!(prices.cost("any", "m", &all).unwrap().get(), INTEGER_MAX);
    }

    #[test]
    fn providers_before_every_provider() {
        let text = "[[model]]\nname = \"m\"\ninput = 1_000_000\noutput = 0\n\
                    [[model]]\nname = \"m\"\nprovider = \"dear\"\ninput = 9_000_000\noutput = 0\n";
        let prices = Prices::parse("prices.toml", text).unwrap();
        let usage = Usage { input: 1, ..Usage::default() };
        assert_eq!(prices.cost("dear", "m", &usage).unwrap().get(), 9);
        assert_eq!(prices.cost("cheap", "m", &usage).unwrap().get(), 1);
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, part) in [
            ("[[model]]\nname = \"m\"\ninput = 1\noutput = 1\ninputs = 2", "inputs"),
            ("[[model]]\nname = \"m\"\ninput = 1", "output"),
            ("[[model]]\nname = \"m\"\ninput = -1\noutput = 1", "input"),
            ("[[model]]\nname = \"m\"\ninput = 9007199254740992\noutput = 1", "\"m\""),
            ("[[models]]\nname = \"m\"", "models"),
            ("[[model]]\nname=\"m\"\ninput=1\noutput=1\n[[model]]\nname=\"m\"\ninput=1\noutput=1", "twice"),
            ("[[model]]\nname=\"m\"\ninput=1\noutput=1\n[[model.tier]]\nabove_prompt=1", "above_prompt"),
        ] {
            let error = Prices::parse("prices.toml", text).unwrap_err().to_string();
            assert!(error.contains("prices.toml") && error.contains(part), "{text}: {error}");
        }
    }

    fn tier() -> impl Strategy<Value = String> {
        let price = || 0..50_000_000_u64;
        let optional = || proptest::option::of(0..50_000_000_u64);
        (price(), price(), optional(), optional(), optional()).prop_map(
            |(input, output, read, write, reasoning)| {
                let mut text = format!("input = {input}\noutput = {output}\n");
                for (name, price) in [("cache_read", read), ("cache_write", write), ("reasoning", reasoning)]
                {
                    if let Some(price) = price {
                        text += &format!("{name} = {price}\n");
                    }
                }
                text
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn cost_is_never_above_the_worst_case(
            base in tier(),
            tiers in proptest::collection::btree_map(0..3000_u64, tier(), 0..4),
            input in [0..1500_u64, 0..1500, 0..1500],
            output in [0..2000_u64, 0..2000],
            slack in [0..100_u64, 0..100],
        ) {
            let mut text = format!("[[model]]\nname = \"m\"\n{base}");
            for (above, prices) in tiers {
                text += &format!("[[model.tier]]\nabove_prompt_tokens = {above}\n{prices}");
            }
            let prices = Prices::parse("prices.toml", &text).unwrap();
            let [cache_read, cache_write, input] = input;
            let [output, reasoning] = output;
            let usage = Usage { cache_read, cache_write, input, output, reasoning };
            let cost = prices.cost("p", "m", &usage).unwrap();
            let bound = prices
                .worst_case("p", "m", usage.prompt() + slack[0], output + reasoning + slack[1])
                .unwrap();
            prop_assert!(cost <= bound, "{cost} > {bound} for {usage:?}\n{text}");
        }
    }
}
