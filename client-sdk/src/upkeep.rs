//! What has to be done now and then: a look at the clock, beats, and a look at the bundle's folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sift_spec::record::HaltCause;

use crate::bundle_dir;
use crate::shared::Shared;
use crate::writer::Op;

/// Every so many polls the bundle's folder is read again.
const POLLS_PER_LOOK: u32 = 5;

/// Runs until the kernel stops.
pub(crate) async fn run(shared: Arc<Shared>, bundle_dir: Option<PathBuf>, beat: Option<Duration>) {
    for round in 0_u32.. {
        tokio::time::sleep(shared.poll).await;
        if shared.stopped().is_some() {
            return;
        }
        let _ = shared.send(Op::Tick);
        if let Some(beat) = beat {
            let silent_ms = u64::try_from(beat.as_millis()).unwrap_or(u64::MAX);
            let _ = shared.send(Op::Beat { silent_ms });
        }
        let Some(dir) = bundle_dir.as_ref().filter(|_| round % POLLS_PER_LOOK == 0) else { continue };
        let changed = match bundle_dir::read(dir) {
            Ok(bundle) if bundle.digest() == shared.bundle.digest() => continue,
            Ok(bundle) => format!("{} is now the bundle {}", dir.display(), bundle.digest().hex()),
            Err(error) => format!("the bundle's folder: {error}"),
        };
        let detail = format!("the policy changed under the kernel; publish it and start again: {changed}");
        let _ = shared.send(Op::Halt { run: None, cause: HaltCause::Policy, detail, reply: None });
    }
}
