//! `--own-pidns`: a tree whose pids are taken here is restored into a pid namespace that is made for it.
//!
//! The root keeps its pid, so somebody else is the init there: a small process of ours. It makes a mount namespace with the procfs
//! that belongs there, waits until the tree runs, and then for its end; orphans it reaps meanwhile. As the tree's root is no child
//! of it, whoever restores the tree can wait for that as usual. If we die before the tree runs, it ends, and with it all who are
//! there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::procfs::link::NamespaceType;
use crate::sys::namespace::{self, INIT};
use crate::sys::{pidfd, process};
use crate::visit;

/// It could not be made; its init has said why.
#[derive(Debug, thiserror::Error)]
#[error("the init of a pid namespace for it could not begin")]
struct NoInit;

impl Explain for NoInit {
    fn class(&self) -> Class {
        Class::Environment
    }
}

/// The namespaces, and what holds their init until the tree runs.
#[derive(Debug)]
pub(super) struct OwnPids {
    leash: File,
    /// Types of the namespaces, with files for them.
    pub namespaces: Vec<(NamespaceType, File)>,
}

impl OwnPids {
    /// Makes a pid namespace, and a mount namespace with its procfs if the tree brings none.
    pub(super) fn make(has_mounts: bool) -> Result<Self, Problem> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"));
        let (held, leash) = pipe()?;
        let (begun, begins) = pipe()?;
        let mounts = if has_mounts { 0 } else { libc::CLONE_NEWNS };
        let forked = namespace::fork_with_pid(INIT, libc::CLONE_NEWPID | mounts);
        let Some(init) = forked.while_trying_to("make a pid namespace for it")? else {
            drop((leash, begun));
            if let Err(error) = be_init(held.into(), begins.into(), !has_mounts) {
                log::error!("the init of a pid namespace: {error}");
            }
            process::exit_now(1)
        };
        drop((held, begins));
        if File::from(begun).read_exact(&mut [0]).is_err() {
            return Err(Problem::new(NoInit));
        }
        let kinds = [Some(NamespaceType::Pid), (!has_mounts).then_some(NamespaceType::Mnt)];
        let open = |kind: NamespaceType| Ok((kind, visit::of(init, kind)?));
        let namespaces = kinds.into_iter().flatten().map(open).collect::<Result<_, Problem>>()?;
        Ok(Self { leash: leash.into(), namespaces })
    }

    /// The tree runs, with its root under this pid there.
    pub(super) fn let_go(mut self, root: i32) -> Result<(), Problem> {
        Ok(self.leash.write_all(&root.to_ne_bytes()).map_err(SysError::io("write (to the init)"))?)
    }
}

/// What the init does; returns an error if it cannot begin, or is not to go on.
fn be_init(mut held: File, mut begins: File, has_mounts: bool) -> Result<(), SysError> {
    nix::unistd::setsid().map_err(SysError::of("setsid"))?;
    if has_mounts {
        let none = None::<&str>;
        // What is mounted outside appears inside, as if there were no other namespace.
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(SysError::of("mount"))?;
        let careful = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let proc = Some("proc");
        mount(proc, "/proc", proc, careful, none).map_err(SysError::of("mount(proc)"))?;
    }
    begins.write_all(b".").map_err(SysError::io("write"))?;
    drop(begins);
    let mut root = [0; 4];
    held.read_exact(&mut root).map_err(SysError::io("read"))?;
    drop(held);
    let root = pidfd::open(i32::from_ne_bytes(root))?;
    settle(&root)?;
    // Orphans leave nothing behind then.
    process::ignore(Signal::SIGCHLD)?;
    wait_for_end(&root)?;
    process::exit_now(0)
}

/// Holds on to nothing of the command's: neither files nor a directory.
fn settle(root: &OwnedFd) -> Result<(), SysError> {
    nix::unistd::chdir("/").map_err(SysError::of("chdir"))?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR, Mode::empty()).map_err(SysError::of("open"))?;
    nix::unistd::dup2_stdin(&null).map_err(SysError::of("dup2"))?;
    nix::unistd::dup2_stdout(&null).map_err(SysError::of("dup2"))?;
    nix::unistd::dup2_stderr(&null).map_err(SysError::of("dup2"))?;
    drop(null);
    process::close_all_but(&[root.as_raw_fd()]);
    nix::sys::prctl::set_name(c"stasis-init").map_err(SysError::of("prctl(PR_SET_NAME)"))
}

/// Waits until nobody else is there: first the root ends, then the last of those that outlive it.
fn wait_for_end(root: &OwnedFd) -> Result<(), SysError> {
    const STEP: Duration = Duration::from_millis(100);
    let mut polled = [PollFd::new(root.as_fd(), PollFlags::POLLIN)];
    while let Err(errno) = nix::poll::poll(&mut polled, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(SysError { call: "poll(pidfd)", errno });
        }
    }
    while kill(Pid::from_raw(-1), None) != Err(Errno::ESRCH) {
        std::thread::sleep(STEP);
    }
    Ok(())
}
