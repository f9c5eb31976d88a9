//! The words that tables and lists use for decisions.

use sift_spec::record::Refusal;

/// The limit behind a refusal, in the words that cases and tables use: `run tool_calls per run`, `identical_calls`,
/// `no price for gpt-4o`, `wall_clock`.
#[must_use]
pub fn refusal_name(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Depth(_) => "depth".to_owned(),
        Refusal::Identical(_) => "identical_calls".to_owned(),
        Refusal::Limit(limit) => {
            format!("{} {} per {}", word(&limit.scope), limit.meter, word(&limit.window))
        }
        Refusal::Unpriced(unpriced) => format!("no price for {}", unpriced.model),
        Refusal::WallClock(_) => "wall_clock".to_owned(),
    }
}

/// The word that records have for a value without members: `run`, `hour`, `allow`.
#[must_use]
pub fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
