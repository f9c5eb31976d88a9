//! Spans, sent to an OpenTelemetry collector over HTTP (OTLP, protobuf).
//!
//! Where to is `[otlp]` of `kernel.toml`, or the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the others): what
//! `kernel.toml` says wins. `OTEL_SDK_DISABLED=true` turns it off. Without an endpoint nothing is sent.
//!
//! A call never waits for a collector: spans go into a queue of [`QUEUE_SPANS_MAX`], a thread of its own sends it in
//! batches, and what does not fit is dropped. TLS is that of the rest of the kernel.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use sift_connect::Connect;
use tokio::runtime::{Handle, Runtime};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::config::OtlpFile;

/// Most spans that wait to be sent; more are dropped.
pub const QUEUE_SPANS_MAX: usize = 8192;

/// Longest time that one batch may take.
const EXPORT_SECONDS_MAX: u64 = 5;

/// Longest time that the end of the process waits for what is still to be sent.
const END_SECONDS_MAX: u64 = 2;

/// The variables that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Why spans cannot be sent. Whoever configured the exporter is at fault; the kernel works without it.
#[derive(Debug, thiserror::Error)]
#[error("OTLP: {0}; correct [otlp] of kernel.toml or the OTEL_EXPORTER_OTLP_* variables, or remove them")]
pub struct OtlpError(String);

/// An exporter at work. Dropping it sends what is left, for two seconds at most.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
    runtime: Option<Runtime>,
}

impl Exporter {
    /// An exporter as the file and the environment say; `None` where neither names a collector.
    ///
    /// # Errors
    /// When an endpoint or header is none, or a thread cannot be started.
    pub fn start(file: Option<&OtlpFile>) -> Result<Option<Self>, OtlpError> {
        let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let endpoint = file.and_then(|file| file.endpoint.clone());
        let disabled =
            std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || (endpoint.is_none() && !ENDPOINTS.into_iter().any(set)) {
            return Ok(None);
        }
        let wrong = |error: &dyn std::fmt::Display| OtlpError(error.to_string());
        let connect = file.map(|file| file.connect.clone()).unwrap_or_default();
        let client = client(&connect)?;
        // Its own, so that a busy or blocked program still sends, and a sender in trouble holds up nothing.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sift-otlp")
            .enable_all()
            .build()
            .map_err(|error| wrong(&error))?;
        let client = Client { client, handle: runtime.handle().clone() };
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_timeout(Duration::from_secs(EXPORT_SECONDS_MAX));
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().map_err(|error| wrong(&error))?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE_SPANS_MAX).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let name = file.and_then(|file| file.service_name.clone());
        let resource = Resource::builder();
        let resource = match name {
            Some(name) => resource.with_service_name(name),
            None if set("OTEL_SERVICE_NAME") => resource,
            None => resource.with_service_name("sift-kernel"),
        };
        let provider =
            SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource.build());
        Ok(Some(Self { provider: provider.build(), runtime: Some(runtime) }))
    }

    /// What a subscriber needs to send the kernel's spans. Events are left out, and spans of others.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.provider.tracer("sift-client");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target().starts_with("sift_client")
            }))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(Duration::from_secs(END_SECONDS_MAX)) {
            tracing::warn!(%error, "some spans were not sent");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn client(connect: &Connect) -> Result<reqwest::Client, OtlpError> {
    let client = connect.client().map_err(|error| OtlpError(error.to_string()))?;
    let client =
        client.timeout(Duration::from_secs(EXPORT_SECONDS_MAX)).redirect(reqwest::redirect::Policy::none());
    client.build().map_err(|error| OtlpError(error.to_string()))
}

/// The kernel's HTTP client, for a thread that has no runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    handle: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.handle.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            // What a collector says is looked at by its status alone, so a long answer is cut short by the timeout.
            Ok(response.body(answer.bytes().await?)?)
        });
        sent.await?
    }
}
