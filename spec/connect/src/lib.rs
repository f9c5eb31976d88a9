//! How programs reach a log: whom they believe about its host, and what they show it.
//!
//! Operator, kernel and verifier share this and nothing else of the network. None of it is trusted with evidence:
//! whoever answers, what they say is verified against the trust file. TLS keeps tokens and payloads from others, and
//! strangers from spoiling answers.
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, ClientBuilder, Identity};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Largest file that is read here, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest token, in characters.
const TOKEN_CHARACTERS_MAX: usize = 512;

/// How to reach a log. Nothing in it: as everybody does, with the system's certificate authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// PEM file of the certificate authorities to believe about the log's host, in place of the system's
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// PEM file of a client certificate and its private key, for a log that asks for one
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// File of the token to read with, for a log that asks for one
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// Why a log cannot be reached in this way. Never repeats what a file holds.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: IoError,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Connect {
    /// Takes paths as relative to `folder`.
    pub fn rebase(&mut self, folder: &Path) {
        for path in [&mut self.ca, &mut self.client_certificate, &mut self.token_file].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    /// An HTTP client that does so. The token goes with every request, and stands in no message or log.
    ///
    /// # Errors
    /// When a file cannot be read, is not what it should be, or holds a secret that others may read.
    pub fn client(&self) -> Result<ClientBuilder, ConnectError> {
        // Once per process; whoever was first has set the same or their own provider, and both work.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = ClientBuilder::new();
        if let Some(path) = &self.ca {
            let wrong = || content(path, "not a PEM file of certificates");
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(|_| wrong())?;
            if authorities.is_empty() {
                return Err(wrong());
            }
            client = client.tls_certs_only(authorities);
        }
        if let Some(path) = &self.client_certificate {
            let pem = read_private(path)?;
            let identity = Identity::from_pem(&pem)
                .map_err(|_| content(path, "not a PEM file of a certificate and its private key"))?;
            client = client.identity(identity);
        }
        if let Some(path) = &self.token_file {
            let authorization = bearer(path)?;
            client = client.default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]));
        }
        Ok(client)
    }
}

/// The `Authorization` of the token in a file, marked as not to be shown.
///
/// # Errors
/// When the file cannot be read, others may read it, or it is not one token.
pub fn bearer(path: &Path) -> Result<HeaderValue, ConnectError> {
    let text = read_private(path)?;
    let token = std::str::from_utf8(&text).unwrap_or_default().trim();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let wrong = || content(path, "not a token: one line of A-Z a-z 0-9 - . _ ~ + / =");
    if token.is_empty() || token.len() > TOKEN_CHARACTERS_MAX || !token.bytes().all(known) {
        return Err(wrong());
    }
    let value = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let failed = |error| ConnectError::File { path: path.to_owned(), error };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(IoError::new(ErrorKind::InvalidInput, "longer than it may be")));
    }
    std::fs::read(path).map_err(failed)
}

/// Reads a file that its owner alone may read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConnectError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |error| ConnectError::File { path: path.to_owned(), error };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let why =
                format!("others may read this secret (mode {mode:o}); run: chmod 600 {}", path.display());
            return Err(content(path, &why));
        }
    }
    read(path).map(Zeroizing::new)
}

fn content(path: &Path, why: &str) -> ConnectError {
    ConnectError::Content { path: path.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn secrets_are_their_owners_and_are_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("Zq8secretsecret\n", 0o600);
        let value = bearer(&path).unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer Zq8secretsecret");
        assert!(!format!("{value:?}").contains("Zq8"));
        let connect = Connect { token_file: Some(path.clone()), ..Connect::default() };
        let client = connect.client().unwrap().build().unwrap();
        assert!(!format!("{client:?}").contains("Zq8"), "{client:?}");
        for (text, mode) in [
            ("Zq8secret", 0o644),
            ("Zq8 secret", 0o600),
            ("", 0o600),
            ("Zq8\u{e9}", 0o600),
            ("Zq8\nZq8", 0o600),
        ] {
            write(text, mode);
            let error = bearer(&path).unwrap_err().to_string();
            println!("{error}");
            assert!(!error.contains("Zq8"));
            let file = Some(path.clone());
            for connect in [
                Connect { ca: file.clone(), ..Connect::default() },
                Connect { client_certificate: file.clone(), ..Connect::default() },
            ] {
                let error = connect.client().unwrap_err().to_string();
                assert!(!error.contains("Zq8"), "{error}");
            }
        }
    }
}
