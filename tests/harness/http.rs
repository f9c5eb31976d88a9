//! A client of the log that believes nothing and hides nothing: status and bytes.

use reqwest::header::HeaderMap;
use sift_connect::Connect;
use sift_spec::api::{BatchAnswer, MEDIA_BYTES, MEDIA_NOTE, Problem};
use sift_spec::tile::push_entry;

use crate::events::Events;

/// An HTTP client for one log.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    url: String,
    connect: Connect,
}

/// Status, content type and body of an answer.
#[derive(Debug)]
pub struct Raw {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub media: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Raw {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not what it should be.
    #[must_use]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        assert_eq!((self.status, self.media.as_str()), (200, "application/json"), "{}", self.text());
        serde_json::from_slice(&self.body).expect("an answer")
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
        Self::with(url, &Connect::default())
    }

    /// A client for the log at `url`, reached in some way.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn with(url: &str, connect: &Connect) -> Self {
        let client = connect.client().expect("a client").timeout(std::time::Duration::from_secs(30));
        let client = client.build().expect("a client");
        Self { client, url: url.trim_end_matches('/').to_owned(), connect: connect.clone() }
    }

    /// How the log is reached.
    #[must_use]
    pub const fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Begins a request of any kind, for what [`Http::request`] cannot say.
    ///
    /// # Panics
    /// When the method is none.
    pub fn begin(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request that [`Http::begin`] began.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Raw, reqwest::Error> {
        raw(request.send().await?).await
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

    /// Sends any request.
    ///
    /// # Errors
    /// When the log does not answer.
    ///
    /// # Panics
    /// When the method is none.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Raw, reqwest::Error> {
        let method = method.parse().expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        raw(request.send().await?).await
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    /// With the answer, when it is none.
    ///
    /// # Panics
    /// When the log does not answer.
    pub async fn events(&self, path: &str, headers: &[(&str, &str)]) -> Result<Events, Raw> {
        let request = self.client.get(format!("{}{path}", self.url));
        let mut request = request.timeout(std::time::Duration::from_secs(600));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let media = answer.headers().get("content-type").and_then(|media| media.to_str().ok());
        if answer.status() == 200 && media == Some("text/event-stream") {
            Ok(Events::new(answer))
        } else {
            Err(raw(answer).await.expect("a body"))
        }
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
    let headers = answer.headers().clone();
    Ok(Raw { status, media, headers, body: answer.bytes().await?.to_vec() })
}
