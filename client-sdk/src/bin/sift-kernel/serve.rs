//! `serve`: the kernel as a process of its own.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use sift_client::config::KernelFile;
use sift_client::serve::{Door, Group, LINE_BYTES_MAX, Limits, PROTOCOL, Server, listen};
use sift_client::{Kernel, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::Serve;
use crate::exit::{Failure, environment};

/// How long the end waits for the log. What is not in it by then is uploaded by the next start.
const DRAIN_SECONDS_MAX: u64 = 10;

/// Opens the kernel and serves clients until it is told to stop, or the one on standard input is gone.
pub(crate) async fn serve(args: &Serve, json: bool) -> Result<(), Failure> {
    let limits = Limits {
        connections_max: args.connections,
        line_bytes_max: args.line_bytes.min(LINE_BYTES_MAX),
        calls_max: args.calls,
        runs_max: args.runs,
    };
    let group = args.group.as_deref().map(Group::find).transpose().map_err(environment)?;
    let file = KernelFile::read(&args.dir).map_err(environment)?;
    let key = file.signer(&args.dir).map_err(environment)?;
    let mut config = file.config(&args.dir, &args.bundle).map_err(environment)?;
    config.build = concat!("sift-kernel/", env!("CARGO_PKG_VERSION"), " serve").to_owned();
    if let Some(mode) = args.mode {
        config.mode = mode.into();
    }
    // Both are there before anybody is told that the kernel serves.
    let mut term = signal(SignalKind::terminate()).map_err(environment)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(environment)?;
    let door = match &args.socket {
        Some(path) => {
            let door = Door::open(path, group).await;
            Some(door.map_err(|error| environment(format!("{}: {error}", path.display())))?)
        }
        None => None,
    };
    let kernel = Kernel::open(config, key, SystemClock).await.map_err(environment)?;
    let server = Server::new(kernel.clone(), limits, args.agents.clone());

    let (stop, stopped) = watch::channel(false);
    let (input, output) = (standard(std::io::stdin())?, standard(std::io::stdout())?);
    {
        let serving = async {
            match door {
                Some(door) => {
                    ready(&kernel, args, json);
                    listen(server, door, stopped).await;
                }
                None => server.client(input, output, stopped).await,
            }
        };
        tokio::pin!(serving);
        let told = async {
            tokio::select! { _ = term.recv() => {} _ = interrupt.recv() => {} }
        };
        tokio::select! {
            () = &mut serving => {}
            () = told => {
                stop.send_replace(true);
                serving.await;
            }
        }
    }
    kernel.drain(Duration::from_secs(DRAIN_SECONDS_MAX)).await;
    let (unlogged, why) = (kernel.unlogged(), kernel.stopped());
    kernel.close().await;
    if unlogged > 0 {
        anstream::eprintln!("{unlogged} records are not in the log yet; the next start uploads them");
    }
    match why {
        Some(stop) => Err(Failure::Refused(format!("the kernel stopped: {stop}"))),
        None => Ok(()),
    }
}

/// Standard input or output, for asynchronous use.
fn standard(stream: impl AsFd) -> Result<tokio::fs::File, Failure> {
    let owned = stream.as_fd().try_clone_to_owned().map_err(environment)?;
    Ok(tokio::fs::File::from_std(owned.into()))
}

/// Says on standard output that clients may connect, in one line.
fn ready(kernel: &Kernel, args: &Serve, json: bool) {
    let policy = kernel.bundle_status();
    let (bundle, engine) = (policy.in_force.hex(), policy.engine);
    let path = args.socket.as_deref().unwrap_or_else(|| std::path::Path::new("-"));
    if json {
        let ready = json!({ "serving": path, "protocol": PROTOCOL, "bundle": bundle, "engine": engine });
        anstream::println!("{ready}");
    } else {
        anstream::println!("Serving {PROTOCOL} at {} by the policy {bundle} ({engine}).", path.display());
    }
}
