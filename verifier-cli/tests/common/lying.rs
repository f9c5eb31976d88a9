//! A log over HTTP that serves a directory, and lies where it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done with requests for a path.
#[derive(Debug, Clone)]
pub enum Lie {
    /// These bytes.
    Bytes(Vec<u8>),
    /// This status and nothing else.
    Status(u16),
    /// Go there.
    Redirect(String),
    /// Takes the request and never answers.
    Hang,
    /// So many bytes, as fast as they are taken.
    Endless,
    /// A byte now and then.
    Drip,
    /// Less than was announced.
    Cut,
    /// A stream of these bytes that stays open.
    Stream(Vec<u8>),
}

#[derive(Default)]
struct State {
    root: PathBuf,
    lies: BTreeMap<String, Lie>,
    asked: Vec<String>,
}

/// The log.
pub struct Lying {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Lying {
    /// Serves a directory.
    pub fn serve(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/log", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { root: root.to_owned(), ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || drop(answer(stream.unwrap(), &state)));
            }
        });
        Self { url, state }
    }

    /// From now on another directory.
    pub fn show(&self, root: &Path) {
        self.state.lock().unwrap().root = root.to_owned();
    }

    /// What it shows now.
    pub fn root(&self) -> PathBuf {
        self.state.lock().unwrap().root.clone()
    }

    /// Lies about a path that starts like this.
    pub fn lie(&self, path: &str, lie: Lie) {
        self.state.lock().unwrap().lies.insert(path.to_owned(), lie);
    }

    pub fn be_honest(&self) {
        self.state.lock().unwrap().lies.clear();
    }

    /// What it was asked for since this was last called.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // Whoever was killed asks nothing any more.
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = request.split(' ').nth(1).unwrap().trim_start_matches("/log/").to_owned();
    let (lie, file) = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.clone());
        let lie = state.lies.iter().find(|(start, _)| path.starts_with(start.as_str()));
        (lie.map(|(_, lie)| lie.clone()), state.root.join(path.split('?').next().unwrap()))
    };
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}connection: close\r\n\r\n");
    let length = |bytes: usize| format!("content-length: {bytes}\r\n");
    let lie = lie.unwrap_or_else(|| match std::fs::read(file) {
        Ok(bytes) => Lie::Bytes(bytes),
        Err(_) => Lie::Status(404),
    });
    match lie {
        Lie::Bytes(bytes) => {
            stream.write_all(head("200 OK", &length(bytes.len())).as_bytes())?;
            stream.write_all(&bytes)
        }
        Lie::Status(status) => stream.write_all(head(&format!("{status} X"), &length(0)).as_bytes()),
        Lie::Redirect(to) => {
            let more = format!("{}location: {to}\r\n", length(0));
            stream.write_all(head("302 Found", &more).as_bytes())
        }
        Lie::Hang => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        Lie::Endless => {
            stream.write_all(head("200 OK", "").as_bytes())?;
            loop {
                stream.write_all(&[b'x'; 65_536])?;
            }
        }
        Lie::Drip => {
            stream.write_all(head("200 OK", &length(10_000)).as_bytes())?;
            loop {
                stream.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        Lie::Cut => {
            stream.write_all(head("200 OK", &length(10_000)).as_bytes())?;
            stream.write_all(b"log.example/sift\n")
        }
        Lie::Stream(bytes) => {
            stream.write_all(head("200 OK", "content-type: text/event-stream\r\n").as_bytes())?;
            stream.write_all(&bytes)?;
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
    }
}
