//! `sift-server serve`: runs a log until it is told to stop.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use sift_server::Log;
use sift_server::config::Config;

use crate::AnyError;

pub(crate) async fn serve(path: &Path, seen: Vec<PathBuf>) -> Result<(), AnyError> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SIFT_LOG").unwrap_or_else(|_| "info".into());
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
    let mut config = Config::read(path)?;
    config.seen.extend(seen);
    let log = Log::open(&config)?;
    let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|error| {
        format!("{}: {error}; another process listens there, or choose another \"listen\"", config.listen)
    })?;
    let head = log.head();
    tracing::info!(address = %listener.local_addr()?, size = %head.size, root = %head.root, "serving");
    log.serve(listener, stop_signal()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Ends at SIGINT or SIGTERM.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
