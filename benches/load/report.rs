//! What `sift-load` prints.

use serde::Serialize;
use sift_benches::load::{Latency, Plan, Sent};
use sift_benches::machine::{CpuTime, Machine, Memory, profile};
use sift_benches::reads;

#[derive(Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) what: What,
    /// The log's, before anything was sent or read.
    pub(crate) memory_before: Option<Memory>,
    pub(crate) machine: Machine,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum What {
    Write { plan: Plan, sent: Sent },
    Read { plan: reads::Plan, done: reads::Done },
}

impl Outcome {
    pub(crate) fn print(&self) {
        let machine = &self.machine;
        println!("{}, {} cores; {}", machine.cpu, machine.cores, profile());
        println!(
            "{} on {}, 4 KiB fdatasync {} us; load average before {:.2}",
            machine.kernel, machine.filesystem, machine.fsync_us, machine.load
        );
        println!();
        match &self.what {
            What::Write { plan, sent } => self.print_sent(plan, sent),
            What::Read { plan, done } => self.print_done(plan, done),
        }
    }

    fn print_sent(&self, plan: &Plan, sent: &Sent) {
        println!(
            "records    {:>12}   of {:.0} bytes, {} a request",
            sent.records, sent.entry_bytes, plan.batch
        );
        println!("seconds    {:>12.3}   over {} connections", sent.seconds, plan.connections);
        println!("rate       {:>12.0}   records/s", sent.rate);
        print_latency(&sent.latency_us, sent.generator_late_us.as_ref(), "proof");
        println!("verified   {:>12}   answers: checkpoint signature and inclusion", sent.verified);
        self.print_costs(sent.log_cpu.as_ref(), sent.log_memory, &sent.load_cpu, sent.records);
    }

    fn print_done(&self, plan: &reads::Plan, done: &reads::Done) {
        let asked: Vec<&str> = plan.asks.iter().map(|ask| ask.name()).collect();
        println!("requests   {:>12}   {}", done.requests, asked.join(", "));
        println!("tree       {:>12}   entries; random numbers from seed {}", done.size, plan.seed);
        println!("seconds    {:>12.3}   over {} connections", done.seconds, plan.connections);
        println!("rate       {:>12.0}   requests/s", done.rate);
        let mib = done.body_bytes as f64 / f64::from(1 << 20);
        println!("           {:>12.0}   MiB/s in bodies of answers", mib / done.seconds);
        print_latency(&done.latency_us, done.generator_late_us.as_ref(), "answer");
        println!("verified   {:>12}   answers, down to a leaf under the signed checkpoint", done.verified);
        self.print_costs(done.log_cpu.as_ref(), done.log_memory, &done.load_cpu, done.requests);
    }

    fn print_costs(&self, cpu: Option<&CpuTime>, memory: Option<Memory>, load: &CpuTime, count: u64) {
        let each = |seconds: f64| 1e6 * seconds / count.max(1) as f64;
        if let (Some(cpu), Some(memory)) = (cpu, memory) {
            let before = self.memory_before.map_or(0, |before| before.resident_mib);
            println!(
                "log        {:>12.2}   us of processor time each ({})",
                each(cpu.seconds),
                cpu.by_thread()
            );
            println!(
                "           {:>12}   MiB resident ({before} before, {} at most)",
                memory.resident_mib, memory.peak_mib
            );
        }
        println!("generator  {:>12.2}   us of processor time each", each(load.seconds));
    }
}

fn print_latency(latency: &Latency, late: Option<&Latency>, what: &str) {
    let ms = |us: u64| us as f64 / 1000.0;
    println!("p50        {:>12.3}   ms from request to {what}", ms(latency.p50));
    println!("p99        {:>12.3}   ms", ms(latency.p99));
    println!("p99.9      {:>12.3}   ms", ms(latency.p999));
    println!("max        {:>12.3}   ms", ms(latency.max));
    if let Some(late) = late {
        println!("late       {:>12.3}   ms that the generator itself delayed, p99", ms(late.p99));
    }
}
