//! Marks of inodes, a mount and a filesystem keep their masks, and nothing that a restore does is told as an event.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// From include/uapi/linux/fanotify.h, where libc has no number of the right type.
const REPORT_FID: u32 = 0x200;

struct Group(File);

impl Group {
    fn new(flags: u32) -> Result<Self, Failure> {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::fanotify_init(flags | libc::FAN_NONBLOCK, libc::O_RDONLY as u32) };
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { File::from_raw_fd(Errno::result(fd)?) }))
    }

    fn mark(&self, flags: u32, mask: u64, path: &Path) -> Verdict {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = flags | libc::FAN_MARK_ADD;
        // SAFETY: the kernel reads a terminated string.
        let done =
            unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
        Errno::result(done)?;
        Ok(())
    }

    /// Masks of all events that we made ourselves; descriptors that come with them are closed.
    fn events(&mut self) -> Result<Vec<u64>, Failure> {
        let mut masks = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let mut rest = match self.0.read(&mut buffer) {
                Ok(read) => buffer.get(..read).unwrap_or_default(),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(masks),
                Err(e) => return Err(e.into()),
            };
            // struct fanotify_event_metadata: length (32 bits), versions, mask at 8, descriptor at 16, pid at 20.
            while let Some(head) = rest.first_chunk::<24>() {
                let word = |at: usize| {
                    let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                    u32::from_ne_bytes(bytes.unwrap_or_default())
                };
                if word(16) as i32 >= 0 {
                    // SAFETY: the kernel made it for us, with this event.
                    drop(unsafe { File::from_raw_fd(word(16) as i32) });
                }
                if word(20) == std::process::id() {
                    masks.push(u64::from(word(8)) | u64::from(word(12)) << 32);
                }
                rest = rest.get(word(0) as usize..).unwrap_or_default();
            }
        }
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (folder, file) = (cx.path("folder"), cx.path("folder/file"));
    let ignored = cx.path("folder/ignored");
    fs::create_dir(&folder)?;
    fs::write(&file, "before")?;
    fs::write(&ignored, "before")?;
    let mut inodes = Group::new(libc::FAN_CLASS_NOTIF | libc::FAN_UNLIMITED_QUEUE)?;
    let children = libc::FAN_CLOSE_WRITE | libc::FAN_EVENT_ON_CHILD;
    inodes.mark(0, children, &folder)?;
    inodes.mark(0, libc::FAN_OPEN, &file)?;
    let survives = libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;
    inodes.mark(survives, libc::FAN_CLOSE_WRITE, &ignored)?;
    let mut mount = Group::new(libc::FAN_CLASS_NOTIF)?;
    mount.mark(libc::FAN_MARK_MOUNT, libc::FAN_CLOSE_WRITE, &folder)?;
    let mut filesystem = Group::new(libc::FAN_CLASS_NOTIF | REPORT_FID)?;
    filesystem.mark(libc::FAN_MARK_FILESYSTEM, libc::FAN_DELETE_SELF, &folder)?;
    cx.barrier()?;
    ensure_eq!(
        filesystem.events()?,
        Vec::<u64>::new(),
        "events of the filesystem before anything is removed"
    );
    ensure_eq!(inodes.events()?, Vec::<u64>::new(), "events that a restore made");
    fs::write(&ignored, "after")?;
    ensure_eq!(inodes.events()?, Vec::<u64>::new(), "events of the file that is ignored");
    ensure!(mount.events()?.contains(&libc::FAN_CLOSE_WRITE), "no event of the mount");
    fs::write(&file, "after")?;
    let all = inodes.events()?.into_iter().fold(0, |all, mask| all | mask);
    ensure_eq!(all, libc::FAN_OPEN | libc::FAN_CLOSE_WRITE, "events of the file");
    // An event that waits holds its file. Read, it lets go of it, and that is our doing where somebody has removed the file.
    mount.events()?;
    filesystem.events()?;
    fs::remove_file(&file)?;
    ensure_eq!(filesystem.events()?, [libc::FAN_DELETE_SELF], "events of the filesystem");
    Ok(())
}
