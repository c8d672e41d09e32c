//! Descriptors of files in /proc of a child, and of its parent, still lead to them.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::unistd::getppid;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// Descriptors of a process.
struct Opened {
    folder: File,
    status: File,
    task: File,
    name: String,
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        let mut parent = Opened::of(getppid().as_raw())?;
        cx.post("child-ready")?;
        cx.park()?;
        parent.check()
    })?;
    cx.wait_for("child-ready")?;
    let mut opened = Opened::of(child.pid.as_raw())?;
    cx.barrier()?;
    opened.check()?;
    child.join()
}

impl Opened {
    fn of(pid: i32) -> Result<Self, Failure> {
        let name = format!("/proc/{pid}");
        let folder = File::open(&name)?;
        let status = File::open(Path::new(&name).join("status"))?;
        let task = File::open(Path::new(&name).join(format!("task/{pid}/stat")))?;
        Ok(Self { folder, status, task, name })
    }

    fn check(&mut self) -> Verdict {
        let pid = self.name.trim_start_matches("/proc/");
        let (mut status, mut stat) = (String::new(), String::new());
        self.status.read_to_string(&mut status)?;
        ensure!(status.contains(&format!("\nPid:\t{pid}\n")), "{}/status is of somebody else", self.name);
        self.task.read_to_string(&mut stat)?;
        ensure!(stat.starts_with(&format!("{pid} (")), "{}/task/{pid}/stat is of somebody else", self.name);
        let link = fs::read_link(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))?;
        ensure_eq!(link.to_string_lossy(), self.name, "the folder");
        Ok(())
    }
}
