//! Unix sockets that talk to somebody outside of the tree: refused, or connected again, handed in, or cut off, as the user says.
#![cfg(test)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{STASIS, alone, has_root_and_python, reap};

mod targets;

/// Where the socket of the process is: above all that the test has open.
const FD: i32 = 400;
/// Answers each byte with the next, and says what else it sees.
const ECHO: &str = r#"
import socket, sys, time
own = socket.socket(fileno=400)
while True:
    try:
        byte = own.recv(1)
        if not byte:
            break
        own.send(bytes([byte[0] + 1]))
    except OSError as error:
        open("error", "w").write(str(error))
        break
open("end", "w").close()
time.sleep(1000)
"#;

struct Case {
    dir: tempfile::TempDir,
    child: Child,
    ino: u64,
}

impl Case {
    fn start(own: OwnedFd) -> Self {
        Self::start_with(own, None)
    }

    /// With another socket at the next number.
    fn start_with(own: OwnedFd, other: Option<OwnedFd>) -> Self {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ino = nix::sys::stat::fstat(&own).unwrap().st_ino;
        let mut command = Command::new("python3");
        command.args(["-c", ECHO]).current_dir(dir.path());
        let child = with_fds(&mut command, own, other).spawn().unwrap();
        let link = format!("/proc/{}/fd/{FD}", child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::metadata(&link).map_or(0, |meta| meta.ino()) != ino {
            assert!(Instant::now() < deadline, "the process does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { dir, child, ino }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command; its exit code, and what it said.
    fn run(&self, verb: &str, options: &[&str], fd: Option<OwnedFd>) -> String {
        let _there_already = fs::create_dir(self.path("images"));
        let mut command = Command::new(STASIS);
        command.arg(verb).arg("-D").arg(self.path("images")).args(options);
        let output = match fd {
            Some(fd) => with_fds(&mut command, fd, None),
            None => alone(&mut command),
        };
        let output = output.stderr(Stdio::piped()).output().unwrap();
        format!("{}: {}", output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr))
    }

    fn dump(&mut self, options: &[&str]) -> String {
        let pid = self.child.id().to_string();
        let said = self.run("dump", &[&["-t", &pid], options].concat(), None);
        if said.starts_with("0: ") {
            self.child.wait().unwrap();
        }
        said
    }

    fn restore(&self, options: &[&str], fd: Option<OwnedFd>) -> String {
        self.run("restore", &[&["-d"], options].concat(), fd)
    }

    /// Waits until the process has found its connection closed.
    fn assert_ends(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.path("end").exists() {
            assert!(Instant::now() < deadline, "the process does not find the end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let pid = self.child.id() as i32;
        let _ended_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _reaped_already = self.child.wait();
        reap(pid);
    }
}

fn with_fds(command: &mut Command, fd: OwnedFd, next: Option<OwnedFd>) -> &mut Command {
    let place = move || {
        for (fd, number) in std::iter::once(&fd).chain(&next).zip(FD..) {
            // SAFETY: takes numbers only.
            nix::errno::Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
        }
        Ok(())
    };
    // SAFETY: what is called after the fork is async-signal-safe.
    unsafe { alone(command).pre_exec(place) }
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "\"{part}\" is not in:\n{said}");
    }
}

#[track_caller]
fn assert_answers(mut stream: &UnixStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"a").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"b");
}

#[test]
fn a_peer_without_a_name_is_handed_in_or_cut_off() {
    if !has_root_and_python() {
        return;
    }
    for way in ["--external", "close"] {
        let (own, peer) = UnixStream::pair().unwrap();
        let mut case = Case::start(own.into());
        assert_answers(&peer);
        let help = ["--ext-unix-sk=", "--external unix[", "--inherit-fd", "--on-unsupported unix=close"];
        assert_says(&case.dump(&[]), &[&["3: ", "fd 400", "outside of the tree"], &help[..]].concat());
        assert_answers(&peer);
        if way == "close" {
            let told = "as --on-unsupported unix=close asks";
            assert_says(&case.dump(&["--on-unsupported", "unix=close"]), &["0: ", "fd 400", told]);
            assert_says(&case.restore(&[], None), &["0: ", told]);
            case.assert_ends();
            assert!(!case.path("error").exists());
            continue;
        }
        assert_says(&case.dump(&["--external", &format!("unix[{}]", case.ino)]), &["0: "]);
        let (handed, other) = UnixStream::pair().unwrap();
        let key = format!("fd[{FD}]:socket:[{}]", case.ino);
        assert_says(&case.restore(&["--inherit-fd", &key], Some(handed.into())), &["0: "]);
        assert_answers(&other);
        drop(other);
        case.assert_ends();
    }
}

#[test]
fn a_peer_with_a_name_is_connected_to_again() {
    if !has_root_and_python() {
        return;
    }
    for option in ["--ext-unix-sk", "reopen"] {
        let outside = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(outside.path().join("name")).unwrap();
        let own = UnixStream::connect(outside.path().join("name")).unwrap();
        let first = listener.accept().unwrap().0;
        let mut case = Case::start(own.into());
        assert_answers(&first);
        let options: &[&str] = match option {
            "reopen" => &["--on-unsupported", "unix=reopen"],
            option => &[option],
        };
        assert_says(&case.dump(options), &["0: "]);
        assert_says(&case.restore(&[], None), &["0: "]);
        assert_answers(&listener.accept().unwrap().0);
    }
}

#[test]
fn two_may_send_to_the_same_name_outside() {
    if !has_root_and_python() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let receiver = UnixDatagram::bind(outside.path().join("name")).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let connected = |name: &str| {
        let socket = UnixDatagram::bind(outside.path().join(name)).unwrap();
        socket.connect(outside.path().join("name")).unwrap();
        socket
    };
    let (own, other) = (connected("own"), connected("other"));
    let mut case = Case::start_with(own.into(), Some(other.into()));
    let answer = |receiver: &UnixDatagram| {
        receiver.send_to(b"a", outside.path().join("own")).unwrap();
        let mut byte = [0];
        receiver.recv(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
    };
    answer(&receiver);
    assert_says(&case.dump(&["--ext-unix-sk"]), &["0: "]);
    assert_says(&case.restore(&[], None), &["0: "]);
    answer(&receiver);
}
