//! Who may read: bearer tokens (RFC 6750).
//!
//! Writers need none, as every record carries its signature. Where read tokens are configured, every other path needs
//! one, paths that do not exist included; only `/healthz` and `/readyz` are open. Payloads have tokens of their own,
//! always: see [`crate::payloads`].
//!
//! Tokens are kept and compared as their SHA-256. The time that a comparison takes may tell something about a hash,
//! and nothing about another token with that hash; so it need not be constant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::{ConfigError, content};
use crate::error::RequestError;
use crate::key_file::read_private;
use crate::listener::Peer;
use crate::routes::Shared;

/// Shortest and longest token, in characters. Sixteen characters of base64 are 96 bits.
const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 16..=512;

/// Most tokens of one kind.
const TOKENS_MAX: usize = 4096;

/// `[access]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Tokens of those who may read; everybody may where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_tokens: Option<TokensFrom>,
}

/// Where tokens are: never in the configuration itself, which is shown to people. Written as `{ file = "PATH" }` or
/// `{ env = "VARIABLE" }`; each line is a token, or a name, a space and a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokensFrom {
    /// A file that its owner alone may read.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl AccessConfig {
    /// Takes paths as relative to `folder`.
    pub(crate) fn rebase(&mut self, folder: &Path) {
        self.read_tokens.iter_mut().for_each(|tokens| tokens.rebase(folder));
    }
}

impl TokensFrom {
    /// Takes a path as relative to `folder`.
    pub(crate) fn rebase(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&*path);
        }
    }
}

/// Tokens of one kind, as SHA-256, with the names of their holders.
pub(crate) struct Tokens(BTreeMap<[u8; 32], String>);

impl Tokens {
    /// Reads tokens. Errors say which line is wrong and never what stands there.
    pub(crate) fn read(from: &TokensFrom) -> Result<Self, ConfigError> {
        let (place, text) = match from {
            TokensFrom::File(path) => (path.clone(), read_private(path)?),
            TokensFrom::Env(name) => {
                let place = PathBuf::from(format!("environment variable {name}"));
                match std::env::var(name) {
                    Ok(text) => (place, Zeroizing::new(text)),
                    Err(_) => return Err(content(&place, "not set, or not UTF-8".to_owned())),
                }
            }
        };
        Self::parse(&text).map_err(|why| content(&place, why))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, token) = match line.split_once(char::is_whitespace) {
                Some((name, token)) => (name.to_owned(), token.trim_start()),
                None => (format!("line {number}"), line),
            };
            if !TOKEN_CHARACTERS.contains(&token.len()) || !token.bytes().all(is_token_byte) {
                let (least, most) = (TOKEN_CHARACTERS.start(), TOKEN_CHARACTERS.end());
                return Err(format!(
                    "line {number}: a token is {least} to {most} of A-Z a-z 0-9 - . _ ~ + / =, by itself or after a \
                     name and a space"
                ));
            }
            if tokens.insert(digest(token), name).is_some() {
                return Err(format!("line {number}: this token stands there twice"));
            }
            if tokens.len() > TOKENS_MAX {
                return Err(format!("more than {TOKENS_MAX} tokens"));
            }
        }
        if tokens.is_empty() { Err("no token in it".to_owned()) } else { Ok(Self(tokens)) }
    }

    /// The name of the holder of the request's token.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<&str, RequestError> {
        let unknown = |shown| RequestError::Unauthorized { shown };
        let value = headers.get(header::AUTHORIZATION).ok_or(unknown(false))?;
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let name = token
            .filter(|token| TOKEN_CHARACTERS.contains(&token.len()))
            .and_then(|token| self.0.get(&digest(token)));
        name.map(String::as_str).ok_or(unknown(true))
    }
}

/// RFC 6750 §2.1: `b64token`.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// What is asked of a request before any handler sees it.
pub(crate) struct Access {
    /// Tokens of those who may read; everybody may where there are none.
    pub(crate) read: Option<Tokens>,
    /// Whether requests that write need a client certificate.
    pub(crate) certificate_for_writes: bool,
}

impl Access {
    fn check(&self, request: &Request) -> Result<(), RequestError> {
        let (method, path) = (request.method(), request.uri().path());
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let peer = request.extensions().get::<Peer>();
        if self.certificate_for_writes && !reads && !peer.is_some_and(|peer| peer.certified) {
            return Err(RequestError::CertificateNeeded);
        }
        let Some(tokens) = &self.read else { return Ok(()) };
        let open = reads && matches!(path, "/healthz" | "/readyz");
        let signed = *method == Method::POST && path == "/v1/records";
        let own_tokens = path.starts_with("/v1/payloads/");
        if !open && !signed && !own_tokens {
            tokens.check(request.headers())?;
        }
        Ok(())
    }
}

/// The middleware in front of all paths.
pub(crate) async fn guard(State(app): Shared, request: Request, next: Next) -> Response {
    if let Err(error) = app.protection.access.check(&request) {
        return error.into_response();
    }
    let mut response = next.run(request).await;
    if app.protection.access.read.is_some() {
        keep_private(response.headers_mut());
    }
    response
}

/// What needs a token is for its reader: a cache that others use too may not give it to them (RFC 9111 §3.5).
fn keep_private(headers: &mut HeaderMap) {
    let caching = headers.get(header::CACHE_CONTROL).and_then(|caching| caching.to_str().ok());
    if let Some(rest) = caching.and_then(|caching| caching.strip_prefix("public"))
        && let Ok(caching) = HeaderValue::try_from(format!("private{rest}"))
    {
        headers.insert(header::CACHE_CONTROL, caching);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_errors_do_not_repeat_it() {
        let tokens = Tokens::parse("# who\n\nauditor abcdefghijklmnop\nABCDEFGHIJKLMNOP==\n").unwrap();
        assert_eq!(tokens.check(&headers("Bearer abcdefghijklmnop")).unwrap(), "auditor");
        assert_eq!(tokens.check(&headers("bearer ABCDEFGHIJKLMNOP==")).unwrap(), "line 4");
        for wrong in
            ["Bearer abcdefghijklmnoq", "Basic abcdefghijklmnop", "abcdefghijklmnop", "Bearer", "Bearer "]
        {
            let error = tokens.check(&headers(wrong)).unwrap_err();
            assert!(matches!(error, RequestError::Unauthorized { shown: true }), "{wrong}");
        }
        let error = tokens.check(&HeaderMap::new()).unwrap_err();
        assert!(matches!(error, RequestError::Unauthorized { shown: false }));
        let secret = "Zq8-tooshort";
        for bad in [
            "".to_owned(),
            "# nothing".to_owned(),
            secret.to_owned(),
            format!("{secret}\u{e9}{secret}"),
            format!("name {secret}{secret} {secret}"),
            format!("a {secret}{secret}\nb {secret}{secret}"),
            secret.repeat(60),
        ] {
            let why = Tokens::parse(&bad).err().unwrap();
            println!("{why}");
            assert!(!why.contains("Zq8"), "{why}");
        }
    }
}
