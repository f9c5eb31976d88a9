//! TLS on the log's own listener: version 1.2 and 1.3, HTTP/1.1, and client certificates where they are asked for.
//!
//! Certificate and key are read on start and again on SIGHUP; connections keep what they began with. Revocation
//! lists are out of scope: a client's certificate ends with its time, its authority, or by taking the authority out
//! of the file. Authority over records never comes from a certificate, only from a record's signature.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sift_spec::api::{MEDIA_PROBLEM, Problem, ProblemKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{ConfigError, content, file};
use crate::key_file::read_private;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Largest file of certificates, in bytes.
const CERTIFICATES_BYTES_MAX: u64 = 1 << 20;

/// How much of a plain request is read, and for how long, so that its sender gets to read why it was refused.
const PLAIN_BYTES_MAX: usize = 64 << 10;
const PLAIN: Duration = Duration::from_secs(1);

/// `[tls]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate, its issuers after it.
    pub certificate: PathBuf,
    /// PEM file of its private key, readable by its owner alone.
    pub key: PathBuf,
    /// PEM file of the authorities that clients' certificates come from; none are asked for without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Who must have a certificate, where there is a `client_ca`.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// Who must have a client certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Everybody: without one there is no connection.
    #[default]
    Required,
    /// Who writes: other requests than GET and HEAD are refused without one.
    Writes,
    /// Nobody, but one that is shown must be good: for the time in which clients are given theirs.
    Optional,
}

impl TlsConfig {
    /// Takes paths as relative to `folder`.
    pub(crate) fn rebase(&mut self, folder: &Path) {
        for path in [&mut self.certificate, &mut self.key].into_iter().chain(&mut self.client_ca) {
            *path = folder.join(&*path);
        }
    }

    /// Whether requests that write need a certificate, beyond what the handshake asks for.
    pub(crate) const fn certificate_for_writes(&self) -> bool {
        self.client_ca.is_some() && matches!(self.client_certificates, ClientCertificates::Writes)
    }
}

/// The listener's TLS, as it is now.
pub(crate) struct Tls {
    config: TlsConfig,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why a connection did not become one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the handshake took longer than {} seconds", HANDSHAKE.as_secs())]
    TooSlow,
    #[error("plain HTTP on a port that speaks TLS")]
    Plain,
    #[error("no handshake: {0}")]
    Failed(#[from] io::Error),
}

impl Tls {
    /// Reads certificates and key.
    pub(crate) fn open(config: &TlsConfig) -> Result<Self, ConfigError> {
        let current = RwLock::new(Arc::new(server_config(config)?));
        Ok(Self { config: config.clone(), current })
    }

    /// Reads them again, for connections that come from now on. On an error everything stays as it was.
    pub(crate) fn reload(&self) -> Result<(), ConfigError> {
        let new = Arc::new(server_config(&self.config)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Shakes hands. Says as well whether the client showed a certificate, which then is a good one.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, bool), HandshakeError> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let handshake = async {
            // A TLS record of a handshake starts with 22, a request with the letters of its method.
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
                refuse_plain(stream).await;
                return Err(HandshakeError::Plain);
            }
            Ok(TlsAcceptor::from(current).accept(stream).await?)
        };
        let stream =
            tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| HandshakeError::TooSlow)??;
        let certified = stream.get_ref().1.peer_certificates().is_some();
        Ok((stream, certified))
    }
}

/// Tells a client that speaks plain HTTP what is wrong.
async fn refuse_plain(mut stream: TcpStream) {
    let problem = Problem::new(ProblemKind::MalformedRequest, "this port speaks TLS: ask for https://");
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {} Bad Request\r\ncontent-type: {MEDIA_PROBLEM}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        problem.status,
        body.len()
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        // What was sent and not read would make the operating system take the answer back.
        let drain = async {
            let (mut bytes, mut buffer) = (0, [0; 4096]);
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                bytes += read;
                if bytes > PLAIN_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PLAIN, drain).await;
    }
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, ConfigError> {
    let chain = certificates(&config.certificate)?;
    let key = private_key(&config.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| content(&config.certificate, error.to_string()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = |error: VerifierBuilderError| content(path, error.to_string());
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| content(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match config.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Writes | ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(wrong)?)
        }
    };
    // Only says that the two do not belong together, or what is wrong with the certificate.
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|error| content(&config.certificate, format!("not usable with its key: {error}")))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let length = std::fs::metadata(path).map_err(|error| file(path, error))?.len();
    if length > CERTIFICATES_BYTES_MAX {
        return Err(content(path, format!("more than {CERTIFICATES_BYTES_MAX} bytes of certificates")));
    }
    let bytes = std::fs::read(path).map_err(|error| file(path, error))?;
    // Parsers repeat what they could not read, and somebody may have named the key's file here.
    let none = || content(path, "not a PEM file of certificates".to_owned());
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let text = read_private(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| content(path, "not a PEM file of a private key".to_owned()))
}
