//! An HTTP client of a few lines: one request a connection.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub media: String,
    pub body: String,
}

pub fn post(address: &str, path: &str, body: &[u8]) -> Answer {
    try_post(address, path, body).unwrap()
}

/// None where the server went away.
pub fn try_post(address: &str, path: &str, body: &[u8]) -> Option<Answer> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    exchange(address, &[head.as_bytes(), body].concat())
}

pub fn get(address: &str, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(address, head.as_bytes()).unwrap()
}

pub fn exchange(address: &str, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server that has heard enough answers before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let media = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Some(Answer { status, media: media.to_owned(), body: body.to_owned() })
}
