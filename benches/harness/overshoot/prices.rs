//! What the provider of the overshoot table charges, and the same prices as Sift and as LiteLLM want them written.
//!
//! The arithmetic is the provider's own: in millionths of a micro-dollar, so that no call is rounded, and without a
//! line in common with the ledger that it is held against.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest prompt in tokens that the base prices are for, where there is a dearer tier.
pub const TIER_ABOVE: u64 = 8_000;

/// What is special about the prices of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pricing {
    /// One price for input, one for output.
    Plain,
    /// Tokens read from a cache are cheap, those written to it dearer than input, reasoning is dearer than output.
    Cached,
    /// Everything is dearer when the prompt is longer than [`TIER_ABOVE`]; half of the prompts are.
    Tiered,
    /// Cached and tiered.
    All,
}

/// Tokens of one call by class, no token in two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct Tokens {
    pub cache_read: u64,
    pub cache_write: u64,
    pub input: u64,
    pub output: u64,
    pub reasoning: u64,
}

/// Micro-dollars per million tokens, which is millionths of a micro-dollar per token.
#[derive(Debug, Clone, Copy)]
struct Rates {
    cache_read: u64,
    cache_write: u64,
    input: u64,
    output: u64,
    reasoning: u64,
}

impl Pricing {
    fn rates(self) -> Rates {
        let (input, output) = (15_000_000, 75_000_000);
        match self {
            Self::Plain | Self::Tiered => {
                Rates { cache_read: input, cache_write: input, input, output, reasoning: output }
            }
            Self::Cached | Self::All => {
                Rates { cache_read: 1_500_000, cache_write: 18_750_000, input, output, reasoning: 90_000_000 }
            }
        }
    }

    fn rates_above(self) -> Option<Rates> {
        let Rates { cache_read, cache_write, input, output, reasoning } = self.rates();
        let dearer = Rates {
            cache_read: 2 * cache_read,
            cache_write: 2 * cache_write,
            input: 2 * input,
            output: output * 3 / 2,
            reasoning: reasoning * 3 / 2,
        };
        matches!(self, Self::Tiered | Self::All).then_some(dearer)
    }

    /// Whether the provider has a cache and models that reason.
    #[must_use]
    pub const fn has_cache(self) -> bool {
        matches!(self, Self::Cached | Self::All)
    }

    /// Words in the prompt of a caller's call with this number.
    #[must_use]
    pub const fn words(self, number: u64) -> usize {
        match self {
            Self::Plain | Self::Cached => 1_000,
            Self::Tiered | Self::All if number.is_multiple_of(2) => 600,
            Self::Tiered | Self::All => 9_000,
        }
    }

    /// What the provider charges for one call, in millionths of a micro-dollar.
    #[must_use]
    pub fn charge(self, tokens: &Tokens) -> u128 {
        let prompt = tokens.cache_read + tokens.cache_write + tokens.input;
        let rates = self.rates_above().filter(|_| prompt > TIER_ABOVE).unwrap_or_else(|| self.rates());
        let parts = [
            (tokens.cache_read, rates.cache_read),
            (tokens.cache_write, rates.cache_write),
            (tokens.input, rates.input),
            (tokens.output, rates.output),
            (tokens.reasoning, rates.reasoning),
        ];
        parts.into_iter().map(|(tokens, rate)| u128::from(tokens) * u128::from(rate)).sum()
    }

    /// `prices.toml` of a bundle.
    #[must_use]
    pub fn for_sift(self, model: &str) -> String {
        let mut text = format!("[[model]]\nname = \"{model}\"\n");
        let mut rates = |rates: Rates| {
            let Rates { cache_read, cache_write, input, output, reasoning } = rates;
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "input = {input}\ncache_read = {cache_read}\ncache_write = {cache_write}\n\
                 output = {output}\nreasoning = {reasoning}\n"
            );
        };
        rates(self.rates());
        if let Some(above) = self.rates_above() {
            let _ = write!(text, "[[model.tier]]\nabove_prompt_tokens = {TIER_ABOVE}\n");
            let Rates { cache_read, cache_write, input, output, reasoning } = above;
            let _ = write!(
                text,
                "input = {input}\ncache_read = {cache_read}\ncache_write = {cache_write}\n\
                 output = {output}\nreasoning = {reasoning}\n"
            );
        }
        text
    }

    /// LiteLLM's custom pricing: the keys of `litellm_params`, in dollars per token.
    #[must_use]
    pub fn for_litellm(self) -> Value {
        let keys = |rates: Rates| {
            let dollars = |rate: u64| rate as f64 / 1e12;
            let mut keys = json!({
                "input_cost_per_token": dollars(rates.input),
                "output_cost_per_token": dollars(rates.output),
            });
            if self.has_cache() {
                keys["cache_read_input_token_cost"] = json!(dollars(rates.cache_read));
                keys["cache_creation_input_token_cost"] = json!(dollars(rates.cache_write));
                keys["output_cost_per_reasoning_token"] = json!(dollars(rates.reasoning));
            }
            keys
        };
        let mut base = keys(self.rates());
        if let Some(above) = self.rates_above() {
            let (mut short, mut long) = (keys(self.rates()), keys(above));
            short["range"] = json!([0, TIER_ABOVE]);
            long["range"] = json!([TIER_ABOVE, 10_000_000]);
            base["tiered_pricing"] = json!([short, long]);
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use sift_rules::Prices;
    use sift_spec::meter::Usage;

    use super::*;

    /// The provider and a bundle mean the same prices: Sift's is the provider's, rounded up to a micro-dollar.
    #[test]
    fn the_same_prices_twice() {
        for pricing in [Pricing::Plain, Pricing::Cached, Pricing::Tiered, Pricing::All] {
            let prices = Prices::parse("prices.toml", &pricing.for_sift("m"));
            let Ok(prices) = prices else { panic!("{prices:?}") };
            for number in 0..2_000 {
                let tokens =
                    super::super::provider::tokens(pricing, number, pricing.words(number) as u64 + 7, 500);
                let Tokens { cache_read, cache_write, input, output, reasoning } = tokens;
                let usage = Usage { cache_read, cache_write, input, output, reasoning };
                let cost = prices.cost("any", "m", &usage).map(|cost| u128::from(cost.get()));
                assert_eq!(cost, Some(pricing.charge(&tokens).div_ceil(1_000_000)), "{pricing:?} {tokens:?}");
            }
        }
    }
}
