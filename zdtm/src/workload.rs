//! What workloads are written with.
//!
//! A workload sets something up, calls [`Context::barrier`], and verifies afterwards. The dump happens while it waits
//! in the barrier. The protocol needs no descriptor, signal or thread, so that only what the workload made itself is
//! there to be dumped: the workload leaves a file `ready.N` and looks for a file `go.N`.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Why a workload failed.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a workload returns.
pub type Verdict = Result<(), Failure>;

/// Fails the workload with a reason unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::workload::Failure::new(format!($($reason)+)));
        }
    };
}

/// Fails the workload unless two values are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $what:expr) => {
        match (&$found, &$expected) {
            (found, expected) => {
                $crate::ensure!(found == expected, "{}: {:?} instead of {:?}", $what, found, expected);
            }
        }
    };
}

/// One workload: its name and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// The name in the zoo files.
    pub name: &'static str,
    /// Setup, barrier, verification.
    pub run: fn(&mut Context) -> Verdict,
}

/// The workload's end of the protocol.
#[derive(Debug, Clone)]
pub struct Context {
    dir: PathBuf,
    barriers: u32,
    args: Vec<String>,
}

/// How often a wait looks.
const STEP: Duration = Duration::from_millis(5);

impl Context {
    fn new(args: Vec<String>) -> Result<Self, Failure> {
        Ok(Self { dir: std::env::current_dir()?, barriers: 0, args })
    }

    /// The arguments after the name.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// A file in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Tells that the test's directory is now the root directory.
    pub fn dir_became_root(&mut self) {
        self.dir = PathBuf::from("/");
    }

    /// Waits for the dump and the restore.
    pub fn barrier(&mut self) -> Verdict {
        self.barriers += 1;
        self.post(&format!("ready.{}", self.barriers))?;
        self.wait_for(&format!("go.{}", self.barriers))
    }

    /// In a child or a thread: waits until the next barrier of the root has been passed.
    pub fn park(&self) -> Verdict {
        self.wait_for(&format!("go.{}", self.barriers + 1))
    }

    /// Leaves an empty file, complete at once, and no descriptor.
    pub fn post(&self, name: &str) -> Verdict {
        let unfinished = self.path(&format!("{name}.tmp{}", std::process::id()));
        fs::write(&unfinished, "")?;
        fs::rename(unfinished, self.path(name))?;
        Ok(())
    }

    /// Whether somebody has left this file.
    pub fn posted(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Waits for a file that somebody else leaves.
    pub fn wait_for(&self, name: &str) -> Verdict {
        let path = self.path(name);
        while !path.exists() {
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Whether the barrier has been passed, for loops that work meanwhile.
    pub fn passed(&self) -> bool {
        self.posted(&format!("go.{}", self.barriers + 1))
    }

    /// Starts a thread that runs `body`. It has all the memory that a thread gets when this returns, so that whoever looks
    /// from outside does not see it being set up.
    pub fn thread(&self, body: impl FnOnce(&Self) -> Verdict + Send + 'static) -> Thread {
        let cx = self.clone();
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            // The first allocation gives it a heap of its own.
            drop(std::hint::black_box(vec![0_u8; 64]));
            let _nobody_waits = begun.send(());
            body(&cx)
        });
        // An error means that it panicked, which its join tells.
        let _begun = begins.recv();
        Thread(thread)
    }

    /// Starts a child that runs `body`; a failure goes to the log and becomes exit code 1.
    pub fn child(&self, body: impl FnOnce(&mut Self) -> Verdict) -> Result<Child, Failure> {
        // SAFETY: workloads fork before they start threads, so the child may go on as usual.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Child { pid: child }),
            ForkResult::Child => self.be_child(body),
        }
    }

    /// Like [`Context::child`], with flags of clone(2): `CLONE_FILES`, `CLONE_FS`, `CLONE_NEWPID`, `CLONE_NEWUSER`, and the exit signal, if any.
    pub fn cloned_child(
        &self,
        flags: i32,
        body: impl FnOnce(&mut Self) -> Verdict,
    ) -> Result<Child, Failure> {
        // CSIGNAL of `include/uapi/linux/sched.h`: the exit signal.
        let known = libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_NEWPID | libc::CLONE_NEWUSER | 0xff;
        ensure!(flags & !known == 0, "a child cannot be made with flags {flags:#x}");
        // SAFETY: with no new stack and none but the flags above, memory is not shared and this is fork; workloads fork
        // before they start threads, so the child may go on as usual.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
        if pid == 0 {
            self.be_child(body);
        }
        Ok(Child { pid: Pid::from_raw(pid as i32) })
    }

    fn be_child(&self, body: impl FnOnce(&mut Self) -> Verdict) -> ! {
        let code = match body(&mut self.clone()) {
            Ok(()) => 0,
            Err(failure) => {
                say(&format!("child {}: {failure}", std::process::id()));
                1
            }
        };
        exit_now(code)
    }
}

/// A thread of the workload.
#[derive(Debug)]
pub struct Thread(JoinHandle<Verdict>);

impl Thread {
    /// Waits for the thread, which must succeed.
    pub fn join(self) -> Verdict {
        self.0.join().unwrap_or_else(|_panic| Err(Failure::new("a thread panicked, see workload.log")))
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Ends the process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A child of the workload.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: Pid,
}

impl Child {
    /// Waits for the child, which must succeed.
    pub fn join(self) -> Verdict {
        let status = waitpid(self.pid, None)?;
        ensure!(
            status == WaitStatus::Exited(self.pid, 0),
            "child {}: {status:?}, see workload.log",
            self.pid
        );
        Ok(())
    }
}

/// Bytes that differ by seed and position.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Fails unless the bytes are `pattern(seed, …)`.
pub fn check_pattern(bytes: &[u8], seed: u64, what: &str) -> Verdict {
    let expected = pattern(seed, bytes.len());
    if let Some(place) = bytes.iter().zip(&expected).position(|(found, expected)| found != expected) {
        return Err(Failure::new(format!("{what}: byte {place} of {} differs", bytes.len())));
    }
    Ok(())
}

/// A line of `/proc/…/status`, by its key.
pub fn status_line(path: &str, key: &str) -> Result<String, Failure> {
    let status = fs::read_to_string(path)?;
    let found =
        status.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.strip_prefix(':'));
    found.map(|text| text.trim().to_owned()).ok_or_else(|| Failure::new(format!("{path} has no {key}")))
}

fn say(line: &str) {
    use std::io::Write as _;
    // Where the log cannot be written, nobody can be told.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs the workload that the command line names (`--list` names all); for the `main` of the workloads' executable.
pub fn main(workloads: &[Workload]) -> ExitCode {
    let mut args =
        std::env::args_os().skip(1).map(|word| String::from_utf8_lossy(word.as_bytes()).into_owned());
    let mut name = args.next().unwrap_or_default();
    if name == "--list" {
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name).collect();
        crate::progress::emit(&(names.join("\n") + "\n"));
        return ExitCode::SUCCESS;
    }
    if name == "--init" {
        // SAFETY: no other thread exists, so the child may go on as usual.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => exit_now(crate::cell::reap_until(child)),
            Ok(ForkResult::Child) => {}
            Err(_) => return ExitCode::from(2),
        }
        // It can only fail for a leader, and a new process leads nothing.
        let _ = nix::unistd::setsid();
        name = args.next().unwrap_or_default();
    }
    // What the zoo's entry calls a peer: the result is not its own.
    let is_peer = name == "--peer";
    if is_peer {
        name = args.next().unwrap_or_default();
    }
    let Some(workload) = workloads.iter().find(|workload| workload.name == name) else {
        say(&format!("no workload `{name}`"));
        return ExitCode::from(2);
    };
    let verdict = Context::new(args.collect()).and_then(|mut cx| {
        let base = cx.clone();
        let verdict = (workload.run)(&mut cx);
        if is_peer {
            return verdict;
        }
        // The workload may have changed its directory or its root.
        let dir = if cx.dir == base.dir { base } else { cx };
        let text = match &verdict {
            Ok(()) => "pass\n".to_owned(),
            Err(failure) => format!("fail: {failure}\n"),
        };
        fs::write(dir.path("result.tmp"), text)?;
        fs::rename(dir.path("result.tmp"), dir.path("result"))?;
        verdict
    });
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ_by_seed() {
        let bytes = pattern(1, 4096);
        assert!(check_pattern(&bytes, 1, "own").is_ok());
        assert!(check_pattern(&bytes, 2, "other").is_err());
    }
}
