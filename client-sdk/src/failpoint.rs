//! Failpoints: places where a test makes the process die.
//!
//! A test hook, always compiled in so that what is tested is what runs. `SIFT_FAILPOINT=after-commit-intent` aborts
//! the process the first time that point is reached, `SIFT_FAILPOINT=after-commit-intent:7` the seventh time. Without
//! the variable a point costs one atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The points, in the order in which a call passes them.
pub const POINTS: [&str; 8] = [
    "before-decide",
    "after-decide",
    "before-commit-intent",
    "after-commit-intent",
    "before-dispatch",
    "after-dispatch",
    "before-commit-outcome",
    "after-commit-outcome",
];

struct Armed {
    point: String,
    left: AtomicU64,
}

/// The point at which the store's commit fails, as a full disk would make it, instead of the process dying.
pub const COMMIT_FAILS: &str = "commit-fails";

/// Aborts the process if the environment names this point.
pub(crate) fn pass(point: &str) {
    if hit(point) {
        std::process::abort();
    }
}

/// Whether the environment names this point, and it is its turn.
pub(crate) fn hit(point: &str) -> bool {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let setting = std::env::var("SIFT_FAILPOINT").ok()?;
        let (point, count) = setting.split_once(':').unwrap_or((&setting, "1"));
        Some(Armed { point: point.to_owned(), left: AtomicU64::new(count.parse().unwrap_or(1).max(1)) })
    });
    let armed = armed.as_ref().filter(|armed| armed.point == point);
    armed.is_some_and(|armed| armed.left.fetch_sub(1, Ordering::SeqCst) == 1)
}
