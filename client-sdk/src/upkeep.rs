//! What has to be done now and then: a look at the clock, beats, a look at the bundle's folder, and retention.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use sift_spec::bundle::Bundle;
use sift_spec::types::Hash;

use crate::bundle_dir;
use crate::bundles::Registry;
use crate::config::ConfigError;
use crate::error::BundleError;
use crate::shared::Shared;
use crate::store::{Retention, Store};
use crate::writer::Op;

/// Every so many polls the bundle's folder is read again, and the log asked about a bundle that waits.
const POLLS_PER_LOOK: u32 = 5;

/// Every so many polls retention has a pass: once a minute, as kernels poll by default.
const POLLS_PER_PASS: u32 = 300;

/// Looks for runs that have lasted too long, and records that silent ones are alive, until the kernel stops.
pub(crate) async fn beat(shared: Arc<Shared>, beat: Option<Duration>) {
    loop {
        tokio::time::sleep(shared.poll).await;
        if shared.stopped().is_some() || shared.send(Op::Tick).is_err() {
            return;
        }
        if let Some(beat) = beat {
            let silent_ms = u64::try_from(beat.as_millis()).unwrap_or(u64::MAX);
            let _ = shared.send(Op::Beat { silent_ms });
        }
    }
}

/// Loads what the bundle's folder is changed to, and what waits to be published, until the kernel stops.
pub(crate) async fn load(shared: Arc<Shared>, registry: Registry, mut folder: Option<Folder>) {
    loop {
        tokio::time::sleep(shared.poll * POLLS_PER_LOOK).await;
        if shared.stopped().is_some() {
            return;
        }
        let (bundles, now) = (&shared.bundles, shared.clock.now());
        match folder.as_mut().and_then(Folder::look) {
            None => bundles.ask_again(&registry, now).await,
            Some(Err(error)) => bundles.refuse(&BundleError::Folder(error)),
            // What fails is said in the status and in the trace.
            Some(Ok(bundle)) => drop(bundles.load(&registry, bundle, now).await),
        }
    }
}

/// Erases what `retention` does not keep, until the other end of `kernel` is dropped. On a thread of its own, because the
/// disk is slow and a pass may be long; calls wait for one of its transactions at most.
pub(crate) fn retain(shared: &Shared, store: &Store, retention: Retention, kernel: &Receiver<()>) {
    while kernel.recv_timeout(shared.poll * POLLS_PER_PASS) == Err(RecvTimeoutError::Timeout) {
        // What a kernel has that was halted is evidence.
        let go_on = || shared.stopped().is_none() && kernel.try_recv() == Err(TryRecvError::Empty);
        if !go_on() {
            continue;
        }
        match store.prune_while(retention, shared.clock.now(), true, go_on) {
            Ok(pruned) if pruned.objects > 0 => {
                let (runs, objects, bytes) = (pruned.runs.len(), pruned.objects, pruned.bytes);
                tracing::info!(runs, objects, bytes, "retention erased payload objects");
            }
            Ok(_) => {}
            // A disk that fails stops the writer, and that the kernel.
            Err(error) => tracing::error!(%error, "retention could not erase"),
        }
    }
}

/// A folder that holds the bundle.
pub(crate) struct Folder {
    dir: PathBuf,
    /// What was last given to be loaded.
    given: Option<Hash>,
    /// What the last look found.
    seen: Option<Hash>,
}

impl Folder {
    /// A folder from which this bundle was read.
    pub(crate) const fn new(dir: PathBuf, bundle: Hash) -> Self {
        Self { dir, given: Some(bundle), seen: Some(bundle) }
    }

    /// What is to be loaded: a bundle that was not given before, found twice. Somebody may be writing to the folder.
    fn look(&mut self) -> Option<Result<Bundle, ConfigError>> {
        let bundle = match bundle_dir::read(&self.dir) {
            Ok(bundle) => bundle,
            Err(error) => {
                (self.given, self.seen) = (None, None);
                return Some(Err(error));
            }
        };
        let digest = Some(bundle.digest());
        let before = std::mem::replace(&mut self.seen, digest);
        if self.seen != before || self.given == digest {
            return None;
        }
        self.given = digest;
        Some(Ok(bundle))
    }
}
