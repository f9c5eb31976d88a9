//! The operator's side: signs grants, revocations, policies and erasures, and sends them to a log.
//!
//! This needs the operator's key and an address, nothing else of the log: it runs where the key is kept.

use sift_spec::api::{MEDIA_NOTE, OperatorAnswer, Problem};
use sift_spec::entry::Entry;
use sift_spec::note::SignerKey;
use sift_spec::receipt::{Receipt, ReceiptError};
use sift_spec::record::{OperatorBody, OperatorRecord};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{LeafIndex, UnixMillis};

/// Why the operator's record is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The log did not answer.
    #[error("the log did not answer: {0}")]
    Http(#[from] reqwest::Error),
    /// The log refused.
    #[error("the log refused: {} ({})", .0.detail, .0.kind.urn())]
    Refused(Box<Problem>),
    /// The log answered with something else.
    #[error("the log's answer makes no sense: {0}")]
    Answer(String),
    /// The record has no encoding.
    #[error(transparent)]
    Entry(#[from] sift_spec::entry::EntryError),
    /// The receipt does not prove.
    #[error("the log's receipt does not verify: {0}")]
    Receipt(#[from] ReceiptError),
}

/// Signs `body` as the operator's next record at `now` and sends it to the log at `url`. With a trust policy
/// the receipt is verified before the index is believed.
///
/// # Errors
/// When the log does not answer, refuses, or its receipt does not verify.
pub async fn submit(
    url: &str,
    key: &SignerKey,
    body: OperatorBody,
    now: UnixMillis,
    trust: Option<&TrustPolicy>,
) -> Result<LeafIndex, OperatorError> {
    let url = url.trim_end_matches('/');
    let client = client()?;
    let next: OperatorAnswer = json(client.get(format!("{url}/v1/operator")).send().await?).await?;
    let OperatorAnswer { log, next_seq: seq, prev, time } = next;
    // A clock behind that of an earlier record would be refused.
    let record = OperatorRecord { body, log, prev, seq, time: time.max(now) };
    let entry = Entry::sign_operator(&record, key)?;
    let leaf = entry.leaf();
    let request = client.post(format!("{url}/v1/records")).header("content-type", MEDIA_NOTE);
    let answer = accepted(request.body(entry.into_bytes()).send().await?).await?;
    let receipt = Receipt::parse(&answer.bytes().await?)?;
    if let Some(trust) = trust {
        receipt.verify(leaf, trust)?;
    }
    Ok(receipt.index)
}

fn client() -> Result<reqwest::Client, OperatorError> {
    // Another part of the program may have chosen a provider already: that is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build()?)
}

async fn accepted(answer: reqwest::Response) -> Result<reqwest::Response, OperatorError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.bytes().await?;
    match serde_json::from_slice(&body) {
        Ok(problem) => Err(OperatorError::Refused(problem)),
        Err(_) => {
            Err(OperatorError::Answer(format!("HTTP status {status}; is this the address of a Sift log?")))
        }
    }
}

async fn json<T: serde::de::DeserializeOwned>(answer: reqwest::Response) -> Result<T, OperatorError> {
    let body = accepted(answer).await?.bytes().await?;
    serde_json::from_slice(&body).map_err(|error| OperatorError::Answer(error.to_string()))
}
