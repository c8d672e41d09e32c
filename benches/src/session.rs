//! One process that is dumped and restored again and again.
//!
//! The bench is the subreaper of everything: the target it starts, and the trees that come back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::wait;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::stasis::{Stasis, beside, frozen_time};

/// How long a target may take until it is ready.
const READY: Duration = Duration::from_mins(1);

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Wall times of dumps.
    pub dump: Vec<Duration>,
    /// Times that the tree was stopped, one for each dump.
    pub frozen: Vec<Duration>,
    /// Wall times of restores.
    pub restore: Vec<Duration>,
}

/// The only child of this process, running or on tmpfs.
#[derive(Debug)]
pub struct Session {
    stasis: Stasis,
    dir: TempDir,
    running: Option<Pid>,
    /// What was measured so far.
    pub samples: Samples,
}

impl Session {
    /// Starts a target with these arguments, and waits until it is ready. Images are on tmpfs.
    pub fn start(stasis: &Stasis, arguments: &[String]) -> Result<Self> {
        Self::start_in("/dev/shm", stasis, arguments)
    }

    /// The same with images below another folder.
    pub fn start_in(folder: &str, stasis: &Stasis, arguments: &[String]) -> Result<Self> {
        set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")?;
        let dir = tempfile::Builder::new().prefix("stasis-bench.").tempdir_in(folder)?;
        let ready = dir.path().join("ready");
        let mut command = Command::new(beside("bench-target")?);
        command.args(arguments).arg("--ready").arg(&ready);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pid = command.spawn().context("cannot start bench-target")?.id();
        let running = Some(Pid::from_raw(pid.cast_signed()));
        let session = Self { stasis: stasis.clone(), dir, running, samples: Samples::default() };
        let start = Instant::now();
        while !ready.exists() {
            ensure!(start.elapsed() < READY, "bench-target {} is not ready", arguments.join(" "));
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(session)
    }

    /// Dumps the tree, which runs on; how long it was stopped.
    pub fn snapshot(&mut self) -> Result<Duration> {
        let pid = match self.running {
            Some(pid) => pid,
            None => self.bring_back()?.1,
        };
        self.stasis.snapshot(pid.as_raw(), self.images())?;
        frozen_time(self.images())
    }

    /// Restores the tree with its memory mapped from the images; a running one ends first, and so does this one.
    pub fn restore_mapped(&mut self) -> Result<Duration> {
        self.end()?;
        let (took, pid) = self.stasis.restore_with(self.images(), &["--map-pages"])?;
        self.running = Some(Pid::from_raw(pid));
        self.end()?;
        Ok(took)
    }

    fn images(&self) -> &Path {
        self.dir.path()
    }

    /// Dumps the tree, which brings it back first where it is not running.
    pub fn dump(&mut self) -> Result<Duration> {
        let pid = match self.running {
            Some(pid) => pid,
            None => self.bring_back()?.1,
        };
        let took = self.stasis.dump(pid.as_raw(), self.images())?;
        self.running = None;
        reap()?;
        self.samples.frozen.push(frozen_time(self.images())?);
        self.samples.dump.push(took);
        Ok(took)
    }

    /// Restores the tree of the last dump; a running one ends first.
    pub fn restore(&mut self) -> Result<Duration> {
        if self.samples.dump.is_empty() {
            self.dump()?;
        }
        self.end()?;
        Ok(self.bring_back()?.0)
    }

    fn bring_back(&mut self) -> Result<(Duration, Pid)> {
        let (took, pid) = self.stasis.restore(self.images())?;
        let pid = Pid::from_raw(pid);
        self.running = Some(pid);
        self.samples.restore.push(took);
        Ok((took, pid))
    }

    fn end(&mut self) -> Result<()> {
        if let Some(leader) = self.running.take() {
            killpg(leader, Signal::SIGKILL).context("kill")?;
            reap()?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A target that is gone already is what we want.
        let _ = self.end();
    }
}

/// Waits for all children, which have been killed.
pub(crate) fn reap() -> Result<()> {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno).context("wait"),
        }
    }
}
