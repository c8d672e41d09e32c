//! User namespaces below that of the tree's root: `userns part` has several with what tasks have in them, `userns owned` one to which
//! other namespaces belong.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};
use zdtm::workload::{Context, Failure, Verdict, status_line};
use zdtm::{ensure, ensure_eq};

use crate::commands::ip;
use crate::{capability, mounting, msgque, utsname};

/// From linux/nsfs.h.
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

fn open(pid: &str, kind: &str) -> Result<File, Failure> {
    Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?)
}

/// The inode number of a namespace that another one leads to.
fn related(space: &File, request: libc::c_ulong) -> Result<u64, Failure> {
    // SAFETY: takes no argument.
    let fd = Errno::result(unsafe { libc::ioctl(space.as_raw_fd(), request) })?;
    // SAFETY: the kernel just made it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(file.metadata()?.ino())
}

fn ino(pid: &str, kind: &str) -> Result<u64, Failure> {
    Ok(open(pid, kind)?.metadata()?.ino())
}

/// Who made a namespace, as we number users.
fn maker(space: &File) -> Result<u32, Failure> {
    let mut uid = 0_u32;
    // SAFETY: the kernel writes one number.
    Errno::result(unsafe { libc::ioctl(space.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) })?;
    Ok(uid)
}

/// All that a task sees of its user namespace, its ids and its capabilities.
fn look() -> Result<Vec<String>, Failure> {
    let mut seen = Vec::new();
    for name in ["uid_map", "gid_map", "setgroups"] {
        seen.push(fs::read_to_string(format!("/proc/self/{name}"))?);
    }
    for key in ["Uid", "Gid", "Groups", "NoNewPrivs"] {
        seen.push(status_line("/proc/thread-self/status", key)?);
    }
    seen.extend(capability::shown()?);
    seen.push(format!("securebits {:#x}", Errno::result(securebits())?));
    Ok(seen)
}

fn securebits() -> i32 {
    // SAFETY: takes no arguments.
    unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }
}

/// A child has a time namespace for its own children, which belongs to a user namespace below.
pub(crate) fn time(cx: &mut Context) -> Verdict {
    /// From `include/uapi/linux/sched.h`.
    const CLONE_NEWTIME: i32 = 0x80;
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
        stay(cx, "below")
    })?;
    cx.wait_for("below")?;
    cx.barrier()?;
    child.join()
}

/// Stays until the barrier has been passed, and sees what it saw.
fn stay(cx: &Context, name: &str) -> Verdict {
    let before = look()?;
    cx.post(name)?;
    cx.park()?;
    ensure_eq!(look()?, before, format!("what {name} sees"));
    Ok(())
}

fn map(pid: Pid, uids: &str, gids: &str) -> Verdict {
    fs::write(format!("/proc/{pid}/uid_map"), uids)?;
    fs::write(format!("/proc/{pid}/gid_map"), gids)?;
    Ok(())
}

fn become_root() -> Verdict {
    setgroups(&[])?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    Ok(())
}

/// Everybody may leave files there.
fn open_doors(cx: &Context) -> Verdict {
    let dir = cx.path(".");
    if fs::metadata(&dir)?.permissions().mode() & 0o777 != 0o777 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

fn go_below(cx: &Context, made: &str) -> Verdict {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    cx.post(made)?;
    cx.wait_for("mapped")
}

/// As a user of the namespace, whose groups have no place in its maps.
fn member(cx: &mut Context) -> Verdict {
    setgroups(&[Gid::from_raw(9)])?;
    go_below(cx, "first made")?;
    let same = cx.child(|cx| {
        let (user, group) = (Uid::from_raw(11), Gid::from_raw(1));
        setresgid(group, group, group)?;
        setresuid(user, user, Uid::from_raw(0))?;
        nix::sys::prctl::set_dumpable(true)?;
        stay(cx, "user")
    })?;
    // Nobody writes maps for this one; it has given up what it could.
    let deeper = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", "5 0 1")?;
        let below = cx.child(|cx| stay(cx, "lowest"))?;
        let sets = capability::get()?;
        let kept = 1 << capability::CHOWN | 1 << capability::KILL;
        capability::set(capability::Sets { effective: 1 << capability::KILL, permitted: kept, ..sets })?;
        stay(cx, "deeper")?;
        below.join()
    })?;
    let thread = cx.thread(|cx| {
        let tid = nix::unistd::gettid();
        stay(cx, "thread")?;
        ensure_eq!(nix::unistd::gettid(), tid, "the thread's id");
        Ok(())
    });
    let spaces = |pid: Pid| ino(&pid.to_string(), "user");
    let parent = |pid: Pid| related(&open(&pid.to_string(), "user")?, NS_GET_PARENT);
    let before = maker(&open(&deeper.pid.to_string(), "user")?)?;
    stay(cx, "member")?;
    let own = ino("self", "user")?;
    ensure_eq!(spaces(same.pid)?, own, "the namespace of a child in the same");
    ensure_eq!(parent(deeper.pid)?, own, "the parent of the deeper one");
    ensure_eq!(maker(&open(&deeper.pid.to_string(), "user")?)?, before, "who made it");
    thread.join()?;
    same.join()?;
    deeper.join()
}

pub(crate) fn part(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let member = cx.child(member)?;
    // Made by another user than root.
    let other = cx.child(|cx| {
        let user = Uid::from_raw(7);
        setresuid(user, user, user)?;
        nix::sys::prctl::set_dumpable(true)?;
        go_below(cx, "second made")?;
        stay(cx, "other")
    })?;
    cx.wait_for("first made")?;
    cx.wait_for("second made")?;
    map(member.pid, "0 0 5\n10 20 3\n", "0 0 2\n")?;
    map(other.pid, "0 7 1\n", "0 0 1\n")?;
    cx.post("mapped")?;
    for name in ["user", "lowest", "deeper", "thread", "member", "other"] {
        cx.wait_for(name)?;
    }
    let path = |pid: Pid| open(&pid.to_string(), "user");
    let space = path(other.pid)?;
    let makers = || Ok::<_, Failure>([maker(&path(member.pid)?)?, maker(&path(other.pid)?)?]);
    ensure_eq!(makers()?, [0, 7], "who made them, before");
    cx.barrier()?;
    ensure_eq!(makers()?, [0, 7], "who made them");
    let own = ino("self", "user")?;
    ensure_eq!(related(&space, NS_GET_PARENT)?, own, "the parent of where the descriptor leads");
    ensure_eq!(space.metadata()?.ino(), ino(&other.pid.to_string(), "user")?, "where the descriptor leads");
    ensure!(ino(&member.pid.to_string(), "user")? != own, "the first is in our user namespace");
    // What is ours is below us still.
    setns(&space, CloneFlags::CLONE_NEWUSER)?;
    ensure_eq!(fs::read_to_string("/proc/self/uid_map")?.split_whitespace().last(), Some("1"), "its map");
    member.join()?;
    other.join()
}

/// Whether namespaces of a task belong to its user namespace.
fn ensure_owned(kinds: &[&str]) -> Verdict {
    for kind in kinds {
        let owner = related(&open("self", kind)?, NS_GET_USERNS)?;
        ensure_eq!(owner, ino("self", "user")?, format!("whose its {kind} namespace is"));
    }
    Ok(())
}

pub(crate) fn owned(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let before = utsname::names()?;
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
        cx.post("made")?;
        cx.wait_for("mapped")?;
        become_root()?;
        utsname::set("below.example", "below")?;
        fs::write("/proc/sys/kernel/msgmax", "4096")?;
        let queue = msgque::make(7)?;
        msgque::send(queue, 1, b"below")?;
        stay(cx, "child")?;
        ensure_owned(&["uts", "ipc"])?;
        ensure_eq!(utsname::names()?, ["below.example", "below"], "names");
        utsname::set("again", "below")?;
        ensure_eq!(fs::read_to_string("/proc/sys/kernel/msgmax")?.trim(), "4096", "a tunable");
        fs::write("/proc/sys/kernel/msgmax", "2048")?;
        ensure_eq!(msgque::receive(queue, 0)?, (1, b"below".to_vec()), "the message");
        Ok(())
    })?;
    cx.wait_for("made")?;
    // Its root is none outside.
    map(child.pid, "0 5 1\n", "0 5 1\n")?;
    cx.post("mapped")?;
    cx.wait_for("child")?;
    cx.barrier()?;
    ensure_eq!(utsname::names()?, before, "names outside");
    child.join()
}

/// Numbers in the namespace, and those outside.
fn numbers() -> Result<Vec<String>, Failure> {
    ["NSpid", "NSpgid", "NSsid", "PPid"]
        .into_iter()
        .map(|key| status_line("/proc/self/status", key))
        .collect()
}

/// The init of a pid namespace that belongs to our user namespace, and others in there.
fn init(cx: &mut Context) -> Verdict {
    cx.wait_for("mapped")?;
    become_root()?;
    nix::sys::prctl::set_dumpable(true)?;
    let session = cx.child(|cx| {
        nix::unistd::setsid()?;
        let child = cx.child(|cx| stay_numbered(cx, "grandchild"))?;
        let user = Uid::from_raw(2);
        setgroups(&[Gid::from_raw(1)])?;
        setresuid(user, user, user)?;
        stay_numbered(cx, "session")?;
        child.join()
    })?;
    // A sandbox in the sandbox.
    let deeper = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        stay_numbered(cx, "deeper")
    })?;
    let threads = cx.child(|cx| {
        let thread = cx.thread(|cx| stay_numbered(cx, "thread"));
        stay_numbered(cx, "threads")?;
        thread.join()
    })?;
    let sharing = cx.cloned_child(libc::CLONE_FILES | libc::SIGCHLD, |cx| stay_numbered(cx, "sharing"))?;
    cx.wait_for("sharing")?;
    // A pid namespace in the pid namespace, which belongs to a user namespace below.
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD;
    let boxed = cx.cloned_child(flags, |cx| {
        let below = cx.child(|cx| stay_numbered(cx, "in the box"))?;
        cx.wait_for("in the box")?;
        stay_numbered(cx, "box")?;
        ensure_owned(&["pid"])?;
        below.join()
    })?;
    cx.wait_for("box")?;
    let zombie = cx.child(|_| zdtm::workload::exit_now(5))?;
    stay_numbered(cx, "init")?;
    ensure_owned(&["pid"])?;
    let ended = nix::sys::wait::waitpid(zombie.pid, None)?;
    ensure_eq!(ended, nix::sys::wait::WaitStatus::Exited(zombie.pid, 5), "the zombie");
    session.join()?;
    threads.join()?;
    sharing.join()?;
    boxed.join()?;
    deeper.join()?;
    // With the init all others end.
    cx.wait_for("leave")
}

fn stay_numbered(cx: &Context, name: &str) -> Verdict {
    let before = numbers()?;
    stay(cx, name)?;
    ensure_eq!(numbers()?, before, format!("numbers of {name}"));
    Ok(())
}

const INSIDE: [&str; 6] = ["init", "session", "grandchild", "deeper", "threads", "thread"];

/// As `clone(CLONE_NEWUSER | CLONE_NEWPID)` does it: nobody but those in the pid namespace is in the user namespace.
pub(crate) fn pids(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let child = cx.cloned_child(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD, init)?;
    map(child.pid, "0 5 9\n", "0 5 9\n")?;
    cx.post("mapped")?;
    INSIDE.into_iter().try_for_each(|name| cx.wait_for(name))?;
    let numbers = || status_line(&format!("/proc/{}/status", child.pid), "NSpid");
    let before = numbers()?;
    cx.barrier()?;
    ensure_eq!(numbers()?, before, "numbers of the init");
    cx.post("leave")?;
    child.join()
}

/// As `unshare --user --pid --fork` does it: the init's parent is in the user namespace, too.
pub(crate) fn forked(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let child = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
        cx.post("made")?;
        let child = cx.child(init)?;
        let second = cx.child(|cx| {
            cx.wait_for("mapped")?;
            stay_numbered(cx, "second")
        })?;
        cx.wait_for("mapped")?;
        let space = open("self", "pid_for_children")?;
        stay(cx, "outside")?;
        ensure_eq!(related(&space, NS_GET_USERNS)?, ino("self", "user")?, "whose the pid namespace is");
        ensure_eq!(space.metadata()?.ino(), ino("self", "pid_for_children")?, "where children will be");
        second.join()?;
        cx.post("leave")?;
        child.join()
    })?;
    cx.wait_for("made")?;
    map(child.pid, "0 5 9\n", "0 5 9\n")?;
    cx.post("mapped")?;
    INSIDE.into_iter().chain(["second", "outside"]).try_for_each(|name| cx.wait_for(name))?;
    cx.barrier()?;
    child.join()
}

/// Mounts, a network, names and processes of a sandbox, all of its own.
fn sandboxed(cx: &mut Context) -> Verdict {
    cx.wait_for("mapped")?;
    become_root()?;
    nix::sys::prctl::set_dumpable(true)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    // Not where the root has the network of the machine.
    let has_net = cx.args() != ["without-net"];
    if has_net {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip("link set lo up")?;
        fs::write("/proc/sys/net/ipv4/ip_default_ttl", "44")?;
    }
    let root = Path::new("/");
    mounting::change(root, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let files = mounting::new_tmpfs(cx, "files")?;
    fs::write(files.join("text"), "kept")?;
    nix::unistd::chown(&files.join("text"), Some(Uid::from_raw(3)), Some(Gid::from_raw(4)))?;
    let shared = mounting::new_tmpfs(cx, "shared")?;
    mounting::change(&shared, MsFlags::MS_SHARED)?;
    let peer = mounting::folder(cx, "peer")?;
    mounting::bind(&shared, &peer)?;
    mounting::remount(&peer, MsFlags::MS_RDONLY | MsFlags::MS_NOATIME)?;
    // It shows those who are there, so it can be mounted only when they are: as the last.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    utsname::set("sandbox", "none")?;
    let door = TcpListener::bind("127.0.0.1:0")?;
    let address = door.local_addr()?;
    let inner = cx.child(|cx| stay_numbered(cx, "inner"))?;
    let facts = || {
        let meta = fs::metadata(files.join("text"))?;
        Ok::<_, Failure>((mounting::tree()?, meta.uid(), meta.gid(), shown()?))
    };
    let before = facts()?;
    ensure_eq!((before.1, before.2), (3, 4), "the owner of a file");
    stay_numbered(cx, "sandboxed")?;
    ensure_eq!(facts()?, before, "mounts, owners and processes");
    ensure_owned(&["mnt", "uts", "pid"])?;
    mounting::ensure_text(&files.join("text"), "kept")?;
    fs::create_dir(shared.join("below"))?;
    mounting::tmpfs(&shared.join("below"), "size=64k")?;
    ensure!(mounting::is_mounted(&peer.join("below"))?, "nothing propagates to a peer");
    mounting::unmount(&files)?;
    TcpStream::connect(address)?;
    door.accept()?;
    if has_net {
        ensure_owned(&["net"])?;
        ensure_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl")?.trim(), "44", "a tunable");
        fs::write("/proc/sys/net/ipv4/ip_default_ttl", "45")?;
    }
    ensure_eq!(utsname::names()?, ["sandbox", "none"], "names");
    inner.join()
}

/// Numbers that a procfs shows, in order.
fn shown() -> Result<Vec<i32>, Failure> {
    let names = fs::read_dir("/proc")?.flatten();
    let mut shown: Vec<i32> = names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect();
    shown.sort_unstable();
    Ok(shown)
}

pub(crate) fn sandbox(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let before = mounting::tree()?;
    let child = cx.cloned_child(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD, sandboxed)?;
    map(child.pid, "0 5 9\n", "0 5 9\n")?;
    cx.post("mapped")?;
    ["inner", "sandboxed"].into_iter().try_for_each(|name| cx.wait_for(name))?;
    cx.barrier()?;
    ensure_eq!(mounting::tree()?, before, "mounts outside");
    child.join()
}

/// The same in a pid namespace that belongs to us.
pub(crate) fn within(cx: &mut Context) -> Verdict {
    open_doors(cx)?;
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, |cx| {
        let child = cx.cloned_child(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::SIGCHLD, init)?;
        // The procfs is that of the outermost.
        let own = fs::read_link("/proc/self")?;
        let own = own.display();
        let outer: i32 = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?.trim().parse()?;
        map(Pid::from_raw(outer), "0 5 9\n", "0 5 9\n")?;
        cx.post("mapped")?;
        INSIDE.into_iter().try_for_each(|name| cx.wait_for(name))?;
        stay_numbered(cx, "between")?;
        cx.post("leave")?;
        child.join()
    })?;
    cx.wait_for("between")?;
    cx.barrier()?;
    child.join()
}
