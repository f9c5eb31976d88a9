//! `sift-server`: makes, runs and administers a log.

mod args;
mod operate;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;
use sift_server::config::CONFIG_FILE;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sift-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), AnyError> {
    match args.command {
        Command::Init { dir, origin, listen } => init(&dir, &origin, listen),
        Command::Serve { dir, config, seen } => {
            let path = config.unwrap_or_else(|| dir.join(CONFIG_FILE));
            runtime()?.block_on(serve::serve(&path, seen))
        }
        Command::Operator(command) => runtime()?.block_on(operate::operate(command)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn init(dir: &Path, origin: &str, listen: std::net::SocketAddr) -> Result<(), AnyError> {
    let new = sift_server::init::init(dir, &origin.parse()?, listen)?;
    println!("A new log in {}.", dir.display());
    println!("  log       {}", new.log);
    println!("  operator  {}", new.operator);
    println!();
    println!("  {}  whom to believe: for kernels and verifiers", new.trust.display());
    println!(
        "  {}  the root of all authority: move it to where the log's host cannot read it",
        new.operator_key.display()
    );
    println!();
    println!("Start it:  sift-server serve --dir {}", dir.display());
    Ok(())
}
