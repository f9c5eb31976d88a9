//! What a log is like at the moment: read when somebody asks, counted by nobody.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use rocksdb::properties;
use tokio::sync::mpsc::WeakSender;

use crate::routes::App;
use crate::sequencer::Message;
use crate::store::Store;
use crate::witness::WitnessLag;

/// The gauges of a log. They do not keep it alive.
#[derive(Debug, Default)]
pub(super) struct LogGauges {
    current: Mutex<Option<Current>>,
}

/// What answers at the moment, and the queue behind it.
#[derive(Debug, Clone)]
struct Current {
    app: Weak<App>,
    sequencer: WeakSender<Message>,
}

impl LogGauges {
    pub(super) fn look_at(&self, app: &Arc<App>, sequencer: WeakSender<Message>) {
        let current = Current { app: Arc::downgrade(app), sequencer };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }
}

/// The encoder with fewer words around it.
struct Gauges<'a>(DescriptorEncoder<'a>);

impl Gauges<'_> {
    fn tell(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Values of one name that differ in one label.
    fn tell_each<const N: usize>(
        &mut self,
        (name, help, unit): (&str, &str, Option<&Unit>),
        label: &str,
        values: [(&str, u64); N],
    ) -> fmt::Result {
        let mut told = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (of, value) in values {
            told.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

impl Collector for LogGauges {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Current { app, sequencer }) = current else { return Ok(()) };
        let Some(app) = app.upgrade() else { return Ok(()) };
        let mut gauges = Gauges(encoder);
        let load = app.load();
        gauges.tell_each(
            ("tree_size", "Entries in the tree.", None),
            "head",
            [("committed", load.committed.get()), ("published", load.published.get())],
        )?;
        let sequencer = sequencer.upgrade().map_or((0, 0), |queue| (queue.max_capacity(), queue.capacity()));
        let (admission, submissions) =
            (load.admission_waiting as u64, sequencer.0.saturating_sub(sequencer.1) as u64);
        gauges.tell_each(
            ("queue_requests", "Requests that wait in a queue.", None),
            "queue",
            [("admission", admission), ("sequencer", submissions)],
        )?;
        gauges.tell(
            "queue_requests_max",
            "Requests that a queue takes; more are answered with 429.",
            None,
            load.admission_max as u64,
        )?;
        gauges.tell(
            "request_bodies",
            "Memory that is set aside for bodies.",
            Some(&Unit::Bytes),
            load.body_bytes as u64,
        )?;
        gauges.tell(
            "evidence_packs_in_progress",
            "Evidence packs that are being made.",
            None,
            load.packs as u64,
        )?;
        let writing = !load.stopping && !load.disk_full;
        gauges.tell("writing", "1 while the log takes records.", None, u64::from(writing))?;
        let help = "Free space of the disk below the store.";
        gauges.tell("disk_free", help, Some(&Unit::Bytes), load.disk_free_bytes)?;
        if let Some(payloads) = &app.protection.payloads {
            let (bytes, [old, erased]) = payloads.told();
            let help = "Bytes of payload objects, those that are arriving included.";
            gauges.tell("payload_objects", help, Some(&Unit::Bytes), bytes)?;
            gauges.tell_each(
                ("payloads_swept", "Payload objects deleted by sweeps since the start.", None),
                "because",
                [("old", old), ("erased", erased)],
            )?;
        }
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The program that runs; always 1.";
        let mut told = gauges.0.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        told.encode_family(&version)?.encode_gauge(&1_u64)?;
        witnesses(&mut gauges, &app.witness_lags())?;
        store(&mut gauges, app.store())
    }
}

/// How far each witness of the policy is behind; nothing where there are none.
fn witnesses(gauges: &mut Gauges<'_>, lags: &[WitnessLag]) -> fmt::Result {
    type Value = fn(&WitnessLag) -> u64;
    let each: [(&str, &str, Option<&Unit>, Value); 3] = [
        (
            "witness_behind_entries",
            "Entries of the newest committed tree that a witness has not cosigned.",
            None,
            |lag| lag.behind,
        ),
        (
            "witness_last_cosigned_timestamp",
            "When a witness cosigned last since the start, as Unix time; 0 for not yet.",
            Some(&Unit::Seconds),
            |lag| lag.last_success.map_or(0, |time| time.get() / 1000),
        ),
        (
            "witness_failures_since_cosigned",
            "Requests to a witness that failed since it cosigned last.",
            None,
            |lag| lag.failures,
        ),
    ];
    for (name, help, unit, value) in each.into_iter().filter(|_| !lags.is_empty()) {
        let mut told = gauges.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for lag in lags {
            told.encode_family(&[("witness", lag.name.as_str())])?.encode_gauge(&value(lag))?;
        }
    }
    Ok(())
}

/// What RocksDB and the disk say.
fn store(gauges: &mut Gauges<'_>, store: &Store) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    for (name, help, unit, property) in [
        (
            "store_memtables",
            "Memory of rows that are not yet in a file.",
            bytes,
            properties::CUR_SIZE_ALL_MEM_TABLES,
        ),
        (
            "store_table_readers",
            "Memory of indexes and filters outside the block cache.",
            bytes,
            properties::ESTIMATE_TABLE_READERS_MEM,
        ),
        (
            "store_pending_compaction",
            "Data that compaction still has to rewrite.",
            bytes,
            properties::ESTIMATE_PENDING_COMPACTION_BYTES,
        ),
        (
            "store_live_data",
            "Estimate of the data that is in force.",
            bytes,
            properties::ESTIMATE_LIVE_DATA_SIZE,
        ),
        ("store_tables", "Size of all table files.", bytes, properties::TOTAL_SST_FILES_SIZE),
    ] {
        gauges.tell(name, help, unit, store.property_sum(property))?;
    }
    // These are properties of the whole database: each column says the same.
    for (name, help, unit, property) in [
        ("store_block_cache", "Memory of the block cache.", bytes, properties::BLOCK_CACHE_USAGE),
        ("store_compactions_running", "Compactions that run.", None, properties::NUM_RUNNING_COMPACTIONS),
        ("store_flushes_running", "Flushes that run.", None, properties::NUM_RUNNING_FLUSHES),
        (
            "store_background_errors",
            "Errors of the database's own threads since it was opened.",
            None,
            properties::BACKGROUND_ERRORS,
        ),
        ("store_write_stopped", "1 while the database takes no writes.", None, properties::IS_WRITE_STOPPED),
        (
            "store_delayed_write_rate",
            "Bytes a second that writes are slowed down to; 0 for not at all.",
            None,
            properties::ACTUAL_DELAYED_WRITE_RATE,
        ),
    ] {
        gauges.tell(name, help, unit, store.property(property))?;
    }
    let (mut files, mut size) = (0_u64, 0_u64);
    for item in std::fs::read_dir(store.path()).into_iter().flatten().flatten() {
        // A file may go away between its listing and this.
        if let Ok(metadata) = item.metadata() {
            files += 1;
            size += metadata.len();
        }
    }
    gauges.tell("store_files", "Files in the store's folder.", None, files)?;
    gauges.tell("store", "Size of the files in the store's folder.", bytes, size)?;
    Ok(())
}
