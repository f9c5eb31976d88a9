//! The disk below the store: how much of it stays free.
//!
//! A log that writes until nothing is left stops in the middle of something. So it stops before: while less than the
//! reserve is free, writes are refused and reads are served, and when there is space again writes go on. What is left
//! is for the store's own work, which goes on after the last write: memtables become files, files are merged.
//!
//! Whether the disk is full in spite of that (a quota that is not seen here, another program that was faster) is told
//! by a failed write, and what becomes of it is in [`crate::running`].

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How old a look at the disk may be. At a gigabyte in a second, a fifth of the usual reserve is written meanwhile.
const SAMPLE_AGE_MAX: Duration = Duration::from_millis(50);

/// Free bytes with which a store that ran out of space is opened again, whatever the reserve: recovery writes too.
const REOPEN_BYTES_MIN: u64 = 16 << 20;

/// Section `[disk]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Space that writes leave free on the disk of the store, in MiB. With less, writes are refused (503,
    /// `disk-full`) and reads are served.
    pub reserve_mib: u32,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self { reserve_mib: 256 }
    }
}

/// The disk that a store is on.
pub(crate) struct Disk {
    path: PathBuf,
    reserve: u64,
    /// Set once a write failed for want of space, for good: the store that failed is not written again.
    failed: AtomicBool,
    /// When the disk was looked at last, and what it had free then, in bytes.
    sample: Mutex<Option<(Instant, u64)>>,
}

impl Disk {
    /// The disk that holds the folder `data`.
    pub(crate) fn new(data: &Path, config: &DiskConfig) -> Self {
        let reserve = u64::from(config.reserve_mib) << 20;
        Self { path: data.to_owned(), reserve, failed: AtomicBool::new(false), sample: Mutex::new(None) }
    }

    /// Whether nothing is to be written: less than the reserve is free, as of some milliseconds ago, or a write failed.
    pub(crate) fn is_full(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.free() < self.reserve
    }

    /// Says that a write failed for want of space.
    pub(crate) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether a store that ran out of space can be opened again.
    pub(crate) fn has_room_again(&self) -> bool {
        self.free() >= self.reserve.max(REOPEN_BYTES_MIN)
    }

    /// Bytes that this process may write, as of some milliseconds ago. A disk that cannot be asked is not full: the
    /// next write says more about it than a guess.
    pub(crate) fn free(&self) -> u64 {
        // A thread that panicked here left nothing half done.
        let mut sample = self.sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match *sample {
            Some((at, free)) if at.elapsed() < SAMPLE_AGE_MAX => return free,
            _ => {}
        }
        let free = match rustix::fs::statvfs(&self.path) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "how much space is free is not known");
                u64::MAX
            }
        };
        if let Some((_, before)) = *sample {
            match (before < self.reserve, free < self.reserve) {
                (false, true) => {
                    tracing::error!(free, reserve = self.reserve, "the disk is full: writes are refused")
                }
                (true, false) => tracing::info!(free, "there is space on the disk again: writes go on"),
                _ => {}
            }
        }
        *sample = Some((Instant::now(), free));
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_larger_than_the_disk_is_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |reserve_mib| Disk::new(dir.path(), &DiskConfig { reserve_mib });
        let free = disk(0).free();
        println!("{free} bytes are free");
        assert!(free > 0 && free < u64::MAX);
        assert!(!disk(0).is_full());
        assert!(disk(u32::MAX).is_full() && !disk(u32::MAX).has_room_again());
        // A disk that is not there is asked by the next write, not refused by a guess.
        let gone = Disk::new(&dir.path().join("gone"), &DiskConfig { reserve_mib: u32::MAX });
        assert!(!gone.is_full());
    }
}
