//! A file system whose folders a daemon mounts when they are used: the daemon is asked again after the restore.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, setpgid};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

/// From `include/uapi/linux/auto_fs.h`.
const AUTOFS_IOC_READY: libc::c_ulong = 0x9360;
const AUTOFS_IOC_SETTIMEOUT: libc::c_ulong = 0xc008_9364;
/// `struct autofs_v5_packet`: where the token, the length of the name and the name are, and its size.
const TOKEN: usize = 8;
const LENGTH: usize = 40;
const NAME: usize = 44;
const SIZE: usize = 304;

fn number(packet: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(packet[at..at + 4].try_into().unwrap_or_default())
}

/// Mounts a file system with a file at a folder of the daemon's.
fn fill(folder: &Path) -> Verdict {
    mounting::tmpfs(folder, "size=64k")?;
    fs::write(folder.join("file"), format!("in {}", folder.file_name().unwrap_or_default().display()))?;
    Ok(())
}

/// A file system that we are the daemon of.
struct Served {
    place: PathBuf,
    pipe: File,
    control: File,
}

impl Served {
    fn new(cx: &Context, name: &str) -> Result<Self, Failure> {
        let place = mounting::folder(cx, name)?;
        let (reader, writer) = nix::unistd::pipe()?;
        let group = nix::unistd::getpgrp();
        let options = format!("fd={},pgrp={group},minproto=5,maxproto=5,indirect", writer.as_raw_fd());
        mount(Some("zdtm"), &place, Some("autofs"), MsFlags::empty(), Some(options.as_str()))?;
        let control = File::open(&place)?;
        let mut seconds = 120_u64;
        // SAFETY: the kernel reads and writes one number.
        Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), AUTOFS_IOC_SETTIMEOUT, &raw mut seconds) })?;
        Ok(Self { place, pipe: File::from(reader), control })
    }

    /// Does what the kernel asks for: a mount; its name.
    fn serve(&mut self) -> Result<String, Failure> {
        let mut polled = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        ensure!(nix::poll::poll(&mut polled, PollTimeout::from(5000_u16))? == 1, "the daemon is not asked");
        let mut packet = [0; SIZE];
        self.pipe.read_exact(&mut packet)?;
        let name = &packet[NAME..NAME + number(&packet, LENGTH) as usize];
        let name = String::from_utf8_lossy(name).into_owned();
        let folder = self.place.join(&name);
        fs::create_dir_all(&folder)?;
        fill(&folder)?;
        let token = number(&packet, TOKEN);
        // SAFETY: takes a number only.
        Errno::result(unsafe { libc::ioctl(self.control.as_raw_fd(), AUTOFS_IOC_READY, token) })?;
        Ok(name)
    }
}

/// Somebody who is none of the daemon's group, and waits for what he uses.
fn visitor(cx: &mut Context) -> Verdict {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    cx.post("visitor")?;
    cx.park()?;
    for (path, text) in [("some/first", "in first"), ("some/key", "in key"), ("empty/late", "in late")] {
        mounting::ensure_text(&cx.path(path).join("file"), text)?;
    }
    Ok(())
}

/// Is a daemon, before and after the dump.
fn daemon(cx: &mut Context, wait: impl FnOnce(&mut Context) -> Verdict) -> Verdict {
    let (mut some, mut empty) = (Served::new(cx, "some")?, Served::new(cx, "empty")?);
    fs::create_dir_all(some.place.join("shown/inner"))?;
    fs::create_dir_all(some.place.join("first"))?;
    fill(&some.place.join("first"))?;
    let visitor = cx.child(visitor)?;
    cx.wait_for("visitor")?;
    wait(cx)?;
    let mut names: Vec<_> =
        fs::read_dir(&some.place)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_, Failure>>()?;
    names.sort();
    ensure_eq!(names, ["first", "shown"], "folders");
    ensure!(some.place.join("shown/inner").is_dir(), "a folder in a folder is gone");
    ensure_eq!(some.serve()?, "key", "what the daemon is asked for");
    ensure_eq!(empty.serve()?, "late", "what the other daemon is asked for");
    visitor.join()
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    daemon(cx, mounting::barrier)
}

/// In a mount namespace of a child.
pub(crate) fn part(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mounting::change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        daemon(cx, |cx| {
            let before = mounting::tree()?;
            cx.post("daemon")?;
            cx.park()?;
            ensure_eq!(mounting::tree()?, before, "mounts");
            Ok(())
        })
    })?;
    cx.wait_for("daemon")?;
    mounting::barrier(cx)?;
    child.join()
}

/// One that is a place to mount something at itself.
pub(crate) fn direct(cx: &mut Context) -> Verdict {
    let place = mounting::folder(cx, "place")?;
    let (reader, writer) = nix::unistd::pipe()?;
    let options = format!("fd={},minproto=5,maxproto=5,direct", writer.as_raw_fd());
    mount(Some("zdtm"), &place, Some("autofs"), MsFlags::empty(), Some(options.as_str()))?;
    cx.barrier()?;
    ensure!(mounting::is_mounted(&place)?, "it was unmounted");
    drop(reader);
    Ok(())
}
