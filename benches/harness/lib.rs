//! What the benchmarks, the load generator and the table of figures share: a log of one's own, enrolled keys, runs of
//! records as kernels make them, a cheap HTTP client, policies and inputs to decide on.
//!
//! The main path of a measurement: [`log::ServedLog`] runs a new log in a process of its own, [`log::enrol`] grants
//! keys, [`records`] signs runs before the clock starts, [`load`] sends them and afterwards checks what came back.
//! [`reads`] does the same for whatever a log can be asked for.
//!
//! Everything timed is also asserted: receipts verify, sizes add up, verdicts are the expected ones.
//!
//! Out of scope: judging the figures. They are printed beside their targets, whatever they are.

pub mod audit;
pub mod decisions;
pub mod engines;
pub mod http;
pub mod kernel;
pub mod load;
pub mod log;
pub mod machine;
pub mod overshoot;
pub mod pace;
pub mod packs;
pub mod progress;
pub mod python;
pub mod reads;
pub mod records;
pub mod rules;
pub mod store;
pub mod uniform;

/// Whatever stops a measurement: nobody branches on it, so it is only printed.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The value below which `share` of the sorted values lie: nearest rank, 0 for none.
#[must_use]
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| percentile(&values, share)), [1, 50, 99, 100]);
        assert_eq!((percentile(&[], 0.5), percentile(&[7], 0.999)), (0, 7));
    }
}
