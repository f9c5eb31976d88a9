//! The feed: what is published, for whoever follows the log.
//!
//! History is every checkpoint that the store keeps (one for each 256 entries or so), and the newest. A stream gives
//! history after the size that its reader has, then each newest checkpoint as it is published: sizes only ever grow, no
//! kept checkpoint is left out, and of the others a reader who is slow, or a log that is fast, skips some. What is
//! skipped is never waiting anywhere: a stream holds one page of history, and reads the next when that has been sent.
//!
//! Not here: who cosigned what is published ([`Publish`] says which kind it is), and paths.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_spec::api::{CheckpointItem, Publish};
use sift_spec::types::TreeSize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::error::RequestError;
use crate::store::{Store, StoreError};
use crate::view::View;

/// Checkpoints of history that a stream holds at a time.
const STREAM_PAGE: usize = 64;

/// Pause between two checkpoints of a stream that are sent as they are published.
const STREAM_PAUSE: Duration = Duration::from_millis(100);

/// How long a stream lasts; then its reader resumes it. So whoever forgot one does not hold a place for ever.
const STREAM_AGE_MAX: Duration = Duration::from_secs(3600);

/// The feed's section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Streams of checkpoints at a time; more are answered with 429.
    pub streams_max: usize,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self { streams_max: 1024 }
    }
}

/// What every stream needs.
pub(crate) struct Feed {
    pub(crate) publish: Publish,
    streams_max: usize,
    slots: Arc<Semaphore>,
    /// Becomes true when the log stops.
    stop: watch::Receiver<bool>,
}

impl Feed {
    pub(crate) fn new(config: &FeedConfig, publish: Publish, stop: watch::Receiver<bool>) -> Self {
        let slots = Arc::new(Semaphore::new(config.streams_max));
        Self { publish, streams_max: config.streams_max, slots, stop }
    }

    /// Opens a stream of what comes after a tree of size `after`; without it, from the newest checkpoint on.
    pub(crate) fn follow(
        &self,
        store: &Arc<Store>,
        mut published: watch::Receiver<Arc<View>>,
        after: Option<TreeSize>,
    ) -> Result<Follow, RequestError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| RequestError::Streams(self.streams_max))?;
        let newest = newest(&published.borrow_and_update());
        let size = newest.size;
        let (last, waiting) = match after {
            None => (size, VecDeque::from([newest])),
            // A reader who knows more than the log has published holds evidence, and must not wait as if all were well.
            Some(after) if after > size => {
                let missing = format!("checkpoint of size {after} yet; the newest has {size}");
                return Err(RequestError::NotFound(missing));
            }
            Some(after) => (after, VecDeque::new()),
        };
        Ok(Follow {
            store: Arc::downgrade(store),
            published,
            stop: self.stop.clone(),
            last,
            waiting,
            live_at: Instant::now(),
            ends_at: Instant::now() + STREAM_AGE_MAX,
            _slot: slot,
        })
    }
}

/// A stream of checkpoints.
pub(crate) struct Follow {
    /// Held only while it is read: a store is closed without waiting for readers.
    store: Weak<Store>,
    published: watch::Receiver<Arc<View>>,
    stop: watch::Receiver<bool>,
    /// Size of the last checkpoint that was sent or is waiting.
    last: TreeSize,
    waiting: VecDeque<CheckpointItem>,
    /// A stream that has caught up reads again no earlier.
    live_at: Instant,
    ends_at: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Follow {
    /// The next checkpoint; none when the log stops, the stream is old, or the store failed.
    pub(crate) async fn next(&mut self) -> Option<CheckpointItem> {
        loop {
            if self.is_stopped() || Instant::now() >= self.ends_at {
                return None;
            }
            if let Some(checkpoint) = self.waiting.pop_front() {
                return Some(checkpoint);
            }
            let view = Arc::clone(&self.published.borrow_and_update());
            if view.head.size > self.last {
                if Instant::now() < self.live_at {
                    // By then something newer may be published, and this is skipped.
                    tokio::select! {
                        () = tokio::time::sleep_until(self.live_at) => {}
                        _ = self.stop.wait_for(|stop| *stop) => {}
                    }
                    continue;
                }
                self.read(view).await?;
                continue;
            }
            // All that was published is sent.
            tokio::select! {
                changed = self.published.changed() => changed.ok()?,
                _ = self.stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep_until(self.ends_at) => {}
            }
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Reads the next page of what a view knows; none when the store failed.
    async fn read(&mut self, view: Arc<View>) -> Option<()> {
        let (store, after) = (self.store.upgrade()?, self.last);
        let read = move || history(&store, &view, Some(after), STREAM_PAGE);
        let page = match tokio::task::spawn_blocking(read).await.ok()? {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "a stream of checkpoints ended");
                return None;
            }
        };
        if !page.more {
            self.live_at = Instant::now() + STREAM_PAUSE;
        }
        self.last = page.checkpoints.last()?.size;
        self.waiting = page.checkpoints.into();
        Some(())
    }
}

/// Some of history.
pub(crate) struct Page {
    pub(crate) checkpoints: Vec<CheckpointItem>,
    /// Whether the newest checkpoint is not reached yet.
    pub(crate) more: bool,
}

/// What history holds after a size, as a view knows it: at most `limit`, the oldest first.
pub(crate) fn history(
    store: &Store,
    view: &View,
    after: Option<TreeSize>,
    limit: usize,
) -> Result<Page, StoreError> {
    // The store may keep one of the newest size without the cosignatures that the published one has.
    let older = |(size, _): &(TreeSize, String)| *size < view.head.size;
    let kept = store.checkpoints(after, limit)?.into_iter().take_while(older);
    let mut checkpoints: Vec<_> = kept.map(|(size, note)| CheckpointItem { size, note }).collect();
    let more = checkpoints.len() == limit;
    if !more && after.is_none_or(|after| after < view.head.size) {
        checkpoints.push(newest(view));
    }
    Ok(Page { checkpoints, more })
}

fn newest(view: &View) -> CheckpointItem {
    CheckpointItem { size: view.head.size, note: view.checkpoint.clone() }
}
