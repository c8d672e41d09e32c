//! Pipes: `pipe:[INO]`, where the inode number names the pipe and the access mode the end.
//!
//! What is in a pipe is copied with tee(2), which takes nothing out. Whether an end is held outside of the tree cannot be
//! seen directly, but a pipe tells its other end when nobody holds it any more (`POLLERR`, `POLLHUP`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::messages::{FdTypes, FileEntry, PipeDataEntry, PipeEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::link::Link;

/// Anonymous pipes.
#[derive(Debug)]
pub struct Pipe;

/// Why a pipe cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum PipeRefusal {
    /// Somebody else holds the other end.
    #[error("the other end of the pipe is held by a process outside of the tree")]
    OtherEndOutside,
    /// Packets whose bounds would be lost.
    #[error("the pipe is in packet mode and not empty, which is not supported yet")]
    Packets,
}

impl Explain for PipeRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::OtherEndOutside => Some("dump the common parent, or redirect the output to a file".into()),
            Self::Packets => None,
        }
    }
}

/// One pipe, as it shows while its ends are found.
#[derive(Debug)]
struct Seen {
    has_reader: bool,
    has_writer: bool,
    /// A duplicate of the first end found, to ask the pipe about the other.
    end: OwnedFd,
    object: Object,
    data: Option<Vec<u8>>,
    size: u32,
}

#[derive(Debug, Default)]
struct Dumped(BTreeMap<u32, Seen>);

impl FileKind for Pipe {
    const NAME: &'static str = "pipe";
    const NOT_SAVED: &'static [&'static str] = &["inode numbers"];
    const TYPE: FdTypes = FdTypes::Pipe;
    type Image = PipeEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        matches!(fd.link(), Link::Pipe(_)) && !fd.is_path_only()
    }

    fn member(entry: &mut FileEntry) -> &mut Option<PipeEntry> {
        &mut entry.pipe
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<PipeEntry, Problem> {
        let pipe_id = fd.stat.st_ino as u32;
        let flags = fd.flags();
        let end = fd.dup()?;
        let (reads, writes) = ends(flags);
        let size =
            nix::fcntl::fcntl(end, FcntlArg::F_GETPIPE_SZ).map_err(SysError::of("fcntl(F_GETPIPE_SZ)"))?;
        let data = if reads {
            Some(peek(end, size as usize).while_trying_to("copy what is in the pipe")?)
        } else {
            None
        };
        if flags & libc::O_DIRECT != 0 && data.as_ref().is_some_and(|d| !d.is_empty()) {
            return Err(Problem::new(PipeRefusal::Packets));
        }
        let pipes = &mut cx.state::<Dumped>().0;
        if let Some(seen) = pipes.get_mut(&pipe_id) {
            seen.has_reader |= reads;
            seen.has_writer |= writes;
            seen.data = seen.data.take().or(data);
        } else {
            let end = end.try_clone_to_owned().map_err(SysError::io("dup"))?;
            let (has_reader, has_writer) = (reads, writes);
            let seen = Seen { has_reader, has_writer, end, object: fd.object(), data, size: size as u32 };
            pipes.insert(pipe_id, seen);
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        Ok(PipeEntry { id, pipe_id, flags: flags as u32, fown })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let pipes = std::mem::take(cx.state::<Dumped>()).0;
        for seen in pipes.values() {
            if is_held_outside(seen)? {
                return Err(Problem::new(PipeRefusal::OtherEndOutside).object(seen.object.clone()));
            }
        }
        if pipes.is_empty() {
            return Ok(());
        }
        images.write_with(&proto::catalogue::PIPES_DATA, 0, |writer| {
            for (&pipe_id, seen) in &pipes {
                let data = seen.data.as_deref().unwrap_or_default();
                writer.entry(&PipeDataEntry { pipe_id, bytes: data.len() as u32, size: Some(seen.size) })?;
                writer.extra(data)?;
            }
            Ok(())
        })
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &PipeEntry) -> Result<OwnedFd, Problem> {
        let made = match cx.state::<Restored>().0.remove(&image.pipe_id) {
            Some(ends) => ends,
            None => make(cx, image.pipe_id)?,
        };
        let (_, writes) = ends(image.flags as i32);
        let end = if writes { &made.writer } else { &made.reader };
        let fd = open_end(end.as_fd(), image.flags)?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        cx.state::<Restored>().0.insert(image.pipe_id, made);
        Ok(fd)
    }
}

/// Whether flags read, and whether they write.
fn ends(flags: i32) -> (bool, bool) {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        _ => (true, true),
    }
}

/// Copies what is in a pipe without taking it out.
fn peek(end: BorrowedFd<'_>, size: usize) -> Result<Vec<u8>, SysError> {
    let (reader, writer) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(SysError::of("pipe2"))?;
    let size_arg = FcntlArg::F_SETPIPE_SZ(size as i32);
    nix::fcntl::fcntl(&writer, size_arg).map_err(SysError::of("fcntl(F_SETPIPE_SZ)"))?;
    match nix::fcntl::tee(end, &writer, size, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(_) | Err(nix::errno::Errno::EAGAIN) => {}
        Err(errno) => return Err(SysError { call: "tee", errno }),
    }
    drop(writer);
    let mut data = Vec::new();
    let mut buffer = [0_u8; 64 * 1024];
    loop {
        match nix::unistd::read(&reader, &mut buffer).map_err(SysError::of("read"))? {
            0 => return Ok(data),
            len => data.extend_from_slice(buffer.get(..len).unwrap_or_default()),
        }
    }
}

/// Whether an end that no task of the tree has is open all the same.
fn is_held_outside(seen: &Seen) -> Result<bool, Problem> {
    let gone = match (seen.has_reader, seen.has_writer) {
        (true, true) => return Ok(false),
        (true, false) => PollFlags::POLLHUP,
        (false, _) => PollFlags::POLLERR,
    };
    let mut polled = [PollFd::new(seen.end.as_fd(), PollFlags::empty())];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(!polled.revents().unwrap_or(PollFlags::empty()).contains(gone))
}

/// Both ends of a pipe that was made again; an end that nobody takes is closed with this.
#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

#[derive(Debug, Default)]
struct Restored(BTreeMap<u32, Ends>);

/// Contents and sizes of all pipes, read once.
#[derive(Debug, Default)]
struct Contents(Option<BTreeMap<u32, (Vec<u8>, u32)>>);

/// Makes a pipe of the size and with the contents that it had.
fn make(cx: &mut FilesRestore<'_>, pipe_id: u32) -> Result<Ends, Problem> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
    if cx.state::<Contents>().0.is_none() {
        let read = read_contents(cx)?;
        cx.state::<Contents>().0 = Some(read);
    }
    let contents = cx.state::<Contents>().0.as_mut().and_then(|c| c.remove(&pipe_id));
    let Some((data, size)) = contents else { return Ok(Ends { reader, writer }) };
    if size != 0 {
        nix::fcntl::fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size as i32))
            .map_err(SysError::of("fcntl(F_SETPIPE_SZ)"))
            .while_trying_to("give the pipe its size")?;
    }
    let size =
        nix::fcntl::fcntl(&writer, FcntlArg::F_GETPIPE_SZ).map_err(SysError::of("fcntl(F_GETPIPE_SZ)"))?;
    if data.len() > size as usize {
        return Err(invalid(&proto::catalogue::PIPES_DATA, 0, "a pipe holds more than its size"));
    }
    let mut file = std::fs::File::from(writer);
    file.write_all(&data).map_err(SysError::io("write")).while_trying_to("fill the pipe")?;
    Ok(Ends { reader, writer: file.into() })
}

fn read_contents(cx: &FilesRestore<'_>) -> Result<BTreeMap<u32, (Vec<u8>, u32)>, Problem> {
    cx.images.read_with(&proto::catalogue::PIPES_DATA, 0, |mut reader| {
        let mut contents = BTreeMap::new();
        while let Some(entry) = reader.entry::<PipeDataEntry>()? {
            let data = reader.extra(u64::from(entry.bytes))?;
            contents.insert(entry.pipe_id, (data, entry.size.unwrap_or(0)));
        }
        Ok(contents)
    })
}

/// A new description of one end: several may refer to the same end, each with flags of its own.
fn open_end(end: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd, Problem> {
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let mode = OFlag::from_bits_retain(flags as i32 & libc::O_ACCMODE) | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd =
        nix::fcntl::open(path.as_str(), mode, nix::sys::stat::Mode::empty()).map_err(SysError::of("open"))?;
    Ok(fd)
}
