//! A database on a journaled file, cut short at every place at which a disk can be.

use std::collections::BTreeMap;
use std::fs::OpenOptions;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::*;

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("t");

/// Small, so that it fills up often: 40 blocks of which a commit takes a dozen.
const JOURNAL: u64 = 40;

type Rows = BTreeMap<u64, Vec<u8>>;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = Self { dir: tempfile::tempdir().unwrap() };
        let file = OpenOptions::new().write(true).create_new(true).open(scratch.path()).unwrap();
        JournaledFile::make(&file, JOURNAL).unwrap();
        scratch
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self) -> io::Result<JournaledFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.path()).unwrap();
        Ok(JournaledFile::open(file)?.unwrap())
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// A file with these bytes, as after the death of whoever wrote them.
    fn of(bytes: &[u8]) -> Self {
        let scratch = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(scratch.path(), bytes).unwrap();
        scratch
    }

    fn rows(&self) -> Result<Rows, String> {
        let file = self.open().map_err(|error| error.to_string())?;
        let database = Database::builder().create_with_backend(file).map_err(|error| error.to_string())?;
        Ok(rows(&database))
    }
}

fn rows(database: &Database) -> Rows {
    let view = database.begin_read().unwrap();
    let Ok(table) = view.open_table(TABLE) else { return Rows::new() };
    table
        .iter()
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(key, row)| (key.value(), row.value().to_vec()))
        .collect()
}

/// Changes some rows; now and then many, so that the journal cannot hold it, or all go, so that the database shrinks.
fn change(database: &Database, expected: &mut Rows, numbers: &mut Numbers) {
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(TABLE).unwrap();
        let count = match numbers.below(12) {
            0 => 120,
            1 => {
                table.retain(|_, _| false).unwrap();
                expected.clear();
                1
            }
            _ => 1 + numbers.below(6),
        };
        for _ in 0..count {
            let (key, length) = (numbers.below(400), numbers.below(6000));
            let row = vec![key as u8 ^ length as u8; length as usize];
            table.insert(key, row.as_slice()).unwrap();
            expected.insert(key, row);
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn what_was_committed_is_there_after_a_death_at_any_time() {
    let scratch = Scratch::new();
    let (mut expected, mut numbers) = (Rows::new(), Numbers(1));
    let (mut checkpoints, mut direct) = (0, 0);
    for life in 0..6 {
        let file = scratch.open().unwrap();
        let database = Database::builder().create_with_backend(file.clone()).unwrap();
        assert_eq!(rows(&database), expected, "life {life}");
        for step in 0..40 {
            let before = file.tail().slot.generation;
            change(&database, &mut expected, &mut numbers);
            direct += file.tail().slot.generation - before;
            assert_eq!(Scratch::of(&scratch.bytes()).rows().unwrap(), expected, "{life} {step}");
            let before = file.tail().slot.generation;
            file.tidy().unwrap();
            checkpoints += file.tail().slot.generation - before;
            assert_eq!(Scratch::of(&scratch.bytes()).rows().unwrap(), expected, "{life} {step}, tidied");
        }
        if life % 2 == 0 {
            // Killed: nothing is written any more.
            let bytes = scratch.bytes();
            drop((database, file));
            std::fs::write(scratch.path(), bytes).unwrap();
        }
    }
    assert!(
        checkpoints > 20 && direct > 5,
        "{checkpoints} checkpoints, {direct} commits larger than the journal"
    );
}

/// A journaled file that keeps what is on the disk after every sync.
#[derive(Debug)]
struct Watched {
    file: JournaledFile,
    path: std::path::PathBuf,
    synced: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced.lock().unwrap().push(std::fs::read(&self.path)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// `before` with some of the sectors in which `after` differs. Slots are as before: one is written when all else is synced.
fn torn(before: &[u8], after: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const SECTOR: usize = 512;
    let mut bytes = before.to_vec();
    // The file is as long as before or as after.
    if numbers.below(2) == 0 {
        bytes.resize(after.len(), 0);
    }
    let share = 1 + numbers.below(100);
    let slots = BLOCK * SLOTS as usize;
    let sectors = bytes[slots..].chunks_exact_mut(SECTOR).zip(after[slots..].chunks_exact(SECTOR));
    for (sector, after) in sectors {
        if numbers.below(100) < share {
            sector.copy_from_slice(after);
        }
    }
    bytes
}

/// Between two syncs, any of the sectors that were written may have come to the disk and any not. Whatever is there then,
/// the database is as it was before the commit or after it.
#[test]
fn a_write_that_is_torn_is_a_commit_or_none() {
    let scratch = Scratch::new();
    let (mut expected, mut numbers) = (Rows::new(), Numbers(7));
    let file = scratch.open().unwrap();
    let synced = Arc::new(Mutex::new(Vec::new()));
    let watched = Watched { file: file.clone(), path: scratch.path(), synced: Arc::clone(&synced) };
    let database = Database::builder().create_with_backend(watched).unwrap();
    change(&database, &mut expected, &mut numbers);
    let (mut before, mut as_before, mut as_after) = (scratch.bytes(), 0, 0);
    for step in 0..80 {
        let old = expected.clone();
        synced.lock().unwrap().clear();
        if step % 2 == 0 {
            change(&database, &mut expected, &mut numbers);
        } else {
            file.tidy().unwrap();
        }
        let mut states = std::mem::take(&mut *synced.lock().unwrap());
        states.push(scratch.bytes());
        for after in states {
            for attempt in 0..6 {
                let found = Scratch::of(&torn(&before, &after, &mut numbers)).rows();
                let found = found.unwrap_or_else(|error| panic!("{step}, {attempt}: {error}"));
                assert!(found == old || found == expected, "{step}, {attempt}: neither before nor after");
                as_before += u32::from(found == old);
                as_after += u32::from(found == expected);
            }
            before = after;
        }
    }
    println!("torn writes: {as_before} are as before, {as_after} as after");
    assert!(as_before > 100 && as_after > 100);
}

#[test]
fn a_journal_that_is_damaged_is_not_taken_for_a_shorter_one() {
    let scratch = Scratch::new();
    let file = scratch.open().unwrap();
    let database = Database::builder().create_with_backend(file.clone()).unwrap();
    let mut states = Vec::new();
    let mut frames = Vec::new();
    for key in 0..3_u64 {
        frames.push(file.tail().taken);
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TABLE).unwrap().insert(key, &[1, 2, 3][..]).unwrap();
        transaction.commit().unwrap();
        states.push(rows(&database));
    }
    let (whole, taken) = (scratch.bytes(), file.tail().taken);
    let [.., before_last, last] = frames.as_slice() else { panic!() };
    assert_eq!(Scratch::of(&whole).rows().unwrap(), states[2]);
    let (mut refused, mut shorter) = (0, 0);
    // Every byte of both slots, and of headers, numbers and blocks of the frames by steps.
    let slots = (0..64).chain(BLOCK..BLOCK + 64);
    let journal = at(SLOTS) as usize..at(SLOTS + taken) as usize;
    for flipped in slots.chain(journal.step_by(509)) {
        let mut bytes = whole.clone();
        bytes[flipped] ^= 0x10;
        let block = (flipped / BLOCK) as u64;
        let in_slot = block < SLOTS && flipped % BLOCK < 56;
        let found = Scratch::of(&bytes).rows();
        if block < SLOTS && !in_slot {
            assert_eq!(found.unwrap(), states[2], "{flipped}");
        } else if in_slot || block - SLOTS < *last {
            let why = found.unwrap_err();
            assert!(why.contains("damaged") && why.contains("copy"), "{flipped}: {why}");
            refused += 1;
        } else {
            // The last frame alone looks as if it had been cut short while it was written.
            assert_eq!(found.unwrap(), states[1], "{flipped}");
            shorter += 1;
        }
    }
    assert!(refused > 100 && shorter > 10 && before_last < last, "{refused} {shorter}");
}

/// What an agent writes lies in the journal. If it looks like a frame it is still not one.
#[test]
fn a_frame_in_old_bytes_is_none() {
    let scratch = Scratch::new();
    let file = scratch.open().unwrap();
    let database = Database::builder().create_with_backend(file.clone()).unwrap();
    let mut expected = Rows::new();
    change(&database, &mut expected, &mut Numbers(3));
    let length = file.pages().length;
    let (slot, next, taken) = {
        let tail = file.tail();
        (tail.slot, tail.frame, tail.taken)
    };
    let bytes = scratch.bytes();
    let put = |slot: &Slot| {
        let mut bytes = bytes.clone();
        let mut frame = Vec::new();
        let block = [0xee; BLOCK];
        Frame::encode(&mut frame, slot, next, length, [(0, &block[..])].into_iter());
        let start = at(SLOTS + taken) as usize;
        bytes[start..start + frame.len()].copy_from_slice(&frame);
        Scratch::of(&bytes)
    };
    // With the salt it would count; the salt was drawn after the bytes were written.
    assert!(put(&slot).rows().is_err());
    let guessed = Slot { salt: [0x55; 16], ..slot };
    assert_eq!(put(&guessed).rows().unwrap(), expected);
}

#[test]
fn what_is_no_store_is_refused_and_one_in_use_is_not_opened_twice() {
    let scratch = Scratch::new();
    let file = scratch.open().unwrap();
    let again = OpenOptions::new().read(true).write(true).open(scratch.path()).unwrap();
    assert!(JournaledFile::open(again).unwrap().is_none());
    drop(file);
    let whole = scratch.bytes();
    for cut in [0, 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, whole.len() - 1] {
        let error = Scratch::of(&whole[..cut]).open().unwrap_err();
        assert!(error.to_string().contains("cut short"), "{cut}: {error}");
    }
    let error = Scratch::of(&vec![7; whole.len()]).open().unwrap_err();
    assert!(error.to_string().contains("this version"), "{error}");
}

#[test]
fn a_database_that_was_longer_is_zeros_when_it_grows_again() {
    let scratch = Scratch::new();
    let file = scratch.open().unwrap();
    let block = |number: u64| {
        let mut bytes = [9; BLOCK];
        file.read(at(number), &mut bytes).unwrap();
        bytes
    };
    file.set_len(at(8)).unwrap();
    file.write(at(2) + 100, &[1; 3 * BLOCK]).unwrap();
    assert!(
        block(2)[..100] == [0; 100] && block(2)[100..] == [1; BLOCK - 100] && block(5)[99..101] == [1, 0]
    );
    file.sync_data().unwrap();
    file.close().unwrap();
    // In their place now; shorter and longer again, they are gone.
    assert_eq!(block(3), [1; BLOCK]);
    file.set_len(at(3)).unwrap();
    assert!(file.read(at(3), &mut [0]).is_err());
    file.set_len(at(10)).unwrap();
    assert!(block(3) == [0; BLOCK] && block(9) == [0; BLOCK] && block(2)[100] == 1);
    file.sync_data().unwrap();
    let bytes = scratch.bytes();
    let killed = Scratch::of(&bytes);
    let other = killed.open().unwrap();
    let mut found = [9; BLOCK];
    other.read(at(4), &mut found).unwrap();
    assert_eq!((other.len().unwrap(), found), (at(10), [0; BLOCK]));
}
