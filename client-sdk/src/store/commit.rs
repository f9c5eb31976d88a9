//! A batch becomes durable.

use std::collections::BTreeMap;

use redb::{ReadableTable as _, WriteTransaction};
use sift_spec::types::LeafIndex;

use super::{
    Batch, CLOSED, LIVE, META, NONE, OPERATOR, QUEUE, RECEIPTS, RECORD, RECORDS, Row, Store, StoreError, key,
    position_of,
};
use crate::failpoint;

impl Store {
    /// Makes everything in `batch` durable, or nothing of it. [`Store::tidy`] is for when it is answered.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if failpoint::hit(failpoint::COMMIT_FAILS) {
            return Err(self.error("the commit was made to fail by SIFT_FAILPOINT"));
        }
        // Tables that do not change are not opened: that alone costs.
        self.transact(|transaction| {
            put_records(transaction, batch)?;
            if !batch.logged.is_empty() {
                put_logged(transaction, &batch.logged.iter().copied().collect())?;
            }
            if !batch.operator.is_empty() {
                put_operator(transaction, batch)?;
            }
            if batch.states_more() {
                put_meta(transaction, batch)?;
            }
            Ok(())
        })
    }
}

/// New records and their objects, and where runs end.
fn put_records(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut last = BTreeMap::new();
    for record in &batch.records {
        let before = record.before.unwrap_or(NONE).to_le_bytes();
        let row = [&before, &record.run.as_bytes()[..], &record.entry].concat();
        records.insert((record.position, RECORD), row.as_slice())?;
        last.insert(record.run, record.position);
    }
    let mut place = (NONE, RECORD);
    for (position, object) in &batch.objects {
        place = (*position, if place.0 == *position { place.1 + 1 } else { RECORD + 1 });
        records.insert(place, object.as_bytes())?;
    }
    if last.is_empty() && batch.closed.is_empty() {
        return Ok(());
    }
    let mut live = transaction.open_table(LIVE)?;
    for (run, position) in &last {
        live.insert(run.as_bytes(), position)?;
    }
    if !batch.closed.is_empty() {
        let mut closed = transaction.open_table(CLOSED)?;
        for run in &batch.closed {
            let position = live.remove(run.as_bytes())?.map_or(NONE, |position| position.value());
            closed.insert(run.as_bytes(), position)?;
        }
    }
    Ok(())
}

/// Positions that are in the log. Those below the last of them that are not, and were not queued, are from now on.
fn put_logged(transaction: &WriteTransaction, logged: &BTreeMap<u64, LeafIndex>) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let queued = meta.get(key::QUEUED)?.and_then(|value| position_of(value.value())).unwrap_or_default();
    let next = logged.last_key_value().map_or(0, |(position, _)| position + 1).max(queued);
    let mut receipts = transaction.open_table(RECEIPTS)?;
    for (position, leaf) in logged {
        receipts.insert(position, leaf.get())?;
    }
    let records = transaction.open_table(RECORDS)?;
    let mut queue = transaction.open_table(QUEUE)?;
    for position in logged.range(..queued).map(|(position, _)| position) {
        queue.remove(position)?;
    }
    for position in (queued..next).filter(|position| !logged.contains_key(position)) {
        if let Some(row) = records.get((position, RECORD))? {
            queue.insert(position, &Row::of(row.value()).run)?;
        }
    }
    meta.insert(key::QUEUED, &next.to_be_bytes()[..])?;
    Ok(())
}

/// Records of the operator. One that is there is never replaced: what was proven stays.
fn put_operator(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut operator = transaction.open_table(OPERATOR)?;
    for record in &batch.operator {
        if operator.get(record.seq.get())?.is_none() {
            let row = [&record.index.get().to_be_bytes()[..], &record.entry].concat();
            operator.insert(record.seq.get(), row.as_slice())?;
        }
    }
    Ok(())
}

/// What is kept by name.
fn put_meta(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    if let Some(checkpoint) = &batch.checkpoint {
        meta.insert(key::CHECKPOINT, checkpoint.as_bytes())?;
        meta.remove(key::SHOWN)?;
    }
    if let Some(shown) = &batch.shown {
        meta.insert(key::SHOWN, shown.as_bytes())?;
    }
    if let Some(fork) = &batch.fork {
        // A fork of three strings always has JSON.
        let json = serde_json::to_vec(fork).unwrap_or_default();
        meta.insert(key::FORK, json.as_slice())?;
    }
    if let Some((position, ledger)) = &batch.ledger {
        meta.insert(key::LEDGER, ledger.as_slice())?;
        meta.insert(key::LEDGER_POSITION, &position.to_be_bytes()[..])?;
    }
    Ok(())
}
