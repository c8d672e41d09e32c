//! Inotify instances, for workloads that have one: made, watched and read with nothing in between.

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use zdtm::workload::Failure;

/// An instance.
pub(crate) struct Instance(pub File);

/// An event: watch, mask, name.
pub(crate) type Event = (i32, u32, String);

impl Instance {
    /// One that does not block.
    pub(crate) fn new() -> Result<Self, Failure> {
        // SAFETY: takes numbers only.
        let fd = Errno::result(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Watches a path, and says under which number.
    pub(crate) fn add(&self, path: &Path, mask: u32) -> Result<i32, Failure> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the kernel reads a terminated string.
        Ok(Errno::result(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) })?)
    }

    /// Ends a watch.
    pub(crate) fn remove(&self, wd: i32) -> Result<(), Failure> {
        // SAFETY: takes numbers only.
        Errno::result(unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), wd) })?;
        Ok(())
    }

    /// All events that wait.
    pub(crate) fn events(&mut self) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let mut rest = match self.0.read(&mut buffer) {
                Ok(read) => buffer.get(..read).unwrap_or_default(),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(events),
                Err(e) => return Err(e.into()),
            };
            while let Some((head, after)) = rest.split_first_chunk::<16>() {
                let word = |at: usize| {
                    let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                    u32::from_ne_bytes(bytes.unwrap_or_default())
                };
                let (name, after) = after.split_at_checked(word(12) as usize).unwrap_or_default();
                let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
                events.push((word(0) as i32, word(4), name));
                rest = after;
            }
        }
    }
}
