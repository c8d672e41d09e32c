//! Facts of tasks: identity, credentials, signals, limits, scheduling.

use std::fs;

use anyhow::{Context as _, Result};

use super::Facts;
use crate::procfs::{self, Stat};

/// Fields of proc_pid_stat(5) that belong to the process. Left out: all times and counters, the kernel's flags and
/// stack pointers, and the processor, because they change by themselves.
const STAT: &[(usize, &str)] = &[
    (5, "process group"),
    (6, "session"),
    (7, "terminal"),
    (20, "thread count"),
    (38, "exit signal"),
    (52, "exit code"),
];

/// Fields of proc_pid_stat(5) that bound the parts of the program.
const BOUNDS: &[(usize, &str)] = &[
    (26, "start_code"),
    (27, "end_code"),
    (28, "start_stack"),
    (45, "start_data"),
    (46, "end_data"),
    (47, "start_brk"),
    (48, "arg_start"),
    (49, "arg_end"),
    (50, "env_start"),
    (51, "env_end"),
];

/// Of these, what a zombie still has.
const ZOMBIE_STAT: &[usize] = &[5, 6, 7, 38, 52];

/// Fields that belong to each thread.
const THREAD_STAT: &[(usize, &str)] = &[(19, "nice"), (40, "real-time priority"), (41, "scheduling policy")];

/// Lines of `status`. Left out: sizes of memory and counters, `SigQ` (counts for the whole user), masks of memory nodes.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "THP_enabled",
    "Cpus_allowed",
];

/// Files that are compared as text.
const TEXTS: &[&str] = &[
    "cmdline",
    "environ",
    "cgroup",
    "coredump_filter",
    "loginuid",
    "oom_score_adj",
    "personality",
    "timers",
    "timerslack_ns",
];

const LINKS: &[&str] = &["exe", "cwd", "root"];

/// Adds what belongs to the process as a whole.
pub(super) fn process(facts: &mut Facts, pid: i32, root: i32, stat: &Stat) -> Result<()> {
    let is_zombie = stat.state() == "Z";
    let state = match stat.state() {
        "Z" => "zombie",
        "T" => "stopped",
        "t" => "traced",
        // Running and sleeping alternate.
        _ => "runs",
    };
    facts.add(format!("task {pid} state"), state);
    facts.add(format!("task {pid} comm"), &*stat.comm);
    // The root's parent is the runner.
    if pid != root {
        facts.add(format!("task {pid} parent"), stat.ppid().to_string());
    }
    for (number, name) in STAT.iter().filter(|(number, _)| !is_zombie || ZOMBIE_STAT.contains(number)) {
        facts.add(format!("task {pid} {name}"), stat.field(*number));
    }
    if is_zombie {
        return Ok(());
    }
    for (number, name) in BOUNDS {
        let address: u64 = stat.field(*number).parse().unwrap_or(0);
        facts.add(format!("task {pid} {name}"), format!("{address:#x}"));
    }
    // Pairs of a type and a value, in words of 8 bytes (getauxval(3)).
    for pair in fs::read(format!("/proc/{pid}/auxv")).context("auxv")?.chunks_exact(16) {
        let word = |at: usize| {
            pair[at..].iter().take(8).rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
        };
        facts.add(format!("task {pid} auxv {}", word(0)), format!("{:#x}", word(8)));
    }
    for name in TEXTS {
        // Not every kernel has every file.
        if let Ok(bytes) = fs::read(format!("/proc/{pid}/{name}")) {
            let mut text = String::from_utf8_lossy(&bytes).replace('\0', " ");
            if *name == "timers" {
                text = by_id(&text);
            }
            if *name == "cgroup" {
                text = below_roots(&text);
            }
            facts.add(format!("task {pid} {name}"), text.trim_end());
        }
    }
    for name in LINKS {
        let link = fs::read_link(format!("/proc/{pid}/{name}")).with_context(|| (*name).to_owned())?;
        facts.add(format!("task {pid} {name}"), link.to_string_lossy());
    }
    for item in fs::read_dir(format!("/proc/{pid}/ns"))? {
        let item = item?;
        let name = item.file_name();
        let link = match fs::read_link(item.path()) {
            // A pid namespace that nobody was born in yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "empty".into(),
            link => link?,
        };
        let is_ours =
            fs::read_link(std::path::Path::new("/proc/self/ns").join(&name)).is_ok_and(|ours| ours == link);
        let link = link.to_string_lossy();
        // One of the target's own is another one after a restore.
        let link = if is_ours { link.into_owned() } else { facts.link(&link) };
        facts.add(format!("task {pid} namespace {}", name.to_string_lossy()), link);
    }
    for line in fs::read_to_string(format!("/proc/{pid}/limits"))?.lines().skip(1) {
        // Names hold spaces, the columns are padded to at least 25 characters (fs/proc/base.c).
        let (name, values) = line.split_at_checked(25).unwrap_or((line, ""));
        let values: Vec<&str> = values.split_whitespace().collect();
        facts.add(format!("task {pid} limit {}", name.trim()), values.join(" "));
    }
    Ok(())
}

/// Lines of `/proc/PID/cgroup` but those of roots: all tasks are there in a hierarchy that somebody mounts meanwhile.
fn below_roots(text: &str) -> String {
    text.lines().filter(|line| !line.ends_with(":/")).collect::<Vec<_>>().join("\n")
}

/// The timers of `/proc/PID/timers` by their ids: the kernel lists the youngest first, which no program can ask for.
fn by_id(text: &str) -> String {
    let mut timers: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match timers.last_mut() {
            Some(timer) if !line.starts_with("ID: ") => timer.push(line),
            _ => timers.push(vec![line]),
        }
    }
    timers.sort_unstable_by_key(|timer| timer[0].strip_prefix("ID: ").and_then(|id| id.parse::<i32>().ok()));
    timers.concat().join("\n")
}

/// A set of signals as `status` has it.
fn signals(mask: &str) -> u64 {
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0)
}

/// Adds what belongs to each thread; with `all` unset, only to the leader.
pub(super) fn threads(facts: &mut Facts, pid: i32, all: bool) -> Result<()> {
    for item in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = item?.file_name();
        let tid = name.to_string_lossy();
        if !all && *tid != *pid.to_string() {
            continue;
        }
        let base = format!("/proc/{pid}/task/{tid}");
        let stat = procfs::text(&format!("{base}/stat")).with_context(|| format!("thread {tid}"))?;
        let stat = Stat::parse(&stat).with_context(|| format!("thread {tid}"))?;
        for (number, name) in THREAD_STAT {
            facts.add(format!("task {pid} thread {tid} {name}"), stat.field(*number));
        }
        let status = procfs::text(&format!("{base}/status"))?;
        let lines = || status.lines().filter_map(|line| line.split_once(':'));
        let blocked = lines().find_map(|(key, mask)| (key == "SigBlk").then(|| signals(mask))).unwrap_or(0);
        let is_stopped = matches!(stat.state(), "T" | "t");
        for (key, text) in lines().filter(|(key, _)| STATUS.contains(key)) {
            let name = format!("task {pid} thread {tid} {key}");
            if key.ends_with("Pnd") && !is_stopped {
                // A signal that is not blocked is on its way: it is pending for a moment.
                facts.add(name, format!("{:016x}", signals(text) & blocked));
            } else {
                facts.add(name, text.trim());
            }
        }
    }
    Ok(())
}
