//! What the kernel says about a process: its memory, its children, its CPU time.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Pid;

/// One process's memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// Not backed by a file: heap and stacks. What a subscriber really costs.
    pub anonymous: u64,
    /// The share of what is used by several processes.
    pub proportional: u64,
}

/// The memory of `pid`, or nothing when it has gone.
#[must_use]
pub fn memory(pid: Pid) -> Option<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_pid())).ok()?;
    let field = |name: &str| 1024 * number_after(&text, name).unwrap_or(0);
    Some(Memory {
        resident: field("Rss:"),
        anonymous: field("Anonymous:"),
        proportional: field("Pss:"),
    })
}

/// User and system time of `pid`, its threads and reaped children.
#[must_use]
pub fn cpu_time(pid: Pid) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The name, in parentheses, may hold anything; fields are counted from its end.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u64 = fields
        .get(11..15)?
        .iter()
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(Duration::from_millis(ticks * 10))
}

/// `root` and everything below it now.
#[must_use]
pub fn family(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root.as_raw_pid()];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let below = children.remove(pid).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// The load average of the last minute: what else was running.
#[must_use]
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The processor's name and how many there are.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(": ")
            .map(|(_, name)| name.to_owned())
    });
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = number_after(&memory, "MemTotal:").unwrap_or(0) >> 20;
    format!(
        "{cores} cores ({}), {gib} GiB",
        model.unwrap_or_else(|| "unknown processor".to_owned())
    )
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let after = &text[text.find(name)? + name.len()..];
    after
        .trim_start()
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let me = rustix::process::getpid();
        let memory = memory(me).unwrap();
        assert!(memory.resident >= memory.anonymous && memory.anonymous > 0);
        assert!(cpu_time(me).is_some());
        assert_eq!(family(me)[0], me);
        assert!(family(rustix::process::getppid().unwrap()).contains(&me));
    }
}
