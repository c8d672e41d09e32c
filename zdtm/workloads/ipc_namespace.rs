//! Tunables of System V IPC and of POSIX message queues are those that were set.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// Files below `/proc/sys`, and what is written to each.
const TUNABLES: [(&str, &str); 13] = [
    ("kernel/sem", "123 45678 90 111"),
    ("kernel/msgmax", "4321"),
    ("kernel/msgmnb", "9876"),
    ("kernel/msgmni", "222"),
    ("kernel/shmmax", "123456789"),
    ("kernel/shmall", "98765"),
    ("kernel/shmmni", "333"),
    ("kernel/shm_rmid_forced", "1"),
    ("fs/mqueue/queues_max", "77"),
    ("fs/mqueue/msg_max", "33"),
    ("fs/mqueue/msgsize_max", "4096"),
    ("fs/mqueue/msg_default", "5"),
    ("fs/mqueue/msgsize_default", "1024"),
];

fn read(name: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(format!("/proc/sys/{name}"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    for (name, value) in TUNABLES {
        fs::write(format!("/proc/sys/{name}"), value)?;
        ensure_eq!(read(name)?, value, format!("{name} before the dump"));
    }
    cx.barrier()?;
    for (name, value) in TUNABLES {
        ensure_eq!(read(name)?, value, name);
    }
    Ok(())
}
