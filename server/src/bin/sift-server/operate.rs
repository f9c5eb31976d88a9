//! `sift-server operator`: signs a record of the operator and sends it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sift_server::init::TRUST_FILE;
use sift_server::key_file::read_key;
use sift_server::operator::Operator;
use sift_spec::bundle::Bundle;
use sift_spec::note::VerifierKey;
use sift_spec::record::{Erase, Grant, KeyChange, KeyRole, OperatorBody, Policy, Revoke};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::UnixMillis;

use crate::AnyError;
use crate::args::{KeyRoleArg, OperatorCommand};

pub(crate) async fn operate(command: OperatorCommand) -> Result<(), AnyError> {
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
    let key = read_key(&target.key)?;
    // `init` puts both into one folder.
    let trust = target.trust.clone().unwrap_or_else(|| target.key.with_file_name(TRUST_FILE));
    let text = std::fs::read_to_string(&trust)
        .map_err(|error| format!("{}: {error}; name the log's trust file with --trust", trust.display()))?;
    let trust = TrustPolicy::parse(&text).map_err(|error| format!("{}: {error}", trust.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = UnixMillis::new(u64::try_from(now)?)?;
    let operator = Operator { connect: target.connect, ..Operator::beside(&target.key, &key, &trust) };
    let index = operator.submit(&target.url, body, now).await?;
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
