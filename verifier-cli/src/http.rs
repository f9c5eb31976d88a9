//! The network: all of it, and used only when a log is given as a URL.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use sift_connect::Connect;
use tokio::runtime::Runtime;

use crate::error::CannotCheck;
use crate::source::Source;

/// How long one waits for a log, and how often one asks it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Longest time for one request, whatever it is for.
    request: Duration,
    /// Longest time without a byte of the answer.
    silence: Duration,
    /// Bytes a second that must come at least, where the answer may be long.
    pace: u32,
    /// How often a request is made that fails for a reason that may pass.
    attempts_max: u32,
    /// Whether a log may send its reader elsewhere.
    redirects: bool,
}

impl Patience {
    /// That of somebody who waits for one answer.
    const ONCE: Self = Self {
        request: Duration::from_secs(60),
        silence: Duration::from_secs(60),
        pace: 0,
        attempts_max: 4,
        redirects: true,
    };

    /// That of somebody who comes back soon anyway, and lets nobody send a daemon around a network.
    pub(crate) const fn daemon(silence: Duration) -> Self {
        let request = Duration::from_secs(600);
        Self { request, silence, pace: 64 << 10, attempts_max: 2, redirects: false }
    }

    /// Longest time for an answer of so many bytes: who sends one byte now and then is not waited for.
    fn of(self, bytes_max: usize) -> Duration {
        let bytes = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let time = bytes.checked_div(self.pace).map(|seconds| Duration::from_secs(u64::from(seconds)));
        time.map_or(self.request, |time| self.request.min(2 * self.silence + time))
    }
}

/// A log at a URL.
#[derive(Debug)]
pub struct HttpSource {
    prefix: Url,
    client: Client,
    runtime: Runtime,
    patience: Patience,
}

/// Why a request gave no answer.
enum Failure {
    /// Asking again will not help.
    Final(String),
    /// It may.
    Passing(String),
}

impl HttpSource {
    /// The log at this prefix: `checkpoint` and `tile/...` are appended to it.
    ///
    /// # Errors
    /// When the URL is none, or no client can be set up.
    pub fn new(prefix: &str, connect: &Connect) -> Result<Self, CannotCheck> {
        Self::with(prefix, connect, Patience::ONCE)
    }

    pub(crate) fn with(prefix: &str, connect: &Connect, patience: Patience) -> Result<Self, CannotCheck> {
        let fail =
            |why: String| CannotCheck::Fetch { log: prefix.to_owned(), path: "anything".to_owned(), why };
        // A path without final slash would lose its last segment when another is joined to it.
        let url = Url::parse(&format!("{}/", prefix.trim_end_matches('/')));
        let url = url.map_err(|error| fail(error.to_string()))?;
        let client = connect
            .client()
            .map_err(|error| fail(error.to_string()))?
            .timeout(patience.request)
            .read_timeout(patience.silence)
            .connect_timeout(patience.silence)
            .redirect(if patience.redirects { Policy::default() } else { Policy::none() })
            .user_agent(concat!("sift-verify/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fail(chain(&error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { prefix: url, client, runtime, patience })
    }

    async fn get(&self, url: Url, bytes_max: usize) -> Result<Option<Vec<u8>>, Failure> {
        let passing = |error: reqwest::Error| Failure::Passing(chain(&error));
        let mut answer =
            self.client.get(url).timeout(self.patience.of(bytes_max)).send().await.map_err(passing)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Passing(format!("the server answered {status}")));
            }
            status => return Err(Failure::Final(format!("the server answered {status}"))),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(passing)? {
            if bytes.len() + chunk.len() > bytes_max {
                return Err(Failure::Final(format!("longer than {bytes_max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }
}

impl Source for HttpSource {
    fn name(&self) -> String {
        self.prefix.to_string()
    }

    fn fetch(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, CannotCheck> {
        let fail = |why: String| CannotCheck::Fetch { log: self.name(), path: path.to_owned(), why };
        let url = self.prefix.join(path).map_err(|error| fail(error.to_string()))?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.runtime.block_on(self.get(url.clone(), bytes_max)) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Passing(_)) if attempt < self.patience.attempts_max => {
                    std::thread::sleep(Duration::from_millis(100 << attempt));
                }
                Err(Failure::Passing(why) | Failure::Final(why)) => return Err(fail(why)),
            }
        }
    }
}

/// An error and what caused it: reqwest says the useful part last.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
