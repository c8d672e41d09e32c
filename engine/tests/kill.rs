//! Killing the engine at any moment harms nobody (invariants I1 and I2).
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{
    STASIS, a_little_longer_than, alone, has_root_and_python, moments, reap, state, wait_for_workers,
};

mod targets;

/// Counts in three threads, each into a file of its own, one number after the other.
const COUNTER: &str = r#"
import os, sys, threading
def count(name):
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    number = 0
    while True:
        number += 1
        os.pwrite(fd, b"%12d" % number, 0)
        if int(os.pread(fd, 12, 0)) != number:
            os.abort()
        threading.Event().wait(0.0002)
for i in range(2):
    threading.Thread(target=count, args=("count.%d" % i,)).start()
count("count.2")
"#;

struct Target {
    child: Child,
    dir: PathBuf,
}

impl Target {
    fn start(dir: &Path) -> Self {
        for i in 0..3 {
            let _none = fs::remove_file(dir.join(format!("count.{i}")));
        }
        let target = Self::spawn(dir, COUNTER);
        assert!(target.counts(), "the target does not begin to count");
        target
    }

    fn spawn(dir: &Path, script: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir(dir);
        Self { child: alone(&mut command).spawn().unwrap(), dir: dir.to_owned() }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether all threads go on counting.
    fn counts(&self) -> bool {
        counts(&self.dir)
    }
}

fn counts(dir: &Path) -> bool {
    let read = || -> Vec<u64> {
        let read = |i| fs::read_to_string(dir.join(format!("count.{i}"))).unwrap_or_default();
        (0..3).map(|i| read(i).trim().parse().unwrap_or(0)).collect()
    };
    let before = read();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
        // A restored counter begins again where it was dumped, which may be below what was reached meanwhile.
        if read().iter().zip(&before).all(|(now, then)| now != then) {
            return true;
        }
    }
    false
}

/// What an agent would leave behind: executable memory that belongs to no file, and descriptors.
fn traces(pid: i32) -> (usize, usize) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let code = maps.lines().filter(|l| l.contains("r-xp") && l.split_whitespace().count() == 5).count();
    (code, fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count))
}

fn dump(target: &Target, images: &Path) -> Child {
    let _old = fs::remove_dir_all(images);
    fs::create_dir(images).unwrap();
    let mut command = Command::new(STASIS);
    command.args(["dump", "-t", &target.pid().to_string(), "-D"]).arg(images).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// How long a dump of this target takes.
fn dump_time(target: &Target, images: &Path) -> Duration {
    fs::create_dir(images).unwrap();
    let mut command = Command::new(STASIS);
    command.args(["dump", "-R", "-t", &target.pid().to_string(), "-D"]).arg(images);
    a_little_longer_than(|| assert!(command.status().unwrap().success()))
}

/// Waits until nobody traces the target any more, and says whether it lives.
fn settled(target: &mut Target) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if target.child.try_wait().unwrap().is_some() {
            return false;
        }
        match state(target.pid()) {
            Some((_, 0)) => return true,
            _ => assert!(Instant::now() < deadline, "still traced: {:?}", state(target.pid())),
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn killing_the_command_at_any_moment_of_a_dump_harms_nothing() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut target = Target::start(dir.path());
    let longest = dump_time(&target, &images);
    let before = traces(target.pid());
    let (mut rolled_back, mut complete) = (0, 0);
    for moment in moments(200, longest) {
        let mut command = dump(&target, &images);
        std::thread::sleep(moment);
        command.kill().unwrap();
        command.wait().unwrap();
        let lives = settled(&mut target);
        // The worker may still be on its way: what it was told last decides.
        wait_for_workers(target.pid());
        let lives = lives && target.child.try_wait().unwrap().is_none();
        if lives {
            assert!(
                !images.join("inventory.img").exists(),
                "killed after {moment:?}: images, but it was not ended"
            );
            assert!(target.counts(), "killed after {moment:?}: a thread stands still");
            assert_eq!(traces(target.pid()), before, "killed after {moment:?}: the agent left something");
            rolled_back += 1;
        } else {
            assert!(
                images.join("inventory.img").exists(),
                "killed after {moment:?}: the target is gone, unsaved"
            );
            complete += 1;
            target = Target::start(dir.path());
        }
    }
    println!("200 kills: {rolled_back} rolled back, {complete} complete");
    target.child.kill().unwrap();
    target.child.wait().unwrap();
}

#[test]
fn killing_the_worker_too_harms_nothing() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut target = Target::start(dir.path());
    let (mut unharmed, mut complete) = (0, 0);
    for moment in moments(200, dump_time(&target, &images)) {
        let mut command = dump(&target, &images);
        std::thread::sleep(moment);
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", command.id())).unwrap_or_default();
        for worker in children.split_whitespace() {
            let _gone = kill(Pid::from_raw(worker.parse().unwrap()), Signal::SIGKILL);
        }
        command.kill().unwrap();
        command.wait().unwrap();
        if settled(&mut target) && target.counts() {
            unharmed += 1;
            continue;
        }
        assert!(
            images.join("inventory.img").exists(),
            "killed after {moment:?}: the target was harmed, unsaved"
        );
        complete += 1;
        let _gone = target.child.kill();
        target.child.wait().unwrap();
        target = Target::start(dir.path());
    }
    println!("200 kills: {unharmed} unharmed, {complete} complete");
    target.child.kill().unwrap();
    target.child.wait().unwrap();
}

#[test]
fn killing_a_restore_at_any_moment_leaves_nothing_or_all() {
    if !has_root_and_python() {
        return;
    }
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut target = Target::start(dir.path());
    let pid = target.pid();
    assert!(dump(&target, &images).wait().unwrap().success());
    target.child.wait().unwrap();
    let restore = || {
        let mut command = Command::new(STASIS);
        command.args(["restore", "-d", "-D"]).arg(&images).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let longest = a_little_longer_than(|| assert!(restore().wait().unwrap().success()));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    reap(pid);
    let (mut nothing, mut complete) = (0, 0);
    for moment in moments(200, longest) {
        let mut command = restore();
        std::thread::sleep(moment);
        command.kill().unwrap();
        command.wait().unwrap();
        if lives_on(pid) {
            assert!(counts(dir.path()), "killed after {moment:?}: a restored thread stands still");
            complete += 1;
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        } else {
            nothing += 1;
        }
        reap(pid);
    }
    println!("200 kills: {nothing} left nothing, {complete} complete");
}

#[test]
fn killing_a_restore_of_a_tree_leaves_no_part_of_it() {
    const FAMILY: &str = "import os, signal\nfor i in range(12):\n  if os.fork() == 0: break\nsignal.pause()";
    if !has_root_and_python() {
        return;
    }
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut target = Target::spawn(dir.path(), FAMILY);
    let root = target.pid();
    let children = || fs::read_to_string(format!("/proc/{root}/task/{root}/children")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(10);
    while children().split_whitespace().count() < 12 {
        assert!(Instant::now() < deadline, "the family does not grow");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut pids: Vec<i32> = children().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    pids.push(root);
    assert!(dump(&target, &images).wait().unwrap().success());
    target.child.wait().unwrap();
    reap_all(&pids);
    let restore = || {
        let mut command = Command::new(STASIS);
        command.args(["restore", "-d", "-D"]).arg(&images).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let end = || {
        for pid in &pids {
            let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        reap_all(&pids);
    };
    let longest = a_little_longer_than(|| assert!(restore().wait().unwrap().success()));
    end();
    let (mut nothing, mut complete) = (0, 0);
    for moment in moments(100, longest) {
        let mut command = restore();
        std::thread::sleep(moment);
        command.kill().unwrap();
        command.wait().unwrap();
        match settled_tree(&pids) {
            Some(0) => nothing += 1,
            Some(_) => complete += 1,
            None => panic!("killed after {moment:?}: only a part of the tree lives: {:?}", alive(&pids)),
        }
        end();
    }
    println!("100 kills: {nothing} left nothing, {complete} complete");
}

/// Whether a process is alive, after what is dying has had a moment to die.
fn lives_on(pid: i32) -> bool {
    const STEADY: u32 = 20;
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut let_go = 0;
    while let_go < STEADY {
        match state(pid) {
            None | Some(('Z' | 'X', _)) => return false,
            Some((_, 0)) => let_go += 1,
            Some((state, tracer)) => {
                assert!(Instant::now() < deadline, "it stays in state {state}, traced by {tracer}");
                let_go = 0;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn alive(pids: &[i32]) -> Vec<i32> {
    let lives = |pid: &i32| matches!(state(*pid), Some((state, _)) if !"ZX".contains(state));
    pids.iter().copied().filter(lives).collect()
}

/// How many tasks live when what is dying has died: none or all. None if it stays at a part of them.
fn settled_tree(pids: &[i32]) -> Option<usize> {
    const STEADY: u32 = 50;
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut whole = 0;
    while Instant::now() < deadline {
        match alive(pids).len() {
            0 => return Some(0),
            living if living == pids.len() => whole += 1,
            _ => whole = 0,
        }
        if whole == STEADY {
            return Some(pids.len());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn reap_all(pids: &[i32]) {
    for pid in pids {
        reap(*pid);
    }
}
