//! What the HTTP side counts: requests by route, method and class of status, and refusals by kind of problem.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use sift_spec::api::ProblemKind;

use super::NoLabels;
use super::histogram::Histogram;

/// Methods that are told apart; all others are one.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
/// Classes of status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Route of what matches none. Routes are templates, so there are as many as the program has.
const NO_ROUTE: &str = "none";
/// How long nothing more is said of a kind of problem after it was.
const SAID_SECONDS: u64 = 60;

/// Numbers of the HTTP side.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    started: Instant,
    routes: RwLock<HashMap<String, Arc<[MethodCounts; METHODS.len()]>>>,
    problems: Vec<KindCounts>,
}

#[derive(Debug)]
struct MethodCounts {
    seconds: Histogram,
    classes: [AtomicU64; CLASSES.len()],
}

#[derive(Debug, Default)]
struct KindCounts {
    /// Requests that were answered with a problem of this kind.
    requests: AtomicU64,
    /// Records that were refused with it, alone or in a bundle.
    records: AtomicU64,
    /// When it was last said in the server's log, in seconds since the start plus one; 0 for never.
    said: AtomicU64,
    /// How many were passed over since.
    unsaid: AtomicU64,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let problems = ProblemKind::ALL.iter().map(|_| KindCounts::default()).collect();
        Self { started: Instant::now(), routes: RwLock::default(), problems }
    }
}

impl RequestMetrics {
    /// A record was refused.
    pub(crate) fn refused(&self, kind: ProblemKind) {
        if let Some(counts) = self.problems.get(kind as usize) {
            counts.records.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answered(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        let known = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.get(route).map(Arc::clone)
        };
        let counts = known.unwrap_or_else(|| {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            let new = || {
                Arc::new(std::array::from_fn(|_| MethodCounts {
                    seconds: Histogram::of_latency(),
                    classes: std::array::from_fn(|_| AtomicU64::new(0)),
                }))
            };
            Arc::clone(routes.entry(route.to_owned()).or_insert_with(new))
        });
        if let Some(counts) = counts.get(method) {
            counts.seconds.observe_duration(took);
            if let Some(class) = counts.classes.get(class) {
                class.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts a problem, and says the first of its kind in a minute.
    fn problem(&self, kind: ProblemKind, route: &str) {
        let Some(counts) = self.problems.get(kind as usize) else { return };
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.started.elapsed().as_secs() + 1;
        let said = counts.said.load(Ordering::Relaxed);
        let due = said == 0 || now >= said + SAID_SECONDS;
        if due && counts.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let unsaid = counts.unsaid.swap(0, Ordering::Relaxed);
            tracing::info!(
                kind = kind_label(kind),
                route,
                before = unsaid,
                "refused; more of this kind are counted, and said once a minute"
            );
        } else {
            counts.unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One of a kind's counters.
type CountOf = fn(&KindCounts) -> &AtomicU64;

/// The last part of a kind's URN: `malformed-record`.
fn kind_label(kind: ProblemKind) -> &'static str {
    kind.urn().rsplit(':').next().unwrap_or_default()
}

/// Middleware that counts every request once it is answered. What went wrong is told by the [`ProblemKind`] among the
/// answer's extensions.
pub(crate) async fn count_requests(
    State(metrics): State<Arc<RequestMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    metrics.answered(route, &method, response.status(), begun.elapsed());
    if let Some(kind) = response.extensions().get::<ProblemKind>() {
        metrics.problem(*kind, route);
    }
    response
}

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let routes: Vec<_> = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            let mut routes: Vec<_> =
                routes.iter().map(|(route, counts)| (route.clone(), Arc::clone(counts))).collect();
            routes.sort_by(|one, other| one.0.cmp(&other.0));
            routes
        };
        let used: Vec<(&str, &str, &MethodCounts)> = routes
            .iter()
            .flat_map(|(route, counts)| {
                counts.iter().zip(METHODS).map(|(counts, method)| (route.as_str(), method, counts))
            })
            .filter(|(_, _, counts)| counts.classes.iter().any(|class| class.load(Ordering::Relaxed) > 0))
            .collect();
        let mut told = encoder.encode_descriptor(
            "requests",
            "Requests by route, method and class of status.",
            None,
            MetricType::Counter,
        )?;
        for (route, method, counts) in &used {
            for (class, count) in CLASSES.iter().zip(&counts.classes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("route", *route), ("method", *method), ("status", *class)];
                    told.encode_family(&labels)?.encode_counter::<NoLabels, _, f64>(&count, None)?;
                }
            }
        }
        let mut told = encoder.encode_descriptor(
            "request",
            "Time from a request's headers to its answer.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (route, method, counts) in &used {
            let labels = [("route", *route), ("method", *method)];
            counts.seconds.encode(&mut told.encode_family(&labels)?)?;
        }
        let by_kind: [(&str, &str, CountOf); 2] = [
            ("problems", "Requests that were answered with a problem, by its kind.", |kind| &kind.requests),
            ("records_refused", "Records that were refused, by kind of problem.", |kind| &kind.records),
        ];
        for (name, help, count) in by_kind {
            let mut told = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (kind, counts) in ProblemKind::ALL.iter().zip(&self.problems) {
                let labels = [("kind", kind_label(*kind))];
                let count = count(counts).load(Ordering::Relaxed);
                told.encode_family(&labels)?.encode_counter::<NoLabels, _, f64>(&count, None)?;
            }
        }
        Ok(())
    }
}
