//! Metrics: what a log tells about itself, as OpenMetrics text.
//!
//! Each part of the log owns its numbers as plain atomics, made with it, and never looks anything up by name while it
//! works. [`Metrics`] is one registry for one log; parts are registered when the log starts, and read when somebody
//! asks. Names follow Prometheus' conventions: prefix `sift_log_`, base units (seconds, bytes), `_total` for what only
//! grows.
//!
//! In scope: counting and telling. Out of scope: keeping history, and alarms; OPERATING.md says which numbers deserve
//! one.

mod commits;
mod gauges;
mod histogram;
mod process;
mod requests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::WeakSender;

use crate::routes::App;
use crate::sequencer::Message;

pub(crate) use commits::CommitMetrics;
use gauges::LogGauges;
use process::ProcessMetrics;
use requests::RequestMetrics;
pub(crate) use requests::count_requests;

/// Media type of the answer: OpenMetrics 1.0.
pub(crate) const MEDIA_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name of the log's own starts with.
const PREFIX: &str = "sift_log";

/// No labels, where the encoder wants a type for those of exemplars.
type NoLabels = [(&'static str, &'static str); 0];

/// The registry of one log, and what counts while it is served: also when its store is opened again meanwhile.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    pub(crate) commits: Arc<CommitMetrics>,
    pub(crate) requests: Arc<RequestMetrics>,
    gauges: Arc<LogGauges>,
}

impl Metrics {
    /// A registry with everything that the log itself counts.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            commits: Arc::default(),
            requests: Arc::default(),
            gauges: Arc::default(),
        };
        metrics.collect(Arc::clone(&metrics.commits));
        metrics.collect(Arc::clone(&metrics.requests));
        metrics.collect(Arc::clone(&metrics.gauges));
        metrics.locked().register_collector(Box::new(ProcessMetrics::default()));
        metrics
    }

    /// From now on the gauges tell about this.
    pub(crate) fn look_at(&self, app: &Arc<App>, sequencer: WeakSender<Message>) {
        self.gauges.look_at(app, sequencer);
    }

    fn locked(&self) -> MutexGuard<'_, Registry> {
        // A thread that panicked here left nothing half done.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the numbers of a part of the log, under the log's prefix. They are read when somebody asks.
    pub(crate) fn collect(&self, collector: impl Collector) {
        self.locked().sub_registry_with_prefix(PREFIX).register_collector(Box::new(collector));
    }

    /// Everything, as of now.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.locked())?;
        Ok(text)
    }
}
