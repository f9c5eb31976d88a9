//! `init` and `keygen`: a kernel's directory, and keys.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde_json::json;
use sift_client::config::{ApproverEntry, CONFIG_FILE, KEY_FILE, KernelFile, TRUST_FILE};
use sift_client::signer::create_key;
use sift_client::store::Retention;
use sift_client::{Mode, SpoolLimits};
use sift_spec::trust::TrustPolicy;

use crate::args::{Init, Keygen};
use crate::exit::{Failure, environment, print_json};

/// Makes a kernel's directory.
pub(crate) fn init(args: &Init, json: bool) -> Result<(), Failure> {
    // Everything is checked before anything is made.
    let trust = sift_client::config::read_file(&args.trust).map_err(environment)?;
    let policy = TrustPolicy::parse(&trust)
        .map_err(|error| environment(format!("{}: {error}", args.trust.display())))?;
    if policy.origin().is_none() {
        let why = "a kernel needs a log line; several only for keys of one origin";
        return Err(environment(format!("{}: {why}", args.trust.display())));
    }
    let approvers: Vec<ApproverEntry> =
        args.approvers.iter().map(|approver| approver_entry(approver)).collect::<Result<_, _>>()?;
    let log_url = args.log.trim_end_matches('/').to_owned();
    // The paths were given from here, and the configuration is read from elsewhere.
    let mut connect = args.connect.clone();
    connect.rebase(&std::env::current_dir().map_err(environment)?);
    let (mode, spool) = (Mode::Spool, SpoolLimits::default());
    let file = KernelFile {
        log_url: log_url.clone(),
        connect,
        signer: None,
        mode,
        spool,
        resume_seconds: 0,
        retention: Retention::default(),
        approvers,
        kernels: Vec::new(),
        otlp: None,
    };
    let config = args.dir.join(CONFIG_FILE);
    if config.exists() {
        return Err(environment(format!("{} exists; choose another directory", config.display())));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .map_err(|error| environment(format!("{}: {error}", args.dir.display())))?;
    let vkey = create_key(&args.dir.join(KEY_FILE), args.name.clone()).map_err(environment)?;
    write(&args.dir.join(TRUST_FILE), &trust)?;
    let text = toml::to_string(&file).map_err(environment)?;
    write(&config, &format!("{CONFIG_HELP}{text}"))?;

    let vkey = vkey.to_string();
    let grant = |vkey: &str, role: &str| {
        let agents = &args.agents;
        format!(
            "sift-server operator grant --url {log_url} --key operator.key --vkey '{vkey}' --role {role} --agents '{agents}'"
        )
    };
    let mut grants = vec![grant(&vkey, "kernel")];
    grants.extend(file.approvers.iter().map(|entry| grant(&entry.vkey, &format!("approver:{}", entry.role))));
    if json {
        print_json(&json!({ "dir": args.dir, "vkey": vkey, "grants": grants }));
    } else {
        anstream::println!(
            "Made {dir}: {KEY_FILE} (keep it secret), {CONFIG_FILE}, {TRUST_FILE}.\n\n\
             The kernel's public key:\n  {vkey}\n\n\
             Before the log takes its records, the operator must grant it, and publish the policy bundle:\n  \
             {grants}\n  \
             sift-server operator publish --url {log_url} --key operator.key --bundle BUNDLE_DIR",
            dir = args.dir.display(),
            grants = grants.join("\n  "),
        );
    }
    Ok(())
}

/// Makes a key.
pub(crate) fn keygen(args: &Keygen, json: bool) -> Result<(), Failure> {
    let vkey = create_key(&args.out, args.name.clone()).map_err(environment)?.to_string();
    if json {
        print_json(&json!({ "file": args.out, "vkey": vkey }));
    } else {
        anstream::println!(
            "Made {file} (keep it secret). The public key:\n  {vkey}\n\n\
             For an approver: the operator grants it (--role approver:ROLE), and kernel.toml lists it:\n  \
             [[approver]]\n  role = \"ROLE\"\n  vkey = \"{vkey}\"",
            file = args.out.display(),
        );
    }
    Ok(())
}

const CONFIG_HELP: &str = "\
# The configuration of a Sift kernel.
# mode: \"spool\" dispatches once an intent is on this disk; \"log\" only with the log's verified receipt.
# signer = { command = [\"PROGRAM\", ...], vkey = \"VKEY\" }: what holds the key instead of kernel.key; see sift-kernel signer --help.
# [spool]: how far the log may be behind before runs halt.
# [[approver]]: role and vkey of those who may answer held calls, and agents = [\"airline/*\"] if not for all.
# [[kernel]]: vkey of another kernel with which sub-agents' runs are delegated, and agents = [\"airline/*\"].
";

fn approver_entry(text: &str) -> Result<ApproverEntry, Failure> {
    let wrong = || environment(format!("--approver {text}: write ROLE=VKEY"));
    let (role, vkey) = text.split_once('=').ok_or_else(wrong)?;
    role.parse::<sift_spec::types::Word>().map_err(|_| wrong())?;
    vkey.parse::<sift_spec::note::VerifierKey>().map_err(|_| wrong())?;
    Ok(ApproverEntry { role: role.to_owned(), vkey: vkey.to_owned(), agents: Vec::new() })
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| environment(format!("{}: {error}", path.display())))
}
