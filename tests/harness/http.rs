//! A client of the log that believes nothing and hides nothing: status and bytes.

use sift_spec::api::{BatchAnswer, MEDIA_BYTES, MEDIA_NOTE, Problem};
use sift_spec::tile::push_entry;

/// An HTTP client for one log.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    url: String,
}

/// Status, content type and body of an answer.
#[derive(Debug)]
pub struct Raw {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub media: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Raw {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as a problem.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn problem(&self) -> Problem {
        assert_eq!(self.media, "application/problem+json", "{}", self.text());
        let problem: Problem = serde_json::from_slice(&self.body).expect("a problem");
        assert_eq!(problem.status, self.status);
        problem
    }
}

impl Http {
    /// A client for the log at `url`.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build().expect("a client");
        Self { client, url: url.trim_end_matches('/').to_owned() }
    }

    /// Where the log is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gets a path.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn get(&self, path: &str) -> Result<Raw, reqwest::Error> {
        raw(self.client.get(format!("{}{path}", self.url)).send().await?).await
    }

    /// Posts bytes of some media type.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn post(&self, path: &str, media: &str, body: Vec<u8>) -> Result<Raw, reqwest::Error> {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", media);
        raw(request.body(body).send().await?).await
    }

    /// Adds one entry.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn add(&self, entry: &[u8]) -> Result<Raw, reqwest::Error> {
        self.post("/v1/records", MEDIA_NOTE, entry.to_vec()).await
    }

    /// Adds many entries in one request.
    ///
    /// # Errors
    /// When the log does not answer.
    ///
    /// # Panics
    /// When an entry is too long, or the answer is no batch answer.
    pub async fn add_all(&self, entries: &[Vec<u8>]) -> Result<BatchAnswer, reqwest::Error> {
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| assert!(push_entry(&mut bundle, entry)));
        let answer = self.post("/v1/records", MEDIA_BYTES, bundle).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(serde_json::from_slice(&answer.body).expect("a batch answer"))
    }
}

async fn raw(answer: reqwest::Response) -> Result<Raw, reqwest::Error> {
    let media =
        answer.headers().get("content-type").and_then(|media| media.to_str().ok()).unwrap_or_default();
    let (status, media) = (answer.status().as_u16(), media.to_owned());
    Ok(Raw { status, media, body: answer.bytes().await?.to_vec() })
}
