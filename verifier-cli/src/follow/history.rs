//! What was seen of logs, for good: a file to which lines are added and nothing else is ever done.
//!
//! The first line names the format. Each further one is a seal in hexadecimal, a space, and an [`Event`] in JSON; the
//! seal is over the line and the seal before it, so that no line can be changed, dropped or moved unnoticed.
//!
//! A line is on the disk before its line feed is written, and the line feed before anybody is answered. So what lacks its
//! line feed was never answered for, and is completed or taken away when the file is opened; everything else that does
//! not fit is damage, and is refused: a witness that forgets would sign a fork.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sift_spec::hash::{EMPTY_ROOT, history_seal};
use sift_spec::types::{Hash, UnixMillis};

use crate::error::CannotCheck;
use crate::files::sync_dir;

/// First line of the file.
const FORMAT: &str = "sift/history@v1\n";

/// Longest line in bytes: two notes, whose lines JSON escapes, and to spare.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a seal and the space after it.
const SEAL_BYTES: usize = 65;

/// Something that happened. The order of the fields is that of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// A head that extends, or is part of, what was seen before.
    Head {
        /// When.
        time: UnixMillis,
        /// From where: `poll`, `feed` or `add-checkpoint`.
        from: String,
        /// Whether the trust file's quorum vouches for it.
        believed: bool,
        /// Our own cosignature, with its line feed.
        #[serde(skip_serializing_if = "Option::is_none")]
        cosignature: Option<String>,
        /// The checkpoint, exactly.
        note: String,
    },
    /// A head larger than the anchor that carries our own cosignature: this memory is an old copy.
    Forgot {
        /// When.
        time: UnixMillis,
        /// From where.
        from: String,
        /// The checkpoint, exactly.
        note: String,
    },
    /// Two heads of which neither extends the other.
    Split {
        /// When.
        time: UnixMillis,
        /// From where.
        from: String,
        /// Directory with the evidence, below `evidence`.
        evidence: String,
        /// The head that was seen before.
        ours: String,
        /// The other one.
        theirs: String,
    },
}

/// The open file.
pub(super) struct History {
    path: PathBuf,
    file: File,
    seal: Hash,
    /// A write failed: what the disk holds now is not known.
    broken: bool,
}

impl History {
    /// Opens or makes the file, and tells all its events.
    pub(super) fn open(path: &Path, mut tell: impl FnMut(Event)) -> Result<Self, CannotCheck> {
        let fail = |source| CannotCheck::Write { path: path.to_owned(), source };
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(fail)?;
        let Whole { seal, end, missing } = Lines::new(path, &file)?.all(&mut tell)?;
        // What was not finished when the process ended.
        file.set_len(end).map_err(fail)?;
        file.write_all(missing.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
        sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, seal, broken: false })
    }

    /// Adds an event, durably.
    pub(super) fn append(&mut self, event: &Event) -> Result<(), CannotCheck> {
        let fail = |source| CannotCheck::Write { path: self.path.clone(), source };
        if let Some(error) = self.is_broken() {
            return Err(error);
        }
        let json = serde_json::to_string(event).map_err(|error| fail(error.into()))?;
        let seal = history_seal(&self.seal, json.as_bytes());
        let line = format!("{} {json}", seal.hex());
        if line.len() as u64 >= LINE_BYTES_MAX {
            return Err(fail(std::io::Error::other("the checkpoint is too long for a history")));
        }
        self.broken = true;
        for part in [line.as_bytes(), b"\n"] {
            self.file.write_all(part).and_then(|()| self.file.sync_data()).map_err(fail)?;
        }
        (self.broken, self.seal) = (false, seal);
        Ok(())
    }

    /// Why nothing more can be added, where a write failed.
    pub(super) fn is_broken(&self) -> Option<CannotCheck> {
        let source =
            || std::io::Error::other("a write failed; start again, and what was not finished is taken away");
        self.broken.then(|| CannotCheck::Write { path: self.path.clone(), source: source() })
    }

    /// Tells all events again.
    pub(super) fn events(&self, mut tell: impl FnMut(Event)) -> Result<(), CannotCheck> {
        let fail = |source| CannotCheck::File { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(fail)?;
        Lines::new(&self.path, &file)?.all(&mut tell).map(|_| ())
    }
}

/// What reading came to.
struct Whole {
    seal: Hash,
    /// Where the last whole line ends.
    end: u64,
    /// What is to be written there.
    missing: &'static str,
}

struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<&'a File>,
    offset: u64,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, mut file: &'a File) -> Result<Self, CannotCheck> {
        let rewound = file.rewind();
        rewound.map_err(|source| CannotCheck::File { path: path.to_owned(), source })?;
        Ok(Self { path, reader: BufReader::new(file), offset: 0 })
    }

    fn all(&mut self, tell: &mut impl FnMut(Event)) -> Result<Whole, CannotCheck> {
        let first = self.line()?;
        if first != FORMAT.as_bytes() {
            // Made, and not finished.
            if !FORMAT.as_bytes().starts_with(&first) {
                return Err(self.damaged("it is no history of a follower"));
            }
            return Ok(Whole { seal: EMPTY_ROOT, end: 0, missing: FORMAT });
        }
        let mut seal = EMPTY_ROOT;
        self.offset = FORMAT.len() as u64;
        loop {
            let line = self.line()?;
            let end = self.offset;
            let Some(whole) = line.strip_suffix(b"\n") else {
                return match sealed(&seal, &line) {
                    _ if line.is_empty() => Ok(Whole { seal, end, missing: "" }),
                    // Only its line feed is missing.
                    Some((next, event)) => {
                        tell(event);
                        Ok(Whole { seal: next, end: end + line.len() as u64, missing: "\n" })
                    }
                    // A whole line, and something in the place of its line feed.
                    None if line.split_last().is_some_and(|(_, rest)| sealed(&seal, rest).is_some()) => {
                        Err(self.damaged("its last line does not end as it was written"))
                    }
                    None => Ok(Whole { seal, end, missing: "" }),
                };
            };
            let (next, event) =
                sealed(&seal, whole).ok_or_else(|| self.damaged("this line is not what was written"))?;
            tell(event);
            seal = next;
            self.offset = end + line.len() as u64;
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, CannotCheck> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|source| CannotCheck::File { path: self.path.to_owned(), source })?;
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(self.damaged("this line is longer than any that was written"));
        }
        Ok(line)
    }

    fn damaged(&self, why: &'static str) -> CannotCheck {
        CannotCheck::Damaged { path: self.path.to_owned(), offset: self.offset, why }
    }
}

/// The seal and the event of a line without its line feed, if the seal is right.
fn sealed(before: &Hash, line: &[u8]) -> Option<(Hash, Event)> {
    let (seal, json) = line.split_at_checked(SEAL_BYTES)?;
    let expected = history_seal(before, json);
    if seal != format!("{} ", expected.hex()).as_bytes() {
        return None;
    }
    Some((expected, serde_json::from_slice(json).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        let (time, from) = (UnixMillis::new(n).unwrap(), "poll".to_owned());
        Event::Head {
            time,
            from,
            believed: n.is_multiple_of(2),
            cosignature: None,
            note: format!("note {n}\n"),
        }
    }

    fn read(path: &Path) -> Result<Vec<Event>, CannotCheck> {
        let mut events = Vec::new();
        History::open(path, |event| events.push(event)).map(|_| events)
    }

    /// Of a history of three events: any byte flipped is refused, and left as it is; any cut gives the events before it.
    #[test]
    fn every_flip_is_refused_and_every_cut_is_a_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let mut history = History::open(&path, |_| ()).unwrap();
        let events: Vec<Event> = (0..3).map(event).collect();
        events.iter().for_each(|event| history.append(event).unwrap());
        drop(history);
        assert_eq!(read(&path).unwrap(), events);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                std::fs::write(&path, &flipped).unwrap();
                let refused = read(&path);
                assert!(
                    matches!(refused, Err(CannotCheck::Damaged { .. })),
                    "byte {at}, bit {bit}: {refused:?}"
                );
                assert_eq!(std::fs::read(&path).unwrap(), flipped);
            }
        }
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            let (first, lines) = (ends[0], ends[1..].iter().filter(|end| at >= **end).count());
            assert_eq!(read(&path).unwrap(), events[..if at <= first { 0 } else { lines }], "cut at {at}");
            // And it goes on from there; each time it does takes a few syncs.
            if at % 16 > 0 {
                continue;
            }
            History::open(&path, |_| ()).unwrap().append(&event(9)).unwrap();
            assert_eq!(read(&path).unwrap().last(), Some(&event(9)));
        }
        // Lines dropped, doubled and moved.
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for other in [[0, 2, 3, 3], [0, 1, 3, 3], [0, 1, 1, 2], [0, 2, 1, 3], [1, 0, 2, 3]] {
            let bytes: Vec<u8> = other.iter().flat_map(|at| lines[*at].to_vec()).collect();
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(read(&path), Err(CannotCheck::Damaged { .. })), "{other:?}");
        }
        println!("{} flips refused, {} cuts recovered from", whole.len() * 8, whole.len());
    }
}
