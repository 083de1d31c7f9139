//! The process's own metrics, read from `/proc/self` at each scrape (`proc_pid_stat(5)`).
//!
//! What cannot be read is left out. The names are those every Prometheus client uses.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// `USER_HZ`: the unit of times in `/proc`, 100 on every Linux outboxd runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc/self/stat` and `/proc/self/status` say.
#[derive(Debug, Default, PartialEq)]
struct Sample {
    cpu_seconds: Option<f64>,
    /// After boot.
    started_seconds: Option<f64>,
    threads: Option<i64>,
    resident_bytes: Option<i64>,
}

impl Sample {
    fn read(stat: &str, status: &str) -> Self {
        // The second field is the command in parentheses and may hold anything, so count from the last one.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect());
        // Field n of the manual is here at n - 3: 14 utime, 15 stime, 20 threads, 22 starttime.
        let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<i64>().ok());
        #[expect(clippy::cast_precision_loss, reason = "ticks since boot fit a float for millennia")]
        let seconds = |ticks: i64| ticks as f64 / TICKS_PER_SECOND;
        Self {
            cpu_seconds: number(14).zip(number(15)).map(|(user, system)| seconds(user + system)),
            started_seconds: number(22).map(seconds),
            threads: number(20),
            resident_bytes: line(status, "VmRSS:").map(|kilobytes| kilobytes * 1024),
        }
    }
}

fn line(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn gauge_i64(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: Option<i64>) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sample = Sample::read(&read("/proc/self/stat"), &read("/proc/self/status"));
        if let Some(seconds) = sample.cpu_seconds {
            let help = "CPU time used, user and system";
            let family = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(family)?;
        }
        let booted = line(&read("/proc/stat"), "btime ");
        if let Some((booted, started)) = booted.zip(sample.started_seconds) {
            let help = "Start of the process, seconds since the epoch";
            let family = encoder.encode_descriptor("process_start_time_seconds", help, None, MetricType::Gauge)?;
            #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch fit a float")]
            ConstGauge::new(booted as f64 + started).encode(family)?;
        }
        let open = std::fs::read_dir("/proc/self/fd")
            .ok()
            .and_then(|list| i64::try_from(list.count()).ok());
        gauge_i64(
            &mut encoder,
            "process_resident_memory_bytes",
            "Memory in RAM",
            sample.resident_bytes,
        )?;
        gauge_i64(&mut encoder, "process_threads", "Threads", sample.threads)?;
        gauge_i64(&mut encoder, "process_open_fds", "Open file descriptors", open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_shifts_nothing() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 12345 1 2";
        let sample = Sample::read(stat, "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t9\n");
        assert_eq!(
            sample,
            Sample {
                cpu_seconds: Some(3.0),
                started_seconds: Some(123.45),
                threads: Some(9),
                resident_bytes: Some(2 << 20)
            }
        );
        assert_eq!(Sample::read("", ""), Sample::default());
    }
}
