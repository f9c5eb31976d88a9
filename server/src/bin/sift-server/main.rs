//! `sift-server`: makes, runs and administers a log.

mod args;
mod backup;
mod check_config;
mod fsck;
mod operate;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;
use sift_server::config::{CONFIG_FILE, Config};
use sift_server::fsck::Depth;

/// Requests allocate on many threads and free on others, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sift-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode, AnyError> {
    match args.command {
        Command::Init { dir, origin, listen } => init(&dir, &origin, listen)?,
        Command::Serve { place, settings, seen, seen_none_newer } => {
            runtime()?.block_on(serve::serve(&place.config(), &settings.0, seen, seen_none_newer))?;
        }
        Command::CheckConfig { place, json, settings } => {
            return Ok(check_config::check_config(&place.config(), &settings.0, json));
        }
        Command::Fsck { place, seen, no_signatures, json } => {
            let depth = if no_signatures { Depth::Hashes } else { Depth::Signatures };
            return Ok(fsck::fsck(&place.config(), &seen, depth, json));
        }
        Command::Backup { place, to, with_keys, check } => {
            backup::backup(&place.config(), &to, with_keys, check.0)?
        }
        Command::Restore { from, dir } => backup::restore(&from, &dir)?,
        Command::NewKey { place, out } => new_key(&place.config(), &out)?,
        Command::Operator(command) => runtime()?.block_on(operate::operate(command))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn new_key(config: &Path, out: &Path) -> Result<(), AnyError> {
    let config = Config::read(config)?;
    let key = sift_server::rotation::next_key(&config, out)?;
    println!("The next key of the log, in {}; it counts for nothing yet.", out.display());
    println!();
    println!("Put this line into every trust file, below the log line that is there:");
    println!("log {key}");
    println!();
    println!("Then let both keys sign, in {CONFIG_FILE}, and start the log again:");
    println!("log_key = \"{}\"", out.display());
    println!("log_keys_also = [\"{}\"]", config.log_key.display());
    Ok(())
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
