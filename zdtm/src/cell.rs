//! Flavors `ns` and `userns`: a target in namespaces and with a root of its own.
//!
//! The root is the host's root file system, bound to a folder, so that a path means the same inside and outside; over it a
//! `/dev` that the runner makes, and proc and a devpts instance of the target's own. A restore needs the same root: the
//! trial makes it in a mount namespace of its own, and keeps it for the engine, whose `--root` it is.
//!
//! The target's init is of the workloads' program: it starts the workload, reaps orphans, and ends as the workload ends. It is
//! the root of the tree that is dumped.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getppid, pipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Flavor, Outer, Outside};

/// Where a target of its own namespaces lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The folder that becomes its root.
    pub root: PathBuf,
    /// What becomes its `/dev`.
    dev: PathBuf,
    /// Whether it has a user namespace, too.
    users: bool,
    /// A file system of the host that it has mounted.
    outside: Option<(PathBuf, Outside)>,
    /// A pair of network devices, one of which is in it.
    outer: Option<Outer>,
}

/// Where the file system of the host is mounted of which a target with this directory has a part.
pub fn outside_of(dir: &Path) -> PathBuf {
    beside(dir, "outside")
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    dir.with_file_name(format!("{what}.{}", dir.file_name().unwrap_or_default().display()))
}

/// Device nodes: name, major and minor number.
const NODES: [(&str, u64, u64); 9] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("console", 5, 1),
    ("tty0", 4, 0),
    ("net/tun", 10, 200),
];
/// Links of `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// The first id outside of a user namespace, and how many there are.
const IDS: (u32, u32) = (100_000, 65_536);

/// From `include/uapi/linux/sched.h`.
const CLONE_NEWTIME: i32 = 0x80;
/// How far the target's clocks are ahead (time_namespaces(7)).
const OFFSETS: &str = "monotonic 86400 5\nboottime 864000 7\n";

impl Cell {
    /// The cell of a test whose directory is `dir`; none for the host's flavor.
    pub fn of(flavor: Flavor, dir: &Path, entry: &Entry) -> Option<Self> {
        let beside = |what: &str| beside(dir, what);
        let outside = entry.outside.map(|sort| (outside_of(dir), sort));
        let users = match flavor {
            Flavor::Host => return None,
            Flavor::Ns => false,
            Flavor::Userns => true,
        };
        Some(Self { root: beside("root"), dev: beside("dev"), users, outside, outer: entry.outer.clone() })
    }

    /// Gives an init the inner end of its pair of network devices, if it is to have one.
    pub fn connect(&self, init: i32) -> Result<()> {
        let Some(Outer { inner, outer, bridge }) = &self.outer else { return Ok(()) };
        ip(&format!("link add {outer} type veth peer name {inner} netns {init}"))?;
        if let Some(bridge) = bridge {
            ip(&format!("link set {outer} master {bridge}"))?;
        }
        ip(&format!("link set {outer} up"))
    }

    /// Makes a network namespace for the outside, which ends with this process.
    fn make_network(outer: &Outer) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        ip("link set lo up")?;
        if let Some(bridge) = &outer.bridge {
            ip(&format!("link add {bridge} type bridge"))?;
            ip(&format!("addr add 192.0.2.254/24 dev {bridge}"))?;
            ip(&format!("link set {bridge} up"))?;
        }
        Ok(())
    }

    /// Makes root and `/dev`, in a mount namespace that ends with this process.
    pub fn prepare(&self) -> Result<()> {
        self.outer.iter().try_for_each(Self::make_network)?;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        change(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
        fs::create_dir(&self.root).with_context(|| self.root.display().to_string())?;
        self.make_dev().with_context(|| self.dev.display().to_string())?;
        if let Some((path, sort)) = &self.outside {
            make_outside(path, *sort).with_context(|| path.display().to_string())?;
        }
        bind(Path::new("/"), &self.root)
    }

    fn make_dev(&self) -> Result<()> {
        fs::create_dir(&self.dev)?;
        fs::create_dir(self.dev.join("net"))?;
        for (name, major, minor) in NODES {
            let path = self.dev.join(name);
            mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        }
        for (name, to) in LINKS {
            symlink(to, self.dev.join(name))?;
        }
        for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o755)] {
            let path = self.dev.join(name);
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Removes what [`Cell::prepare`] made on disk. What was mounted is gone: else the root is not empty, and stays.
    pub fn remove(&self) {
        // Leftovers are no fault of the entry's.
        let _ = fs::remove_dir(&self.root);
        if let Some((path, _)) = &self.outside {
            let _ = fs::remove_dir(path);
        }
        for name in NODES.map(|(name, ..)| name).into_iter().chain(LINKS.map(|(name, _)| name)) {
            let _ = fs::remove_file(self.dev.join(name));
        }
        let _ = fs::remove_dir_all(&self.dev);
    }

    /// In a process that was made for it: starts the target in its namespaces, writes the pid of its init, and returns.
    pub fn start(&self, words: &[String], pid_file: &Path) -> Result<()> {
        if self.users {
            enter_user_namespace()?;
        }
        let flags = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::from_bits_retain(CLONE_NEWTIME);
        unshare(flags).context("cannot make namespaces")?;
        fs::write("/proc/self/timens_offsets", OFFSETS).context("cannot shift the clocks")?;
        match fork_alone()? {
            ForkResult::Parent { child } => Ok(fs::write(pid_file, child.to_string())?),
            ForkResult::Child => {
                let error = self.become_init(words).err().unwrap_or_else(|| anyhow::anyhow!("it returned"));
                crate::progress::complain(&format!("{error:#}"));
                crate::workload::exit_now(127)
            }
        }
    }

    fn become_init(&self, words: &[String]) -> Result<()> {
        nix::unistd::setsid().context("setsid")?;
        nix::unistd::sethostname("zdtm").context("sethostname")?;
        loopback_up().context("cannot set lo up")?;
        let dir = std::env::current_dir()?;
        let log = fs::read_link("/proc/self/fd/1").context("no log")?;
        // Of what was prepared, only a file system of the host may be shared.
        match &self.outside {
            Some((_, Outside::Shared)) => {}
            Some((_, Outside::Slave)) => change(Path::new("/"), MsFlags::MS_SLAVE | MsFlags::MS_REC)?,
            _ => change(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?,
        }
        // In a user namespace, mounts that come from outside stay together: these are copies that do not.
        mount(Some(&self.root), &self.root, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        let careful = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let place = |name: &str| self.root.join(name);
        bind(&place(&self.dev.strip_prefix("/").unwrap_or(&self.dev).display().to_string()), &place("dev"))?;
        mount(Some("proc"), &place("proc"), Some("proc"), careful, None::<&str>).context("proc")?;
        let options = Some("newinstance,ptmxmode=0666,mode=0620");
        let devpts = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("devpts"), &place("dev/pts"), Some("devpts"), devpts, options).context("devpts")?;
        // The test's directory is a mount of its own, so that the log is on none that a workload changes or leaves.
        let own = place(&dir.strip_prefix("/").unwrap_or(&dir).display().to_string());
        bind(&own, &own)?;
        if let Some((path, _)) = &self.outside {
            fs::create_dir(own.join("outside"))?;
            bind(path, &own.join("outside"))?;
        }
        nix::unistd::chdir(&self.root)?;
        nix::unistd::pivot_root(".", ".").context("pivot_root")?;
        umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root")?;
        nix::unistd::chdir(&dir).with_context(|| dir.display().to_string())?;
        let (program, args) = words.split_first().context("an empty command")?;
        // Files of the root that was are of mounts that are gone.
        let log = crate::target::append(&log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Err(command.exec()).with_context(|| program.clone())
    }
}

/// Forks, in a process that has one thread: a trial, and what it starts to prepare a target.
fn fork_alone() -> nix::Result<ForkResult> {
    // SAFETY: nobody else holds a lock that the child could wait for.
    unsafe { fork() }
}

/// For a target that runs as is: makes a mount namespace that ends with this process, and mounts in the test's directory what is
/// outside.
pub fn prepare_host(dir: &Path, outside: Option<Outside>) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    change(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    outside.map_or(Ok(()), |sort| make_outside(&dir.join("outside"), sort))
}

/// A file system with a file and a folder, mounted where the engine sees it.
fn make_outside(path: &Path, sort: Outside) -> Result<()> {
    fs::create_dir(path)?;
    mount(Some("outside"), path, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))?;
    fs::write(path.join("file"), "from outside")?;
    fs::create_dir(path.join("place"))?;
    // Root of a user namespace is anybody here.
    fs::set_permissions(path.join("place"), fs::Permissions::from_mode(0o777))?;
    if sort != Outside::Private {
        change(path, MsFlags::MS_SHARED)?;
    }
    Ok(())
}

fn change(path: &Path, flags: MsFlags) -> Result<()> {
    let none = None::<&str>;
    mount(none, path, none, flags, none)
        .with_context(|| format!("cannot change the mount {}", path.display()))
}

/// Calls ip(8).
fn ip(args: &str) -> Result<()> {
    let output = Command::new("ip").args(args.split(' ')).output().context("ip")?;
    ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let none = None::<&str>;
    let done = mount(Some(from), to, none, MsFlags::MS_BIND, none);
    done.with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

/// Becomes root of a new user namespace, whose maps a child writes that stays outside.
fn enter_user_namespace() -> Result<()> {
    let (mapped, entered) = (pipe()?, pipe()?);
    let writer = match fork_alone()? {
        ForkResult::Child => {
            drop(entered.1);
            let code = i32::from(write_maps(&entered.0).is_err());
            crate::workload::exit_now(code)
        }
        ForkResult::Parent { child } => child,
    };
    drop(mapped);
    unshare(CloneFlags::CLONE_NEWUSER).context("cannot make a user namespace")?;
    nix::unistd::write(&entered.1, b".")?;
    ensure!(waitpid(writer, None)? == WaitStatus::Exited(writer, 0), "the maps of ids could not be written");
    nix::unistd::setgroups(&[])?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    // A change of ids takes our files in /proc away from us.
    nix::sys::prctl::set_dumpable(true)?;
    Ok(())
}

fn write_maps(entered: &OwnedFd) -> Result<()> {
    nix::unistd::read(entered, &mut [0])?;
    for name in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{name}", getppid()), format!("0 {} {}\n", IDS.0, IDS.1))?;
    }
    Ok(())
}

/// Sets the loopback device up, as every host has it.
fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: numbers, and a union of such; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the name and the flags.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls `look` in the pid and mount namespaces of a process, where its own pid is `1`, and returns what it saw.
pub fn look_inside<T: Serialize + DeserializeOwned>(
    init: i32,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let pidfd = pidfd(init)?;
    let (reader, writer) = pipe()?;
    let outer = match fork_alone()? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => crate::workload::exit_now(i32::from(go_and_look(&pidfd, writer, look).is_err())),
    };
    drop(writer);
    let mut text = String::new();
    let read = File::from(reader).read_to_string(&mut text);
    waitpid(outer, None)?;
    read?;
    let answer: std::result::Result<T, String> =
        serde_json::from_str(&text).with_context(|| format!("cannot look into the namespaces: {text:?}"))?;
    answer.map_err(anyhow::Error::msg)
}

fn go_and_look<T: Serialize>(
    pidfd: &OwnedFd,
    answer: OwnedFd,
    look: impl FnOnce() -> Result<T>,
) -> Result<()> {
    nix::sched::setns(pidfd.as_fd(), CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
    match fork_alone()? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(())
        }
        ForkResult::Child => {
            let saw = look().map_err(|error| format!("{error:#}"));
            let text = serde_json::to_string(&saw).unwrap_or_default();
            let code = i32::from(File::from(answer).write_all(text.as_bytes()).is_err());
            crate::workload::exit_now(code)
        }
    }
}

fn pidfd(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        bail!("process {pid} is gone: {}", io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd as i32) })
}

/// What the init of a cell does: reaps whoever ends, until the workload does; how that ended, as an exit code.
pub fn reap_until(workload: Pid) -> i32 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == workload => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == workload => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 127,
        }
    }
}
