//! `sift-server serve`: runs a log until it is told to stop.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use sift_server::Log;
use sift_server::config::{Config, LogFormat};
use sift_server::settings::{Override, resolve};

use crate::AnyError;

pub(crate) async fn serve(
    path: &Path,
    settings: &[Override],
    seen: Vec<PathBuf>,
    seen_none_newer: bool,
) -> Result<(), AnyError> {
    let resolution = resolve(path, settings);
    let Some(mut config) = resolution.config.filter(|_| resolution.problems.is_empty()) else {
        let problems: Vec<String> =
            resolution.problems.iter().map(|problem| format!("\n  {problem}")).collect();
        return Err(format!("{} cannot be served:{}", path.display(), problems.concat()).into());
    };
    config.seen.extend(seen);
    config.seen_none_newer = seen_none_newer;
    start_logging(config.log_format);
    // Whoever collects what is said on stderr must find a refused start there, in the form that was asked for.
    let result = run(&config).await;
    if let Err(error) = &result {
        tracing::error!(%error, "not serving");
    }
    result
}

async fn run(config: &Config) -> Result<(), AnyError> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data = %config.data.display(), "starting");
    let mut log = Log::open(config)?;
    let head = log.head();
    tracing::info!(size = %head.size, root = %head.root, "recovered: the store is what was signed");
    log.ask_witnesses().await?;
    let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|error| {
        format!("{}: {error}; another process listens there, or choose another \"listen\"", config.listen)
    })?;
    tracing::info!(address = %listener.local_addr()?, size = %head.size, root = %head.root, "serving");
    log.serve(listener, stop_signal()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// What the server says goes to stderr, as SIFT_LOG filters it: in colour where it is a terminal, as text or as JSON.
fn start_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SIFT_LOG").unwrap_or_else(|_| "info".into());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(colour).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
}

/// Ends at SIGINT or SIGTERM.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            let signal = tokio::select! {
                _ = interrupt => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            tracing::info!(signal, "stopping: what was begun is finished");
            return;
        }
    }
    let _ = interrupt.await;
}
