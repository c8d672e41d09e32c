//! Pipes: `pipe:[INO]`, where the inode number names the pipe and the access mode the end.
//!
//! What is in a pipe is copied with tee(2), which takes nothing out. Whether an end is held outside of the tree cannot be
//! seen directly, but a pipe tells its other end when nobody holds it any more (`POLLERR`, `POLLHUP`).

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::messages::{FdTypes, FileEntry, PipeEntry};

use super::pipe_data::{self, Contents};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, policy, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::mount_spaces::MountSpaces;
use crate::mounts::{autofs, read};
use crate::options::Unsupported;
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
}

impl Explain for PipeRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::OtherEndOutside => Some(
                "dump the common parent, or pass --external pipe[INO] and hand it in at restore with --inherit-fd, or \
                 lose it with --on-unsupported pipe=close"
                    .into(),
            ),
        }
    }
}

/// One pipe, as it shows while its ends are found.
#[derive(Debug)]
struct Seen {
    /// Files that are its ends.
    ids: Vec<u32>,
    /// Its whole inode number.
    inode: u64,
    has_reader: bool,
    has_writer: bool,
    /// A duplicate of the first end found, to ask the pipe about the other.
    end: OwnedFd,
    object: Object,
    contents: Option<Contents>,
}

#[derive(Debug, Default)]
struct Dumped(BTreeMap<u32, Seen>);

/// A flag that `open` adds on its own account: it tells descriptions that were opened from those that `pipe` made.
const O_LARGEFILE: i32 = 0o100_000;

impl FileKind for Pipe {
    const NAME: &'static str = "pipe";
    const NOT_SAVED: &'static [&'static str] = &["inode numbers"];
    const TYPE: FdTypes = FdTypes::Pipe;
    type Image = PipeEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        matches!(fd.link(), Link::Pipe(_)) && !fd.is_path_only()
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<PipeEntry>> {
        &mut entry.pipe
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<PipeEntry, Problem> {
        let pipe_id = fd.stat.st_ino as u32;
        let flags = fd.flags();
        let end = fd.dup()?;
        let (reads, writes) = pipe_data::ends(flags);
        let contents = if reads { Some(Contents::read(end)?) } else { None };
        let pipes = &mut cx.state::<Dumped>().0;
        if let Some(seen) = pipes.get_mut(&pipe_id) {
            seen.ids.push(id);
            seen.has_reader |= reads;
            seen.has_writer |= writes;
            seen.contents = seen.contents.take().or(contents);
        } else {
            let end = end.try_clone_to_owned().map_err(SysError::io("dup"))?;
            let (has_reader, has_writer) = (reads, writes);
            let (ids, inode, object) = (vec![id], fd.stat.st_ino, fd.object());
            pipes.insert(pipe_id, Seen { ids, inode, has_reader, has_writer, end, object, contents });
        }
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        Ok(PipeEntry { id, pipe_id, flags: flags as u32, fown })
    }

    fn check_dumped(cx: &mut FilesDump<'_>, problems: &mut Vec<Problem>) {
        let pipes = std::mem::take(cx.state::<Dumped>()).0;
        for seen in pipes.values() {
            match is_held_outside(seen) {
                Ok(false) => {}
                // Its other end is held by a mount, which is made again.
                Ok(true) if is_of_autofs(cx, seen.inode) => {}
                Ok(true) if policy::is_external_pipe(&cx.options.files, seen.inode) => {
                    policy::note_external(cx, format!("pipe:[{}]", seen.inode as u32));
                }
                Ok(true) if policy::choice(&cx.options.files, Self::NAME) == Unsupported::Close => {
                    let lost = Problem::new(PipeRefusal::OtherEndOutside).object(seen.object.clone());
                    seen.ids.iter().for_each(|id| policy::close(cx, *id, Self::NAME, &lost));
                }
                Ok(true) => {
                    problems.push(Problem::new(PipeRefusal::OtherEndOutside).object(seen.object.clone()));
                }
                Err(problem) => problems.push(problem.object(seen.object.clone())),
            }
        }
        cx.state::<Dumped>().0 = pipes;
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let pipes = std::mem::take(cx.state::<Dumped>()).0;
        let mut contents = BTreeMap::new();
        for (pipe_id, seen) in pipes {
            // Without a reader, nobody will ever read what is in it.
            let read = seen.contents.map_or_else(|| Contents::empty(seen.end.as_fd()), Ok)?;
            contents.insert(pipe_id, read);
        }
        pipe_data::write(images, &proto::catalogue::PIPES_DATA, &contents)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &PipeEntry) -> Result<OwnedFd, Problem> {
        if let Some(handed) = policy::inherited(cx, &[format!("pipe:[{}]", image.pipe_id)]) {
            return act_outside(handed, image).while_trying_to("take the pipe that was handed in");
        }
        if !cx.state::<Restored>().0.contains_key(&image.pipe_id) {
            let made = make(cx, image.pipe_id)?;
            cx.state::<Restored>().0.insert(image.pipe_id, made);
        }
        let made = cx.state::<Restored>().0.get(&image.pipe_id);
        let made = made.ok_or(SysError { call: "pipe2", errno: nix::errno::Errno::ENOENT })?;
        let flags = image.flags as i32;
        let fd = if flags & O_LARGEFILE != 0 || pipe_data::ends(flags) == (true, true) {
            pipe_data::reopen(made.reader.as_fd(), flags)?
        } else {
            let (_, writes) = pipe_data::ends(flags);
            let end = if writes { made.writer.as_fd() } else { made.reader.as_fd() };
            end.try_clone_to_owned().map_err(SysError::io("dup"))?
        };
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }
}

/// An end of a pipe that somebody else made: what we were given, if it is the right end, or another of the same pipe.
fn act_outside(handed: BorrowedFd<'_>, image: &PipeEntry) -> Result<OwnedFd, Problem> {
    let flags = nix::fcntl::fcntl(handed, FcntlArg::F_GETFL).map_err(SysError::of("fcntl(F_GETFL)"))?;
    let fd = if pipe_data::ends(flags) == pipe_data::ends(image.flags as i32) {
        handed.try_clone_to_owned().map_err(SysError::io("dup"))?
    } else {
        pipe_data::reopen(handed, image.flags as i32)?
    };
    set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
    Ok(fd)
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

/// Whether the kernel asks a daemon by it, for a mount that the tree has for itself.
fn is_of_autofs(cx: &mut FilesDump<'_>, inode: u64) -> bool {
    if cx.state::<AutofsPipes>().0.is_none() {
        let root = cx.options.tree;
        let spaces = cx.state::<MountSpaces>().all().iter();
        let namespaces = spaces.map(|space| read::namespace(root, space.pid, space.id));
        // What cannot be read now is refused when it is to be kept.
        let namespaces = namespaces.collect::<Result<Vec<_>, _>>().unwrap_or_default();
        let pipes = autofs::daemons(&namespaces).iter().map(|daemon| daemon.pipe).collect();
        cx.state::<AutofsPipes>().0 = Some(pipes);
    }
    cx.state::<AutofsPipes>().0.as_ref().is_some_and(|pipes| pipes.contains(&inode))
}

/// Pipes by which the kernel asks daemons of the tree's mounts, once somebody wanted to know.
#[derive(Debug, Default)]
struct AutofsPipes(Option<Vec<u64>>);

/// Whether a file is the end to write to of a pipe.
pub fn is_writer(cx: &FilesRestore<'_>, id: u32, inode: u64) -> bool {
    let pipe = cx.entries.get(&id).and_then(|entry| entry.pipe.as_ref());
    pipe.is_some_and(|pipe| u64::from(pipe.pipe_id) == inode && pipe_data::ends(pipe.flags as i32).1)
}

/// The end to write to of a pipe that was made again, if the tree has it.
pub fn writer<'a>(cx: &'a FilesRestore<'_>, inode: u64) -> Option<&'a OwnedFd> {
    let made = cx.peek::<Restored>()?.0.get(&u32::try_from(inode).ok()?);
    made.map(|ends| &ends.writer)
}

/// Both ends of a pipe that was made again; an end that nobody takes is closed with this.
#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

#[derive(Debug, Default)]
struct Restored(BTreeMap<u32, Ends>);

/// Contents of all pipes, read once.
#[derive(Debug, Default)]
struct Loaded(Option<BTreeMap<u32, Contents>>);

/// Makes a pipe of the size and with the contents that it had.
fn make(cx: &mut FilesRestore<'_>, pipe_id: u32) -> Result<Ends, Problem> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
    if cx.state::<Loaded>().0.is_none() {
        let read = pipe_data::load(cx.images, &proto::catalogue::PIPES_DATA)?;
        cx.state::<Loaded>().0 = Some(read);
    }
    if let Some(contents) = cx.state::<Loaded>().0.as_mut().and_then(|all| all.remove(&pipe_id)) {
        contents.fill(writer.as_fd()).while_trying_to("fill the pipe")?;
    }
    nix::fcntl::fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).map_err(SysError::of("fcntl(F_SETFL)"))?;
    Ok(Ends { reader, writer })
}
