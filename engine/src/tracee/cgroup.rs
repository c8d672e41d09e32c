//! The freezer of cgroup v2 (`Documentation/admin-guide/cgroup-v2.rst`), for trees that make tasks faster than they can be
//! stopped one by one.
//!
//! A frozen task can still be traced: it leaves the freezer for a ptrace-stop, and comes back when it is let go on. So the
//! cgroup is frozen only until all tasks are in such stops.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::SysError;
use crate::procfs;

/// A cgroup that we froze. Dropping it thaws it.
#[derive(Debug)]
pub struct FrozenCgroup {
    dir: PathBuf,
}

impl FrozenCgroup {
    /// Freezes the cgroup of a process, if it has one that is not ours as well, and none that somebody froze before.
    pub fn of(pid: i32, limit: Duration) -> Result<Option<Self>, SysError> {
        let Some(dir) = own_cgroup(pid) else { return Ok(None) };
        if !matches!(fs::read(dir.join("cgroup.freeze")).as_deref(), Ok(b"0\n")) {
            return Ok(None);
        }
        let frozen = Self { dir };
        frozen.write("1")?;
        let deadline = Instant::now() + limit;
        // It is frozen when all of its tasks are; those that take longer are waited for one by one, later.
        while !frozen.is_frozen() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Some(frozen))
    }

    fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }

    fn write(&self, text: &str) -> Result<(), SysError> {
        fs::write(self.dir.join("cgroup.freeze"), text).map_err(SysError::io("write(cgroup.freeze)"))
    }
}

impl Drop for FrozenCgroup {
    fn drop(&mut self) {
        if let Err(e) = self.write("0") {
            log::error!("cannot thaw {}: {e}", self.dir.display());
        }
    }
}

/// The directory of a process's cgroup, if we are not in it, nor below it.
fn own_cgroup(pid: i32) -> Option<PathBuf> {
    let path = path_of(&pid.to_string())?;
    let ours = path_of("self")?;
    if ours.starts_with(&path) {
        return None;
    }
    let mounts = procfs::mountinfo::parse(&fs::read("/proc/self/mountinfo").ok()?).ok()?;
    let mount = mounts.iter().find(|mount| mount.fstype == b"cgroup2" && mount.root == b"/")?;
    let dir = Path::new(std::ffi::OsStr::from_bytes(&mount.mountpoint));
    Some(dir.join(path.strip_prefix("/").ok()?))
}

/// A process's place in the hierarchy of cgroup v2, whose line has the number 0 and no controllers.
fn path_of(pid: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}
