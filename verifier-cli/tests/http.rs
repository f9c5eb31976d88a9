//! A log behind a URL: the same report as from the directory it serves.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use common::kernel::honest;
use common::{tiles, trust};
use sift_connect::Connect;
use sift_verify::log::{self, Options};
use sift_verify::{CannotCheck, source};
use tempfile::TempDir;

/// Serves a directory over HTTP/1.1, one request a connection, and fails the first `failures` requests.
fn serve(root: PathBuf, mut failures: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let path = request.split(' ').nth(1).unwrap().strip_prefix("/log/").unwrap().to_owned();
            let (status, body) = match std::fs::read(root.join(path)) {
                _ if failures > 0 => {
                    failures -= 1;
                    ("503 Service Unavailable", Vec::new())
                }
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    format!("http://{address}/log")
}

#[test]
fn a_url_gives_the_report_of_its_directory() {
    let dir = TempDir::new().unwrap();
    tiles::write(&honest().seal(), dir.path());
    // With and without a final slash, and over failures that pass.
    for (end, failures) in [("", 0), ("/", 1)] {
        let url = serve(dir.path().to_owned(), failures) + end;
        let remote = source::open(&url, &Connect::default()).unwrap();
        let report = log::verify(&*remote, None, &trust(), &Options::default()).unwrap();
        let local = source::open(dir.path().to_str().unwrap(), &Connect::default()).unwrap();
        let expected = log::verify(&*local, None, &trust(), &Options::default()).unwrap();
        assert_eq!(report.about(""), expected.about(""));
    }
}

#[test]
fn what_the_server_does_not_have_is_named() {
    let dir = TempDir::new().unwrap();
    let url = serve(dir.path().to_owned(), 0);
    let error =
        log::verify(&*source::open(&url, &Connect::default()).unwrap(), None, &trust(), &Options::default())
            .unwrap_err();
    assert!(matches!(&error, CannotCheck::NoCheckpoint(log) if log.contains("127.0.0.1")), "{error}");
}
