//! Freezers that somebody names, and control groups that are gone.
#![cfg(test)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use targets::{STASIS, alone, is_root, wait_for};

mod targets;

/// A hierarchy: where it is, how its groups are frozen, and what says that one is.
struct Freezer {
    dir: &'static str,
    file: &'static str,
    words: [&'static str; 2],
    state: (&'static str, &'static str),
}

const FREEZERS: [Freezer; 2] = [
    Freezer {
        dir: "/sys/fs/cgroup/freezer",
        file: "freezer.state",
        words: ["THAWED", "FROZEN"],
        state: ("freezer.state", "FROZEN\n"),
    },
    Freezer {
        dir: "/sys/fs/cgroup/unified",
        file: "cgroup.freeze",
        words: ["0", "1"],
        state: ("cgroup.events", "frozen 1\n"),
    },
];

impl Freezer {
    fn is_here(&self) -> bool {
        Path::new(self.dir).join("cgroup.procs").exists()
    }
}

/// A group, which ends with this, with all who are in it.
struct Group<'a>(&'a Freezer, PathBuf);

impl<'a> Group<'a> {
    fn make(freezer: &'a Freezer, name: &str) -> Self {
        let dir = Path::new(freezer.dir).join(format!("stasis-test-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(freezer, dir)
    }

    fn freeze(&self, frozen: bool) {
        fs::write(self.1.join(self.0.file), self.0.words[usize::from(frozen)]).unwrap();
        wait_for(|| self.is_frozen() == frozen, "the group is frozen or thawed");
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.1.join(self.0.state.0)).unwrap().contains(self.0.state.1)
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.1.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn path(&self) -> &str {
        self.1.to_str().unwrap()
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _gone_already =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        if self.1.exists() {
            self.freeze(false);
            wait_for(|| self.pids().is_empty(), "everybody has left the group");
            fs::remove_dir(&self.1).unwrap();
        }
    }
}

/// A shell that counts into the file `count`, in a group, and runs a command each time. One that starts others leaves orphans to
/// somebody who may take his time to reap them.
struct Target<'a>(Child, &'a Group<'a>);

impl<'a> Target<'a> {
    fn start(dir: &Path, group: &'a Group<'a>, each_time: &str) -> Self {
        let script = format!(
            "echo $$ >{}/cgroup.procs; i=0; while :; do i=$((i+1)); echo $i >count; {each_time}; done",
            group.path()
        );
        let mut command = Command::new("sh");
        let command = command.args(["-c", &script]).current_dir(dir);
        let target = Self(alone(command).spawn().unwrap(), group);
        wait_for(|| count(dir) > 0, "the target counts");
        target
    }

    fn dump(&self, dir: &Path, args: &[&str]) -> Output {
        let tree = self.0.id().to_string();
        let mut command = Command::new(STASIS);
        command.args(["dump", "-t", &tree, "-v4", "-o", "log", "-D"]).arg(dir).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Waits for the end of the process, so that its number is free.
    fn reap(mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        // Nobody ends while he is frozen.
        self.1.freeze(false);
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _gone_already = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _reaped_already = self.0.wait();
    }
}

/// How far it is: a file that is being written is empty for a moment.
fn count(dir: &Path) -> u64 {
    let read = || fs::read_to_string(dir.join("count")).ok()?.trim().parse().ok();
    (0..100).find_map(|_| read()).unwrap_or(0)
}

#[track_caller]
fn goes_on(dir: &Path) {
    let before = count(dir);
    wait_for(|| count(dir) > before, "the tree counts on");
}

/// Restores; the pid of the root.
fn restore(dir: &Path, args: &[&str]) -> i32 {
    let mut command = Command::new(STASIS);
    let command =
        command.args(["restore", "-d", "--pidfile", "pid", "-v4", "-o", "log", "-D"]).arg(dir).args(args);
    // It must not hold a pipe of ours open, as a restored tree may.
    let said = File::create(dir.join("said")).unwrap();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).status().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(dir.join("said")).unwrap());
    fs::read_to_string(dir.join("pid")).unwrap().trim().parse().unwrap()
}

/// Runs a test in each freezer that is here.
fn in_each(name: &str, test: impl Fn(&Path, &Group<'_>)) {
    for freezer in FREEZERS.iter().filter(|freezer| is_root() && freezer.is_here()) {
        let dir = tempfile::tempdir().unwrap();
        test(dir.path(), &Group::make(freezer, name));
    }
}

#[test]
fn a_freezer_is_used_and_thawed_again() {
    in_each("used", |dir, group| {
        let target = Target::start(dir, group, ":");
        let output = target.dump(dir, &["-R", "--freeze-cgroup", group.path()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!group.is_frozen());
        goes_on(dir);
    });
}

#[test]
fn a_freezer_that_was_frozen_stays_so() {
    in_each("frozen", |dir, group| {
        let target = Target::start(dir, group, ":");
        group.freeze(true);
        let output = target.dump(dir, &["-R", "--freeze-cgroup", group.path()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let before = count(dir);
        std::thread::sleep(Duration::from_millis(100));
        assert!(group.is_frozen() && count(dir) == before, "the tree was let go on");
        group.freeze(false);
        goes_on(dir);
    });
}

#[test]
fn a_tree_may_be_frozen_at_any_moment_of_a_vfork() {
    in_each("vfork", |dir, group| {
        let target = Target::start(dir, group, "/bin/true");
        // That of version 1 waits for ever for some parents (Linux 6.18): what nobody could freeze, we find otherwise.
        let is_safe = group.0.file == "cgroup.freeze";
        for at in 0..30 {
            std::thread::sleep(Duration::from_micros(at * 331));
            if is_safe {
                group.freeze(true);
            }
            let output = target.dump(dir, &["-R", "--timeout", "5", "--freeze-cgroup", group.path()]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            group.freeze(false);
        }
        goes_on(dir);
    });
}

#[test]
fn a_frozen_tree_ends_with_its_dump_and_comes_back() {
    in_each("ended", |dir, group| {
        let target = Target::start(dir, group, ":");
        group.freeze(true);
        let output = target.dump(dir, &["--freeze-cgroup", group.path()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait_for(|| group.pids().is_empty(), "the tree has ended");
        target.reap();
        group.freeze(false);
        let root = restore(dir, &[]);
        goes_on(dir);
        // It is in its group again, and ends with that.
        assert!(group.pids().contains(&root));
    });
}

#[test]
fn a_group_that_is_gone_is_told_once() {
    in_each("gone", |dir, group| {
        let target = Target::start(dir, group, ":");
        let output = target.dump(dir, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.reap();
        wait_for(|| fs::remove_dir(&group.1).is_ok(), "the group is gone");
        let root = restore(dir, &[]);
        goes_on(dir);
        let log = fs::read_to_string(dir.join("log")).unwrap();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("Warn")).collect();
        assert!(
            matches!(told[..], [line] if line.contains("--manage-cgroups") && line.contains("stasis-test-")),
            "{log}"
        );
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(root), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    });
}
