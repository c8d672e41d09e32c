//! The little that the runner reads of `/proc`: who is whose child, and the numbers of `stat`.

use std::fs;

/// The line of `/proc/PID/stat`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The command name.
    pub comm: String,
    fields: Vec<String>,
}

impl Stat {
    /// Parses the text of a `stat` file.
    pub fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, comm) = before.split_once('(')?;
        Some(Self { comm: comm.to_owned(), fields: after.split_whitespace().map(str::to_owned).collect() })
    }

    /// A field by its number in proc_pid_stat(5); the state is number 3.
    pub fn field(&self, number: usize) -> &str {
        number.checked_sub(3).and_then(|index| self.fields.get(index)).map_or("", String::as_str)
    }

    /// The state letter.
    pub fn state(&self) -> &str {
        self.field(3)
    }

    /// The parent's process id.
    pub fn ppid(&self) -> i32 {
        self.field(4).parse().unwrap_or(0)
    }

    /// When the process started, in clock ticks since boot: tells a process from a later one with the same id.
    pub fn start_time(&self) -> &str {
        self.field(22)
    }
}

/// This process.
pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Reads `stat` of a process; nothing if it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    Stat::parse(&text(&format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a text in which names of processes may stand, which need not be UTF-8.
pub fn text(path: &str) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// All descendants of a process, sorted, zombies included.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for item in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = item.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            && let Some(stat) = stat(pid)
        {
            parents.push((pid, stat.ppid()));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, ppid)| *ppid == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_may_hold_anything() {
        let stat = Stat::parse("7 (a) b (c) S 1 7 7 0 -1").unwrap();
        assert_eq!(stat.comm, "a) b (c");
        assert_eq!(stat.state(), "S");
        assert_eq!(stat.ppid(), 1);
        assert_eq!(stat.field(60), "");
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        assert!(descendants(own_pid()).contains(&(child.id() as i32)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
