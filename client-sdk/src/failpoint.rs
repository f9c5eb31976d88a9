//! Failpoints: places where a test makes the process die.
//!
//! A test hook, always compiled in so that what is tested is what runs. `SIFT_FAILPOINT=after-commit-intent` aborts
//! the process the first time that point is reached, `SIFT_FAILPOINT=after-commit-intent:7` the seventh time. Without
//! the variable a point costs one atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The points that every call passes, in their order; the signature's are passed for every record.
pub const POINTS: [&str; 12] = [
    "before-decide",
    "after-decide",
    "after-reserve",
    "before-sign",
    "after-sign",
    "before-commit-intent",
    "after-commit-intent",
    "before-dispatch",
    "after-dispatch",
    "after-settle",
    "before-commit-outcome",
    "after-commit-outcome",
];

/// Points that a call or a run passes only when it comes to that.
pub const RARE_POINTS: [&str; 9] = [
    "before-commit-open",
    "after-commit-open",
    "before-commit-approval",
    "after-commit-approval",
    "after-switch",
    "before-commit-halt",
    "after-commit-halt",
    "before-commit-close",
    "after-commit-close",
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

/// Aborts the process if the environment names the commit of such a record.
pub(crate) fn pass_commit(when: &str, kind: &str) {
    if armed().is_some() {
        pass(&format!("{when}-commit-{kind}"));
    }
}

/// Whether the environment names this point, and it is its turn.
pub(crate) fn hit(point: &str) -> bool {
    let armed = armed().filter(|armed| armed.point == point);
    armed.is_some_and(|armed| armed.left.fetch_sub(1, Ordering::SeqCst) == 1)
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let setting = std::env::var("SIFT_FAILPOINT").ok()?;
        let (point, count) = setting.split_once(':').unwrap_or((&setting, "1"));
        Some(Armed { point: point.to_owned(), left: AtomicU64::new(count.parse().unwrap_or(1).max(1)) })
    });
    armed.as_ref()
}
