//! What the operating system knows of this process, where it has `/proc`, under the names that every exporter uses.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::NoLabels;

/// Clock ticks in a second, as `/proc` counts them: 100 on every Linux that this program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Numbers of this process.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    started: SystemTime,
}

impl Default for ProcessMetrics {
    fn default() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory of the process.";
            let unit = Some(&Unit::Bytes);
            encoder
                .encode_descriptor("process_resident_memory", help, unit, MetricType::Gauge)?
                .encode_gauge(&bytes)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let help = "Open file descriptors.";
            encoder
                .encode_descriptor("process_open_fds", help, None, MetricType::Gauge)?
                .encode_gauge(&(open.count() as u64))?;
        }
        if let Some(max) = fds_max() {
            let help = "File descriptors that the process may open.";
            encoder
                .encode_descriptor("process_max_fds", help, None, MetricType::Gauge)?
                .encode_gauge(&max)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let help = "User and system time that the process took.";
            encoder
                .encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?
                .encode_counter::<NoLabels, _, f64>(&seconds, None)?;
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let help = "When the log was opened, since 1970.";
        encoder
            .encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&started)
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn fds_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; user and system time are the
    // twelfth and thirteenth after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_all_of_it() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(fds_max().is_some_and(|max| max > 10));
        assert!(cpu_seconds().is_some_and(|seconds| seconds < 1e6));
    }
}
