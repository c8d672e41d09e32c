//! What a user can ask for, after parsing: plain data, passed down by reference, never global.

use std::path::PathBuf;
use std::time::Duration;

/// Options of `dump`.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// Host pid of the root of the tree.
    pub tree: i32,
    /// Where the image files go.
    pub images_dir: PathBuf,
    /// Where logs, pid files and statistics go.
    pub work_dir: PathBuf,
    /// What becomes of the tree after a successful dump.
    pub afterwards: Afterwards,
    /// Session and terminal belong to the caller.
    pub shell_job: bool,
    /// Seconds that stopping the tree may take.
    pub timeout: u32,
}

impl DumpOptions {
    /// How long a task may take to stop.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(if self.timeout == 0 { 10 } else { self.timeout.into() })
    }
}

/// What becomes of the tasks when the work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Afterwards {
    /// The default: kill after a dump, run after a restore.
    #[default]
    Default,
    /// `--leave-running` (dump only).
    LeaveRunning,
    /// `--leave-stopped`: stopped as by `SIGSTOP`.
    LeaveStopped,
}

/// Options of `restore`.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Where the image files are.
    pub images_dir: PathBuf,
    /// Where logs, pid files and statistics go.
    pub work_dir: PathBuf,
    /// Whose child the root becomes, and whether the command waits for it.
    pub parent: Parent,
    /// Run or leave stopped.
    pub afterwards: Afterwards,
    /// File that receives the root's pid.
    pub pidfile: Option<PathBuf>,
    /// Session and terminal belong to the caller.
    pub shell_job: bool,
}

/// Whose child the restored root task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parent {
    /// Ours: the command waits for the root task and ends as it ends.
    #[default]
    Foreground,
    /// `--restore-detached`: the command returns, and the root is given to the nearest subreaper.
    Detached,
    /// `--restore-sibling`: the root is a child of the command's parent.
    Sibling,
}
