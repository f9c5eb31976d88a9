//! What is counted: meters, amounts over them, and the token classes of a model call (SPEC §3.4).

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{INTEGER_MAX, MicroUsd, ValueError};

/// Something that is used up and has limits. The order is that of the names, as canonical JSON sorts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Sub-agents started.
    Agents,
    /// Input tokens read from the provider's prompt cache.
    CacheReadTokens,
    /// Input tokens written to the provider's prompt cache.
    CacheWriteTokens,
    /// Input tokens that are neither read from nor written to a cache.
    InputTokens,
    /// Money, in millionths of a US dollar.
    MicroUsd,
    /// Calls to a model.
    ModelCalls,
    /// Output tokens that are not reasoning.
    OutputTokens,
    /// Output tokens spent on reasoning.
    ReasoningTokens,
    /// All tokens, whatever their class.
    Tokens,
    /// Calls to a tool.
    ToolCalls,
}

impl Meter {
    /// How many meters there are.
    pub const COUNT: usize = 10;

    /// All meters in the order of their names.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Agents,
        Self::CacheReadTokens,
        Self::CacheWriteTokens,
        Self::InputTokens,
        Self::MicroUsd,
        Self::ModelCalls,
        Self::OutputTokens,
        Self::ReasoningTokens,
        Self::Tokens,
        Self::ToolCalls,
    ];

    /// The name in records and in `budget.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::CacheReadTokens => "cache_read_tokens",
            Self::CacheWriteTokens => "cache_write_tokens",
            Self::InputTokens => "input_tokens",
            Self::MicroUsd => "micro_usd",
            Self::ModelCalls => "model_calls",
            Self::OutputTokens => "output_tokens",
            Self::ReasoningTokens => "reasoning_tokens",
            Self::Tokens => "tokens",
            Self::ToolCalls => "tool_calls",
        }
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount for every meter. In JSON: an object of the meters that are not zero, so that it has one encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts([u64; Meter::COUNT]);

impl Amounts {
    /// Nothing of anything.
    pub const ZERO: Self = Self([0; Meter::COUNT]);

    /// The amount of one meter.
    #[must_use]
    pub const fn get(&self, meter: Meter) -> u64 {
        self.0[meter as usize]
    }

    /// The same amounts with one replaced; values above 2^53 − 1 are held at that bound.
    #[must_use]
    pub fn with(mut self, meter: Meter, amount: u64) -> Self {
        self.0[meter as usize] = amount.min(INTEGER_MAX);
        self
    }

    /// The money among the amounts.
    #[must_use]
    pub fn money(&self) -> MicroUsd {
        MicroUsd::new(self.get(Meter::MicroUsd)).unwrap_or_default()
    }

    /// Meter by meter sum; `None` where one passes 2^53 − 1.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut sum = *self;
        for (total, amount) in sum.0.iter_mut().zip(other.0) {
            *total = total.checked_add(amount).filter(|total| *total <= INTEGER_MAX)?;
        }
        Some(sum)
    }

    /// Meter by meter difference; `None` where one would be negative.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let mut difference = *self;
        for (total, amount) in difference.0.iter_mut().zip(other.0) {
            *total = total.checked_sub(amount)?;
        }
        Some(difference)
    }

    /// The first meter of which `self` holds more than `bound`.
    #[must_use]
    pub fn first_above(&self, bound: &Self) -> Option<Meter> {
        Meter::ALL.into_iter().find(|&meter| self.get(meter) > bound.get(meter))
    }

    /// Whether every amount is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The meters that are not zero, with their amounts.
    pub fn iter(&self) -> impl Iterator<Item = (Meter, u64)> + '_ {
        Meter::ALL.into_iter().map(|meter| (meter, self.get(meter))).filter(|(_, amount)| *amount > 0)
    }
}

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AmountsOfMap)
    }
}

/// Reads amounts from a map of meters.
struct AmountsOfMap;

impl<'de> Visitor<'de> for AmountsOfMap {
    type Value = Amounts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
        let mut amounts = Amounts::ZERO;
        let mut beyond = false;
        while let Some((meter, amount)) = map.next_entry::<Meter, u64>()? {
            // A meter that is given twice has the value given last, which is then not printed as it was read.
            amounts.0[meter as usize] = amount;
            beyond |= amount > INTEGER_MAX;
        }
        if beyond {
            return Err(A::Error::custom(ValueError { what: "amount", why: "above 2^53 - 1" }));
        }
        Ok(amounts)
    }
}

/// Tokens of one model call by class. The classes do not overlap: their sum is all that was billed.
///
/// Providers report differently (OpenAI counts cached tokens inside the input and reasoning inside the
/// output); whoever fills this in subtracts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Input read from the provider's prompt cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    /// Input written to the provider's prompt cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write: u64,
    /// Input that is neither.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Output that is not reasoning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output: u64,
    /// Output spent on reasoning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Usage {
    /// The five classes with the meters they count on, in the order of the meters.
    #[must_use]
    pub const fn by_meter(&self) -> [(Meter, u64); 5] {
        [
            (Meter::CacheReadTokens, self.cache_read),
            (Meter::CacheWriteTokens, self.cache_write),
            (Meter::InputTokens, self.input),
            (Meter::OutputTokens, self.output),
            (Meter::ReasoningTokens, self.reasoning),
        ]
    }

    /// All input tokens: what price tiers are chosen by.
    #[must_use]
    pub const fn prompt(&self) -> u64 {
        self.cache_read.saturating_add(self.cache_write).saturating_add(self.input)
    }

    /// All tokens.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt().saturating_add(self.output).saturating_add(self.reasoning)
    }

    /// The usage as amounts of the token meters, with the total; money and calls are not included.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        self.by_meter()
            .into_iter()
            .fold(Amounts::ZERO.with(Meter::Tokens, self.total()), |sum, (meter, n)| sum.with(meter, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_declared() {
        assert!(Meter::ALL.windows(2).all(|pair| pair[0].name() < pair[1].name()));
        for (position, meter) in Meter::ALL.into_iter().enumerate() {
            assert_eq!(meter as usize, position);
            assert_eq!(serde_json::to_string(&meter).unwrap(), format!("\"{meter}\""));
        }
    }

    #[test]
    fn amounts_print_without_zeros() {
        let amounts = Amounts::ZERO.with(Meter::ToolCalls, 1).with(Meter::MicroUsd, 5);
        let json = serde_json::to_string(&amounts).unwrap();
        assert_eq!(json, r#"{"micro_usd":5,"tool_calls":1}"#);
        assert_eq!(serde_json::from_str::<Amounts>(&json).unwrap(), amounts);
        assert!(serde_json::from_str::<Amounts>(r#"{"cents":1}"#).is_err());
        assert_eq!(amounts.checked_sub(&Amounts::ZERO.with(Meter::Agents, 1)), None);
    }
}
