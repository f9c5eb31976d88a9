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
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub(crate) use commits::CommitMetrics;
pub(crate) use gauges::LogGauges;
pub(crate) use process::ProcessMetrics;
pub(crate) use requests::{RequestMetrics, count_requests};

/// Media type of the answer: OpenMetrics 1.0.
pub(crate) const MEDIA_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name of the log's own starts with.
const PREFIX: &str = "sift_log";

/// No labels, where the encoder wants a type for those of exemplars.
type NoLabels = [(&'static str, &'static str); 0];

/// The registry of one log.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
}

impl Metrics {
    /// Lets a part of the log add its numbers, under the log's prefix.
    pub(crate) fn register(&self, register: impl FnOnce(&mut Registry)) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        register(registry.sub_registry_with_prefix(PREFIX));
    }

    /// Adds numbers that are read when somebody asks, under the log's prefix.
    pub(crate) fn collect(&self, collector: impl Collector) {
        self.register(|registry| registry.register_collector(Box::new(collector)));
    }

    /// Adds numbers whose names are not the log's own, such as those of the process.
    pub(crate) fn collect_as_named(&self, collector: impl Collector) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(collector));
    }

    /// Everything, as of now.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
