//! A provider of models that keeps its own books: a real HTTP server with OpenAI's `/v1/chat/completions`, which takes
//! its time, fails, hangs and answers too late, and charges for whatever it worked on.
//!
//! A word of the prompt is a token, and seven are added for the message around it, as OpenAI counts. A refused request
//! (status 500) costs nothing. Everything else is charged when the request arrives, also when its answer never does: a
//! provider bills for its work, not for what the caller heard of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::prices::{Pricing, Tokens};
use super::{Cell, FastClock, Trouble};
use crate::AnyError;

/// Longest a caller may keep a request without an answer open.
const HANG: Duration = Duration::from_secs(60);

/// Tokens around a prompt.
const AROUND_TOKENS: u64 = 7;

/// The provider, until it is dropped.
#[derive(Debug)]
pub struct Provider {
    /// `host:port`.
    pub host: String,
    books: Arc<Books>,
    server: JoinHandle<()>,
}

/// A book for each model.
#[derive(Debug, Default)]
struct Books(Mutex<HashMap<String, Book>>);

/// What one model was asked for.
#[derive(Debug)]
struct Book {
    cell: Cell,
    clock: FastClock,
    arrived: u64,
    charges: Vec<Charge>,
}

/// One charge.
#[derive(Debug, Clone)]
pub struct Charge {
    /// When, by the cell's clock.
    pub at_ms: u64,
    /// In which run, where the caller said so.
    pub run: String,
    /// How much, in millionths of a micro-dollar.
    pub charge: u128,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Status 500, and no work done.
    Refused,
    /// Worked on, and never answered.
    Lost,
    /// Worked on, and answered when the caller has given up.
    Late,
}

/// The body of a request, as far as a provider's bill depends on it.
#[derive(Deserialize)]
struct Request {
    model: String,
    messages: Vec<Message>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

impl Provider {
    /// Serves on a free port of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self, AnyError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?.to_string();
        let books = Arc::<Books>::default();
        let kept = Arc::clone(&books);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let books = Arc::clone(&kept);
                // A connection that breaks is its caller's affair.
                tokio::spawn(async move { serve(stream, &books).await.unwrap_or_default() });
            }
        });
        Ok(Self { host, books, server })
    }

    /// Opens the book of a cell's model.
    pub fn open(&self, cell: &Cell, clock: FastClock) {
        let book = Book { cell: cell.clone(), clock, arrived: 0, charges: Vec::new() };
        self.books.lock().insert(cell.model.clone(), book);
    }

    /// How many requests for a model have arrived.
    #[must_use]
    pub fn arrived(&self, model: &str) -> u64 {
        self.books.lock().get(model).map_or(0, |book| book.arrived)
    }

    /// All charges for a model.
    #[must_use]
    pub fn charges(&self, model: &str) -> Vec<Charge> {
        self.books.lock().get(model).map(|book| book.charges.clone()).unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Books {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Book>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in: its number and fate are settled, and it is charged for.
    fn take(&self, run: &str, request: &Request) -> Option<(Fate, Tokens, Duration, Duration)> {
        let mut books = self.lock();
        let book = books.get_mut(&request.model)?;
        let number = book.arrived;
        book.arrived += 1;
        let fate = fate(book.cell.trouble, number);
        let words: usize = request.messages.iter().map(|message| message.content.split(' ').count()).sum();
        let max_output = request.max_completion_tokens.or(request.max_tokens)?;
        let tokens = tokens(book.cell.pricing, number, words as u64 + AROUND_TOKENS, max_output);
        if fate != Fate::Refused {
            let charge = book.cell.pricing.charge(&tokens);
            book.charges.push(Charge { at_ms: book.clock.now_ms(), run: run.to_owned(), charge });
        }
        let latency = Duration::from_millis(2 + mix(number, 1) % 10);
        Some((fate, tokens, latency, book.cell.patience()))
    }
}

/// Tokens that the provider counts for request `number`: of the prompt a share is in the cache and a share goes there;
/// of the output that was allowed a tenth to all comes, a share of it reasoning.
#[must_use]
pub fn tokens(pricing: Pricing, number: u64, prompt: u64, max_output: u64) -> Tokens {
    let completion = max_output * (10 + mix(number, 2) % 91) / 100;
    if !pricing.has_cache() {
        return Tokens { input: prompt, output: completion, ..Tokens::default() };
    }
    let (cache_read, cache_write) = match mix(number, 3) % 3 {
        0 => (prompt * 9 / 10, 0),
        1 => (0, prompt * 9 / 10),
        _ => (prompt / 2, prompt / 4),
    };
    let reasoning = completion * (mix(number, 4) % 101) / 100;
    Tokens {
        cache_read,
        cache_write,
        input: prompt - cache_read - cache_write,
        output: completion - reasoning,
        reasoning,
    }
}

fn fate(trouble: Trouble, number: u64) -> Fate {
    match mix(number, 5) % 100 {
        0..15 if trouble == Trouble::Errors => Fate::Refused,
        15..20 if trouble == Trouble::Errors => Fate::Lost,
        20..25 if trouble == Trouble::Errors => Fate::Late,
        _ => Fate::Answered,
    }
}

/// A number that looks random, the same in every run (splitmix64).
fn mix(number: u64, salt: u64) -> u64 {
    let mut z = number.wrapping_mul(16).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

async fn serve(mut stream: TcpStream, books: &Books) -> Result<(), AnyError> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
        };
        let length: usize = field("content-length").unwrap_or_default().parse().unwrap_or(0);
        let run = field("x-run").unwrap_or_default();
        while bytes.len() < head + 4 + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = bytes.drain(..head + 4 + length).skip(head + 4).collect();
        let taken = serde_json::from_slice::<Request>(&body).ok().and_then(|asked| books.take(&run, &asked));
        let (status, answer) = match taken {
            None => (400, json!({ "error": { "message": "not a request for a model that is served here" } })),
            Some((fate, tokens, latency, patience)) => {
                tokio::time::sleep(latency).await;
                match fate {
                    Fate::Answered => {}
                    Fate::Late => tokio::time::sleep(patience * 3 / 2).await,
                    Fate::Lost => {
                        // Until the caller hangs up.
                        let _ = tokio::time::timeout(HANG, stream.read_buf(&mut bytes)).await;
                        return Ok(());
                    }
                    Fate::Refused => {}
                }
                if fate == Fate::Refused {
                    (500, json!({ "error": { "message": "overloaded", "type": "server_error" } }))
                } else {
                    (200, answer(&tokens))
                }
            }
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat()).await?;
    }
}

/// An answer as OpenAI gives it, with what is written to the cache as Anthropic's models report it through gateways.
fn answer(tokens: &Tokens) -> serde_json::Value {
    let Tokens { cache_read, cache_write, input, output, reasoning } = *tokens;
    let (prompt, completion) = (cache_read + cache_write + input, output + reasoning);
    json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_764_000_000,
        "model": "priced",
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": "as you say" },
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": { "cached_tokens": cache_read, "cache_creation_tokens": cache_write },
            "completion_tokens_details": { "reasoning_tokens": reasoning },
        },
    })
}
