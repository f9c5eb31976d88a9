//! Where the program says what happens inside: standard error, and a collector of spans where one is named.

use std::io::IsTerminal as _;
use std::path::Path;

use sift_client::config::{KernelFile, OtlpFile};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::args::Command;
use crate::exit::{Failure, environment};

#[cfg(feature = "otlp")]
type Exporter = sift_client::otlp::Exporter;
/// A build without the feature sends nothing.
#[cfg(not(feature = "otlp"))]
type Exporter = std::convert::Infallible;

/// Starts both. What is returned sends what is left when it is dropped.
pub(crate) fn start(command: &Command) -> Result<Option<Exporter>, Failure> {
    let exporter = exporter(command)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(EnvFilter::try_from_env("SIFT_LOG").unwrap_or_else(|_| "error".into()));
    let registry = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otlp")]
    registry.with(exporter.as_ref().map(Exporter::layer)).init();
    #[cfg(not(feature = "otlp"))]
    registry.init();
    Ok(exporter)
}

/// The exporter of a command that runs a kernel.
fn exporter(command: &Command) -> Result<Option<Exporter>, Failure> {
    let dir: &Path = match command {
        Command::Replay(replay) => &replay.dir,
        Command::Serve(serve) => &serve.dir,
        _ => return Ok(None),
    };
    // A file that cannot be read is reported by the command itself.
    let file = KernelFile::read(dir).ok().and_then(|file| file.otlp);
    begin(file.as_ref())
}

#[cfg(feature = "otlp")]
fn begin(file: Option<&OtlpFile>) -> Result<Option<Exporter>, Failure> {
    Exporter::start(file).map_err(environment)
}

#[cfg(not(feature = "otlp"))]
fn begin(file: Option<&OtlpFile>) -> Result<Option<Exporter>, Failure> {
    match file {
        None => Ok(None),
        Some(_) => Err(environment(
            "kernel.toml has [otlp], and this build cannot send spans: build it with --features otlp",
        )),
    }
}
