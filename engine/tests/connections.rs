//! Killing the engine while it dumps a process with a TCP connection: the connection goes on, there or from the images, and
//! nothing holds its packets back any more.
#![cfg(test)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{
    STASIS, a_little_longer_than, alone, has_root_and_python, moments, reap, state, wait_for_workers,
};

mod targets;

/// Answers each byte with the next.
const ECHO: &str = r#"
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    byte = connection.recv(1)
    if not byte:
        break
    connection.sendall(bytes([(byte[0] + 1) % 256]))
"#;

/// The other end of the connection is ours.
struct Target {
    /// Options of the dump.
    options: &'static [&'static str],
    child: Child,
    connection: TcpStream,
    asked: u8,
}

impl Target {
    fn start(options: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut command = Command::new("python3");
        command.args(["-c", ECHO, &port.to_string()]);
        let child = alone(&mut command).spawn().unwrap();
        let connection = listener.accept().unwrap().0;
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.set_nodelay(true).unwrap();
        let mut target = Self { options, child, connection, asked: 0 };
        target.assert_answers(Duration::ZERO);
        target
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    #[track_caller]
    fn assert_answers(&mut self, moment: Duration) {
        self.asked = self.asked.wrapping_add(1);
        let mut answer = [0];
        let heard =
            self.connection.write_all(&[self.asked]).and_then(|()| self.connection.read_exact(&mut answer));
        assert!(heard.is_ok(), "killed after {moment:?}: the connection is broken: {heard:?}");
        assert_eq!(answer, [self.asked.wrapping_add(1)], "killed after {moment:?}: the answer");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let pid = self.pid();
        let _ended_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _reaped_already = self.child.wait();
        reap(pid);
    }
}

fn has_iptables() -> bool {
    Command::new("iptables").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn stasis(verb: &str, images: &Path) -> Command {
    let mut command = Command::new(STASIS);
    command.args([verb, "--tcp-established", "-D"]).arg(images);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn dump(target: &Target, images: &Path) -> Child {
    let _old = fs::remove_dir_all(images);
    fs::create_dir(images).unwrap();
    stasis("dump", images).args(["-t", &target.pid().to_string()]).args(target.options).spawn().unwrap()
}

/// Waits until nobody traces the target any more, and says whether it lives: a while later, too, for it may be dying.
fn lives(target: &mut Target) -> bool {
    let mut steady = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if target.child.try_wait().unwrap().is_some() {
            return false;
        }
        match state(target.pid()) {
            Some((_, 0)) if steady == 20 => return true,
            Some((_, 0)) => steady += 1,
            other => assert!(Instant::now() < deadline, "still traced: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes locks that nobody else will, and asserts that none of this process's is left.
#[track_caller]
fn assert_no_lock(pid: i32, moment: Duration) {
    let cleanup = || Command::new(STASIS).arg("cleanup").output().unwrap();
    let first = cleanup();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let left = String::from_utf8_lossy(&cleanup().stdout).into_owned();
    assert!(!left.contains(&format!("stasis-{pid}-")), "killed after {moment:?}: {left}");
}

/// What the target's images were good for, if it was ended: it comes back, and talks on.
fn bring_back(target: &mut Target, images: &Path, moment: Duration) {
    assert!(images.join("inventory.img").exists(), "killed after {moment:?}: ended, and not saved");
    target.child.wait().unwrap();
    let said = images.join("said");
    let mut restore = stasis("restore", images);
    // Not a pipe, which the target would hold open.
    let restored = restore.arg("-d").stderr(fs::File::create(&said).unwrap()).status().unwrap();
    let said = fs::read_to_string(said).unwrap();
    assert!(restored.success(), "killed after {moment:?}: cannot be restored: {said}");
    target.assert_answers(moment);
}

fn kill_at_many_moments(count: u64, workers_too: bool, options: &'static [&'static str]) {
    if !has_root_and_python() {
        return;
    }
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images: PathBuf = dir.path().join("images");
    let mut target = Target::start(options);
    let longest = a_little_longer_than(|| assert!(dump(&target, &images).wait().unwrap().success()));
    bring_back(&mut target, &images, Duration::ZERO);
    assert_no_lock(target.pid(), Duration::ZERO);
    target = Target::start(options);
    let (mut rolled_back, mut complete) = (0, 0);
    for moment in moments(count, longest) {
        let mut command = dump(&target, &images);
        std::thread::sleep(moment);
        let children = format!("/proc/{0}/task/{0}/children", command.id());
        for worker in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let worker = Pid::from_raw(worker.parse().unwrap());
            let _gone = workers_too.then(|| kill(worker, Signal::SIGKILL));
        }
        command.kill().unwrap();
        command.wait().unwrap();
        // What the worker was told last decides.
        wait_for_workers(target.pid());
        if lives(&mut target) {
            if !options.is_empty() {
                // Rules of iptables are nobody's, and stay until somebody cleans up.
                assert_no_lock(target.pid(), moment);
            }
            target.assert_answers(moment);
            assert_no_lock(target.pid(), moment);
            rolled_back += 1;
            continue;
        }
        bring_back(&mut target, &images, moment);
        assert_no_lock(target.pid(), moment);
        complete += 1;
        target = Target::start(options);
    }
    println!("{count} kills: {rolled_back} rolled back, {complete} complete");
}

#[test]
fn a_connection_survives_that_the_command_is_killed() {
    kill_at_many_moments(100, false, &[]);
}

#[test]
fn a_connection_survives_that_the_worker_is_killed_too() {
    kill_at_many_moments(100, true, &[]);
}

#[test]
fn a_connection_survives_behind_a_lock_by_iptables() {
    if has_iptables() {
        kill_at_many_moments(30, true, &["--network-lock", "iptables"]);
    }
}
