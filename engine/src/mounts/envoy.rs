//! Work that must be done inside other namespaces: by an *envoy*, a small process of ours, which comes back with bytes or a
//! reason.
//!
//! Here it goes for one thing and ends; the process that does all the rest of a dump or restore in there is of `inside.rs`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::kinds::namespaces::user;
use crate::procfs::link::NamespaceType;
use crate::sys::{pidfd, process};

/// A failure, as the process that met it told it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Told {
    class: Class,
    text: String,
    help: Option<String>,
}

impl Explain for Told {
    fn class(&self) -> Class {
        self.class
    }

    fn help(&self) -> Option<String> {
        self.help.clone()
    }
}

/// Classes, by the byte that tells them.
const CLASSES: [Class; 4] = [Class::Refused, Class::Environment, Class::Failed, Class::Bug];

/// What comes before the bytes of a success.
const SUCCESS: u8 = b'+';

impl Told {
    /// What one process tells another of a problem.
    fn encode(problem: &Problem) -> Vec<u8> {
        let class = CLASSES.iter().position(|class| *class == problem.cause.class()).unwrap_or(2);
        let object = problem.object.as_ref().map_or(String::new(), |object| format!("{object}: "));
        let step = problem.step.map_or(String::new(), |step| format!("failed to {step}: "));
        let help = problem.cause.help().unwrap_or_default();
        let mut bytes = vec![class as u8];
        bytes.extend_from_slice(format!("{object}{step}{}\0{help}", problem.cause).as_bytes());
        bytes
    }

    /// What was told.
    fn decode(bytes: &[u8]) -> Self {
        let (class, text) = bytes.split_first().unwrap_or((&2, b"the process that did it was killed"));
        let text = String::from_utf8_lossy(text);
        let (text, help) = text.split_once('\0').unwrap_or((&text, ""));
        Self {
            class: CLASSES.get(usize::from(*class)).copied().unwrap_or(Class::Failed),
            text: text.to_owned(),
            help: (!help.is_empty()).then(|| help.to_owned()),
        }
    }
}

/// Namespaces of another process, of which a small process of ours becomes a member.
#[derive(Debug)]
pub struct Namespaces(Vec<(OwnedFd, CloneFlags)>);

impl Namespaces {
    /// The mount namespace of a process, and the user namespace of a tree's root where that is not ours, which numbers users as
    /// images do. Looked up while they surely live.
    pub fn of(root: i32, pid: i32) -> Result<Self, Problem> {
        let mut all = Vec::new();
        let user = format!("/proc/{root}/ns/user");
        // Entering the one that we are in is refused.
        if std::fs::read_link(&user).ok() != std::fs::read_link("/proc/self/ns/user").ok() {
            all.push((open(&user)?, CloneFlags::CLONE_NEWUSER));
        }
        all.push((open(&format!("/proc/{pid}/ns/mnt"))?, CloneFlags::CLONE_NEWNS));
        Ok(Self(all))
    }

    /// The user namespace of a tree's root, where that is not ours.
    pub fn of_users(root: i32) -> Result<Self, Problem> {
        let mut all = Self::of(root, root)?;
        all.0.retain(|(_, flag)| *flag == CloneFlags::CLONE_NEWUSER);
        Ok(all)
    }

    /// The namespace of a type that a process is in, and the user namespace of a tree's root where that is not ours.
    pub fn of_type(root: i32, pid: i32, kind: NamespaceType) -> Result<Self, Problem> {
        let mut all = Self::of_users(root)?;
        let flag = CloneFlags::from_bits_retain(kind.clone_flag());
        all.0.push((open(&format!("/proc/{pid}/ns/{}", kind.name()))?, flag));
        Ok(all)
    }

    /// The calling process becomes a member, and root in that user namespace, before it goes into others.
    pub fn enter_as_root(&self) -> Result<(), SysError> {
        self.0.iter().try_for_each(|(fd, kind)| {
            nix::sched::setns(fd, *kind).map_err(SysError::of("setns"))?;
            if *kind == CloneFlags::CLONE_NEWUSER { user::become_root() } else { Ok(()) }
        })
    }

    /// The calling process becomes a member. It must have one thread, and share no working directory.
    pub fn enter(&self) -> Result<(), SysError> {
        self.0.iter().try_for_each(|(fd, kind)| nix::sched::setns(fd, *kind).map_err(SysError::of("setns")))
    }
}

fn open(path: &str) -> Result<OwnedFd, Problem> {
    let file = File::open(path).map_err(SysError::io("open"));
    file.map(OwnedFd::from).about(|| Object::Path(path.into()))
}

/// Has a fork of ours do some work. It ends without running any destructor, so that it undoes nothing that we have begun.
pub fn fork<W>(work: W) -> Result<Vec<u8>, Problem>
where
    W: FnOnce() -> Result<Vec<u8>, Problem>,
{
    // It must not stay: where several threads do this, each fork has the pipes of others open, and they would wait for each other.
    fork_until_heard(|| Ok((work()?, ())), false, |_pid, bytes| Ok(bytes.to_vec()))
}

/// Has a fork of ours do some work, and stay until we have done something with its answer.
pub fn hold<W, T>(work: W, then: impl FnOnce(Vec<u8>) -> Result<T, Problem>) -> Result<T, Problem>
where
    W: FnOnce() -> Result<Vec<u8>, Problem>,
{
    fork_until_heard(|| Ok((work()?, ())), true, |_pid, bytes| then(bytes.to_vec()))
}

/// As [`fork`], for work that comes back with lists of open files, each with a number.
pub fn fork_for_files<W, const N: usize>(work: W) -> Result<[Vec<(u32, OwnedFd)>; N], Problem>
where
    W: FnOnce() -> Result<[Vec<(u32, OwnedFd)>; N], Problem>,
{
    let work = || {
        let lists = work()?;
        let all = (0_u32..).zip(&lists);
        let all = all.flat_map(|(list, files)| files.iter().map(move |(id, fd)| (list, *id, fd.as_raw_fd())));
        let words = all.flat_map(|(list, id, fd)| [list, id, fd.cast_unsigned()]);
        Ok((words.flat_map(u32::to_ne_bytes).collect(), lists))
    };
    fork_until_heard(work, true, |pid, bytes| {
        let process = pidfd::open(pid)?;
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        let mut lists = std::array::from_fn(|_| Vec::new());
        for [list, id, fd] in words.as_chunks().0 {
            let taken = pidfd::getfd(&process, fd.cast_signed())?;
            if let Some(list) = lists.get_mut(*list as usize) {
                list.push((*id, taken));
            }
        }
        Ok(lists)
    })
}

/// Has a fork of ours do some work. If it stays, it keeps what it comes back with beside bytes until we have heard it.
fn fork_until_heard<W, K, H, T>(work: W, stays: bool, hear: H) -> Result<T, Problem>
where
    W: FnOnce() -> Result<(Vec<u8>, K), Problem>,
    H: FnOnce(i32, &[u8]) -> Result<T, Problem>,
{
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"));
    let ((reader, writer), (hold, held)) = (pipe()?, pipe()?);
    let Some(pid) = process::fork()? else {
        drop((reader, held));
        // A panic must not unwind into what is ours: there it would undo what is not finished.
        let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
            let cause = Told { class: Class::Bug, text: "it panicked".into(), help: None };
            Err(Problem::new(cause))
        });
        let (told, _kept) = match done {
            Ok((bytes, kept)) => ([&[SUCCESS], bytes.as_slice()].concat(), Some(kept)),
            Err(problem) => (Told::encode(&problem), None),
        };
        // Who cannot be told sees the end of the pipe.
        let _told = File::from(writer).write_all(&told);
        if stays {
            let _ended = nix::unistd::read(&hold, &mut [0]);
        }
        process::exit_now(0)
    };
    drop((writer, hold));
    let mut told = Vec::new();
    let read = File::from(reader).read_to_end(&mut told).map_err(SysError::io("read"));
    let heard = match told.split_first() {
        Some((&SUCCESS, bytes)) => hear(pid, bytes),
        _ => Err(Problem::new(Told::decode(&told))),
    };
    drop(held);
    process::wait(pid)?;
    read?;
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_across_processes() {
        let cause = SysError { call: "mount", errno: nix::errno::Errno::EPERM };
        let problem = Problem::new(cause).object(Object::Path("/a".into())).step("try");
        let told = Told::decode(&Told::encode(&problem));
        assert_eq!(told.class(), Class::Environment);
        assert!(told.to_string().starts_with("/a: failed to try: mount: "), "{told}");
        assert!(told.help().unwrap().contains("root"));
        assert_eq!(Told::decode(b"").class(), Class::Failed);
    }

    #[test]
    fn a_fork_answers_or_says_why_not() {
        assert_eq!(fork(|| Ok(b"here".to_vec())).unwrap(), b"here");
        let cause = || SysError { call: "x", errno: nix::errno::Errno::EINVAL };
        assert!(fork(|| Err(cause().into())).unwrap_err().cause.to_string().starts_with("x: "));
        assert_eq!(fork(|| panic!()).unwrap_err().cause.class(), Class::Bug);
    }
}
