//! One process that is dumped and restored again and again.
//!
//! The bench is the subreaper of everything: the target it starts, and the trees that come back.

use std::path::PathBuf;
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
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(session)
    }

    /// Dumps the tree, which runs on; how long it was stopped.
    pub fn snapshot(&mut self) -> Result<Duration> {
        let root = self.running()?;
        self.stasis.snapshot(root.as_raw(), &self.images())?;
        frozen_time(&self.images())
    }

    /// Restores the tree with its memory mapped from the images; a running one ends first, and so does this one.
    pub fn restore_mapped(&mut self) -> Result<Duration> {
        self.end()?;
        let (took, pid) = self.stasis.restore_with(&self.images(), &["--map-pages"])?;
        self.running = Some(Pid::from_raw(pid));
        self.end()?;
        Ok(took)
    }
}

/// What is dumped and restored in turns.
pub trait Subject {
    /// The root while it runs, and what was measured so far.
    fn state(&mut self) -> (&mut Option<Pid>, &mut Samples);
    /// Where its images are.
    fn images(&self) -> PathBuf;
    /// Dumps it while it runs.
    fn dump_running(&self, root: Pid) -> Result<Duration>;
    /// Restores it; the root's pid.
    fn restore_images(&self) -> Result<(Duration, i32)>;
    /// Kills all of it.
    fn kill(root: Pid) -> nix::Result<()>;

    /// Dumps it, which brings it back first where it is not running.
    fn dump(&mut self) -> Result<Duration> {
        let root = self.running()?;
        let took = self.dump_running(root)?;
        self.has_ended()?;
        let frozen = frozen_time(&self.images())?;
        let (_, samples) = self.state();
        samples.frozen.push(frozen);
        samples.dump.push(took);
        Ok(took)
    }

    /// Somebody else has killed all of it.
    fn has_ended(&mut self) -> Result<()> {
        *self.state().0 = None;
        reap()
    }

    /// Restores it from the last dump; a running one ends first.
    fn restore(&mut self) -> Result<Duration> {
        if self.state().1.dump.is_empty() {
            self.dump()?;
        }
        self.end()?;
        Ok(self.bring_back()?.0)
    }

    /// The root, which is brought back where it is not running.
    fn running(&mut self) -> Result<Pid> {
        match *self.state().0 {
            Some(root) => Ok(root),
            None => Ok(self.bring_back()?.1),
        }
    }

    /// Restores it.
    fn bring_back(&mut self) -> Result<(Duration, Pid)> {
        let (took, root) = self.restore_images()?;
        let root = Pid::from_raw(root);
        let (running, samples) = self.state();
        *running = Some(root);
        samples.restore.push(took);
        Ok((took, root))
    }

    /// Ends it if it runs.
    fn end(&mut self) -> Result<()> {
        if let Some(root) = self.state().0.take() {
            Self::kill(root).context("kill")?;
            reap()?;
        }
        Ok(())
    }
}

impl Subject for Session {
    fn state(&mut self) -> (&mut Option<Pid>, &mut Samples) {
        (&mut self.running, &mut self.samples)
    }

    fn images(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn dump_running(&self, root: Pid) -> Result<Duration> {
        self.stasis.dump(root.as_raw(), &self.images())
    }

    fn restore_images(&self) -> Result<(Duration, i32)> {
        self.stasis.restore(&self.images())
    }

    fn kill(root: Pid) -> nix::Result<()> {
        killpg(root, Signal::SIGKILL)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A target that is gone already is what we want.
        let _ = self.end();
    }
}

/// Waits for all children, which have been killed.
fn reap() -> Result<()> {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno).context("wait"),
        }
    }
}
