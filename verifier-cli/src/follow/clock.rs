//! The operating system's clock: the one place of the verifier that asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use sift_spec::types::UnixMillis;

/// Now; the beginning of 1970 where the clock says less.
pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).ok().and_then(|ms| UnixMillis::new(ms).ok()).unwrap_or_default()
}
