//! `sift-server`: makes, runs and administers a log.

mod args;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use args::{Args, Command, KeyRoleArg, OperatorCommand};
use clap::Parser as _;
use sift_server::Log;
use sift_server::config::{self, CONFIG_FILE, Config};
use sift_server::operator::Operator;
use sift_spec::bundle::Bundle;
use sift_spec::note::VerifierKey;
use sift_spec::record::{Erase, Grant, KeyChange, KeyRole, OperatorBody, Policy, Revoke};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::UnixMillis;

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
            runtime()?.block_on(serve(&path, seen))
        }
        Command::Operator(command) => runtime()?.block_on(operate(command)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn init(dir: &Path, origin: &str, listen: std::net::SocketAddr) -> Result<(), AnyError> {
    let new = config::init(dir, &origin.parse()?, listen)?;
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

async fn serve(path: &Path, seen: Vec<PathBuf>) -> Result<(), AnyError> {
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

async fn operate(command: OperatorCommand) -> Result<(), AnyError> {
    let (target, body, what) = match command {
        OperatorCommand::Grant { target, vkey, role, agents } => {
            check_vkey(&vkey)?;
            let role = match role {
                KeyRoleArg::Kernel => KeyRole::Kernel,
                KeyRoleArg::Approver(role) => KeyRole::Approver(role),
            };
            let mut agents = agents.iter().map(|scope| scope.parse()).collect::<Result<Vec<_>, _>>()?;
            agents.sort();
            agents.dedup();
            let grant = Grant { agents, role, vkey: vkey.parse()? };
            (target, OperatorBody::Key(KeyChange::Grant(grant)), "granted")
        }
        OperatorCommand::Revoke { target, vkey, reason } => {
            check_vkey(&vkey)?;
            let revoke = Revoke { reason: reason.parse()?, vkey: vkey.parse()? };
            (target, OperatorBody::Key(KeyChange::Revoke(revoke)), "revoked")
        }
        OperatorCommand::Publish { target, bundle, name } => {
            let encoding = read_bundle(&bundle)?;
            let folder = bundle.file_name().and_then(|name| name.to_str()).unwrap_or("policy").to_owned();
            let name = name.unwrap_or(folder).parse()?;
            println!("bundle {}", encoding.digest().hex());
            let policy = Policy { bundle: encoding.digest(), name, size: encoding.encode().len() as u64 };
            (target, OperatorBody::Policy(policy), "published")
        }
        OperatorCommand::Erase { target, digest, reason } => {
            let digest = sift_spec::types::Hash::from_hex(&digest)?;
            (target, OperatorBody::Erase(Erase { digest, reason: reason.parse()? }), "erasure recorded")
        }
    };
    let key = config::read_key(&target.key)?;
    // `init` puts both into one folder.
    let trust = target.trust.clone().unwrap_or_else(|| target.key.with_file_name(config::TRUST_FILE));
    let text = std::fs::read_to_string(&trust)
        .map_err(|error| format!("{}: {error}; name the log's trust file with --trust", trust.display()))?;
    let trust = TrustPolicy::parse(&text).map_err(|error| format!("{}: {error}", trust.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = UnixMillis::new(u64::try_from(now)?)?;
    let index = Operator::beside(&target.key, &key, &trust).submit(&target.url, body, now).await?;
    println!("{what}: entry {index}, receipt verified");
    Ok(())
}

/// Says what is wrong with a key before the operator signs anything about it.
fn check_vkey(vkey: &str) -> Result<(), AnyError> {
    match vkey.parse::<VerifierKey>() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("--vkey: {error}; pass it whole, in quotes, as its owner's program printed it")
                .into())
        }
    }
}

/// Reads the files of a bundle's folder, hidden ones left out.
fn read_bundle(dir: &Path) -> Result<Bundle, AnyError> {
    let mut files = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let listing = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for item in listing {
            let item = item?;
            let name = item.file_name().into_string().map_err(|_| "a file name is not UTF-8")?;
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{name}");
            if item.file_type()?.is_dir() {
                folders.push((item.path(), format!("{path}/")));
            } else {
                files.push((path, std::fs::read(item.path())?));
            }
        }
    }
    Ok(Bundle::new(files)?)
}
