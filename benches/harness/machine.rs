//! The machine and its processes, as Linux tells of them in `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::AnyError;

/// Clock ticks a second in `/proc/*/stat`: fixed by Linux's ABI on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Version of the operating system's kernel.
    pub kernel: String,
    /// Load average of the last minute, before the measurement.
    pub load: f64,
    /// Kind of file system below the scratch directory.
    pub filesystem: String,
    /// Median time of a 4 KiB append and fdatasync there, in microseconds.
    pub fsync_us: u64,
    /// How the code was compiled.
    pub profile: &'static str,
}

impl Machine {
    /// Looks at this machine, and at the disk below `dir`.
    ///
    /// # Errors
    /// When `/proc` cannot be read or `dir` not be written to.
    pub fn look(dir: &Path) -> Result<Self, AnyError> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: memory_kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            filesystem: filesystem(dir)?,
            fsync_us: fsync_us(dir)?,
            profile: profile(),
        })
    }
}

/// How the code was compiled.
#[must_use]
pub const fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev: opt-level 3, overflow checks in Sift's own crates"
    } else {
        "optimised, without overflow checks and debug assertions"
    }
}

fn filesystem(dir: &Path) -> Result<String, AnyError> {
    let dir = dir.canonicalize()?;
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    Ok(mounts.max().map_or_else(|| "unknown".to_owned(), |(_, kind)| kind))
}

fn fsync_us(dir: &Path) -> Result<u64, AnyError> {
    use std::io::Write as _;
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..64 {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_micros() as u64);
    }
    times.sort_unstable();
    Ok(crate::percentile(&times, 0.5))
}

/// Processor time of a process by the names of its threads.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CpuTime {
    /// Seconds, user and system together, of threads that live.
    pub threads: BTreeMap<String, f64>,
    /// Seconds in all.
    pub seconds: f64,
}

impl CpuTime {
    /// Processor time of a process so far.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self, AnyError> {
        let mut threads: BTreeMap<String, f64> = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may have ended since.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            let Some((name, seconds)) = parse_stat(&stat) else { continue };
            let name = name.trim_end_matches(|last: char| last.is_ascii_digit() || last == '-');
            *threads.entry(name.to_owned()).or_default() += seconds;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, seconds) = parse_stat(&stat).ok_or("/proc/*/stat is not understood")?;
        Ok(Self { threads, seconds })
    }

    /// What was used since an earlier look; threads that used nothing are left out.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let used = self.threads.iter().map(|(name, seconds)| {
            (name.clone(), seconds - before.threads.get(name).copied().unwrap_or(0.0))
        });
        Self {
            threads: used.filter(|(_, used)| *used > 0.0).collect(),
            seconds: self.seconds - before.seconds,
        }
    }

    /// The threads, the busiest first: `sequencer 1.20 s, ...`.
    #[must_use]
    pub fn by_thread(&self) -> String {
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_by(|a, b| b.1.total_cmp(a.1));
        let shown: Vec<String> = threads.iter().map(|(name, used)| format!("{name} {used:.2} s")).collect();
        shown.join(", ")
    }
}

/// Name and seconds of user and system time from a line of `/proc/*/stat`.
fn parse_stat(stat: &str) -> Option<(&str, f64)> {
    // The name may hold anything, so it ends at the last parenthesis.
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((name, (ticks()? + ticks()?) / TICKS_PER_SECOND))
}

/// What other programs, or other guests of the host, take of the processors meanwhile.
#[derive(Debug)]
pub struct Others {
    start: Instant,
    busy: f64,
    own: f64,
}

impl Others {
    /// Starts to watch.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn watch() -> Result<Self, AnyError> {
        Ok(Self { start: Instant::now(), busy: busy()?, own: own()? })
    }

    /// Share of all processors that went to anything but this process and those of its children that have ended.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn share(&self) -> Result<f64, AnyError> {
        let cores = std::thread::available_parallelism()?.get() as f64;
        let foreign = (busy()? - self.busy) - (own()? - self.own);
        Ok((foreign / cores / self.start.elapsed().as_secs_f64()).max(0.0))
    }
}

/// Seconds in which any processor was not idle, stolen ones included.
fn busy() -> Result<f64, AnyError> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user's.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks.as_slice() else {
        return Err("/proc/stat is not understood".into());
    };
    Ok((user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND)
}

/// Seconds of processor time of this process and of its children that have ended.
fn own() -> Result<f64, AnyError> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').skip(11).take(4);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND)
}

/// Memory of a process in MiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident_mib: u64,
    /// Most that was resident.
    pub peak_mib: u64,
}

impl Memory {
    /// Memory of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self, AnyError> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
        };
        Ok(Self { resident_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") })
    }
}

/// Runs `work` and tells how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn a_line_of_stat() {
        let line = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(parse_stat(line), Some(("a (b) c", 3.0)));
    }
}
