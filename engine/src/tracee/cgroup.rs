//! Freezers of cgroups (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/freezer-subsystem.rst`): that of version 2 for
//! trees that make tasks faster than they can be stopped one by one, and whichever the user names.
//!
//! A frozen task can still be traced: it leaves the freezer for a ptrace-stop, and comes back when it is let go on. So the
//! cgroup is frozen only until all tasks are in such stops.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs;
use crate::tracee::stopped::Running;
use crate::tracee::vfork;

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

/// A directory that a tree cannot be frozen with.
#[derive(Debug, thiserror::Error)]
enum FreezerRefusal {
    /// It is something else.
    #[error("it is no cgroup with a freezer: it has neither freezer.state nor cgroup.freeze")]
    None,
    /// We would freeze ourselves.
    #[error("this command is in the cgroup itself, and would be frozen with it")]
    Ours,
}

impl Explain for FreezerRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::None => "name a cgroup of version 2, or one of the freezer of version 1".into(),
            Self::Ours => "run it from another cgroup, or without --freeze-cgroup".into(),
        })
    }
}

/// How a freezer is spoken to, in either version.
#[derive(Debug, Clone, Copy)]
struct Freezer {
    control: &'static str,
    frozen: &'static str,
    thawed: &'static str,
    /// Where it says whether it is frozen, and in which line.
    state: (&'static str, &'static str),
    threads: &'static str,
}

const FREEZERS: [Freezer; 2] = [
    Freezer {
        control: "freezer.state",
        frozen: "FROZEN",
        thawed: "THAWED",
        state: ("freezer.state", "FROZEN"),
        threads: "tasks",
    },
    Freezer {
        control: "cgroup.freeze",
        frozen: "1",
        thawed: "0",
        state: ("cgroup.events", "frozen 1"),
        threads: "cgroup.threads",
    },
];

/// A cgroup with the tree in it, which the user names (`--freeze-cgroup`): frozen, nothing in it forks or ends while it is
/// seized. Somebody else may have frozen it before, and finds it frozen again afterwards.
#[derive(Debug)]
pub struct GivenCgroup {
    dir: PathBuf,
    freezer: Freezer,
    was_frozen: bool,
}

impl GivenCgroup {
    /// Freezes it, asks all of its threads to stop, and thaws it: each is stopped before it does anything, but for children made by
    /// vfork(2), which are found later.
    ///
    /// A thread in the freezer does not answer a tracer in version 1, and in version 2 does not run an agent.
    pub fn seize(dir: &Path, limit: Duration) -> Result<Self, Problem> {
        /// Version 1 may wait for ever for a parent that waits for a child made by vfork, which is frozen (seen with Linux 6.18).
        const PATIENCE: Duration = Duration::from_millis(100);
        let about = || Object::Path(dir.to_owned());
        let freezer = FREEZERS.into_iter().find(|freezer| dir.join(freezer.control).exists());
        let freezer = freezer.ok_or(FreezerRefusal::None).about(about)?;
        let threads = threads(dir, freezer.threads).about(about)?;
        if threads.contains(&(std::process::id() as i32)) {
            return Err(Problem::new(FreezerRefusal::Ours).object(about()));
        }
        let mut given = Self { dir: dir.to_owned(), freezer, was_frozen: false };
        given.was_frozen = given.is_frozen();
        let step = "freeze it";
        given.write(freezer.frozen).about(about).while_trying_to(step)?;
        let deadline = Instant::now() + limit;
        let mut next = Instant::now() + PATIENCE;
        while !given.is_frozen() {
            if Instant::now() > deadline {
                let late = SysError { call: "freeze", errno: Errno::ETIMEDOUT };
                return Err(Problem::new(late).object(about()).step(step));
            }
            if Instant::now() > next {
                for word in [freezer.thawed, freezer.frozen] {
                    given.write(word).about(about).while_trying_to(step)?;
                }
                next = Instant::now() + PATIENCE;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        given.seize_threads().about(about).while_trying_to("stop its threads")?;
        given.write(freezer.thawed).about(about).while_trying_to("thaw it")?;
        Ok(given)
    }

    /// Whether somebody else had frozen it.
    pub fn was_frozen(&self) -> bool {
        self.was_frozen
    }

    fn is_frozen(&self) -> bool {
        let (file, line) = self.freezer.state;
        fs::read_to_string(self.dir.join(file)).unwrap_or_default().lines().any(|is| is == line)
    }

    fn write(&self, text: &str) -> Result<(), SysError> {
        fs::write(self.dir.join(self.freezer.control), text).map_err(SysError::io("write (to the freezer)"))
    }

    fn seize_threads(&self) -> Result<(), SysError> {
        let all = threads(&self.dir, self.freezer.threads)?;
        // Who has borrowed the memory of his parent goes on until he has a program of his own, or the parent would never stop.
        let borrowers: Vec<i32> =
            all.iter().filter_map(|tid| vfork::borrower(*tid, *tid)).map(|task| task.host_pid).collect();
        for tid in all.into_iter().filter(|tid| !borrowers.contains(tid)) {
            match Running::seize(tid, 0).and_then(|thread| thread.interrupt()) {
                // It has ended, or somebody else traces it, who will be named later.
                Ok(()) | Err(SysError { errno: Errno::ESRCH | Errno::EPERM, .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Threads of a cgroup and of those below it.
fn threads(dir: &Path, file: &str) -> Result<Vec<i32>, SysError> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let mut all: Vec<i32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|tid| *tid > 0).collect();
    let entries = fs::read_dir(dir).map_err(SysError::io("opendir(cgroup)"))?;
    let below =
        entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in below {
        all.extend(threads(&entry.path(), file)?);
    }
    Ok(all)
}

impl Drop for GivenCgroup {
    fn drop(&mut self) {
        let text = if self.was_frozen { self.freezer.frozen } else { self.freezer.thawed };
        if let Err(e) = self.write(text) {
            log::error!("cannot leave {} as it was: {e}", self.dir.display());
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
