//! Pid namespaces below that of the tree's root: `pidns nested` has a small world in one, `pidns kids` makes its children in
//! one, `pidns fresh` will.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, getppid, getsid, gettid, setpgid, setsid};
use zdtm::workload::{Child, Context, Failure, Verdict, exit_now, status_line};
use zdtm::{ensure, ensure_eq};

use crate::file_fown;
use crate::mounting;
use crate::timer::{Notify, Timer};

const WAIT: Duration = Duration::from_millis(20);
const SIGNAL: i32 = libc::SIGUSR2;

/// All that a line of `/proc/PID/status` says of an id, outermost first.
fn numbers(pid: Pid, key: &str) -> Result<Vec<i32>, Failure> {
    let text = status_line(&format!("/proc/{pid}/status"), key)?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn children(pid: Pid) -> Result<Vec<Pid>, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|word| Some(Pid::from_raw(word.parse().ok()?))).collect())
}

fn link(pid: &str, name: &str) -> Result<std::path::PathBuf, Failure> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/{name}"))?)
}

/// A session in the namespace, with a child in a group of its own that somebody outside kills.
fn session(cx: &mut Context) -> Verdict {
    let id = setsid()?;
    let victim = cx.child(|cx| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        cx.post("victim")?;
        cx.wait_for("never")
    })?;
    cx.wait_for("victim")?;
    let ids = || Ok::<_, Failure>((getpid(), getppid(), getsid(None)?, getpgrp()));
    let before = ids()?;
    cx.post("session")?;
    cx.park()?;
    ensure_eq!(ids()?, before, "own ids");
    ensure_eq!(id, before.2, "the session");
    ensure_eq!(nix::unistd::getpgid(Some(victim.pid))?, victim.pid, "the child's group");
    let ended = waitpid(victim.pid, None)?;
    ensure_eq!(ended, WaitStatus::Signaled(victim.pid, Signal::SIGTERM, false), "how the child ended");
    Ok(())
}

/// A child that ends at once and leaves one behind.
fn orphan(cx: &mut Context) -> Verdict {
    let made = cx.child(|cx| {
        let parent = getpid();
        cx.child(move |cx| {
            while getppid() == parent {
                std::thread::sleep(Duration::from_millis(1));
            }
            ensure_eq!(getppid().as_raw(), 1, "who got the orphan");
            cx.post("orphan")?;
            cx.park()?;
            ensure_eq!(getppid().as_raw(), 1, "who has the orphan");
            exit_now(33)
        })?;
        Ok(())
    })?;
    made.join()?;
    cx.wait_for("orphan")
}

/// The init of the namespace.
fn init(cx: &mut Context) -> Verdict {
    ensure_eq!((getpid().as_raw(), getppid().as_raw()), (1, 0), "own ids at first");
    cx.wait_for("grouped")?;
    let outside = UnixStream::connect(cx.path("door"))?;
    let session = cx.child(session)?;
    cx.wait_for("session")?;
    orphan(cx)?;
    let zombie = cx.child(|_| exit_now(5))?;
    let stopped = cx.child(|_| Ok(raise(Signal::SIGSTOP)?))?;
    let seen = waitpid(stopped.pid, Some(WaitPidFlag::WUNTRACED))?;
    ensure_eq!(seen, WaitStatus::Stopped(stopped.pid, Signal::SIGSTOP), "the stop");
    let (reader, writer) = nix::unistd::pipe()?;
    file_fown::set(&reader, 1, session.pid.as_raw())?;
    file_fown::set(&writer, 2, session.pid.as_raw())?;
    SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2]).thread_block()?;
    let mine = Timer::create(libc::CLOCK_MONOTONIC, Notify::Thread(SIGNAL, 0, gettid().as_raw()), 0)?;
    let thread = cx.thread(|cx| {
        let tid = gettid();
        let notify = Notify::Thread(SIGNAL, 0, tid.as_raw());
        let timer = Timer::create(libc::CLOCK_THREAD_CPUTIME_ID, notify, 1)?;
        timer.set(0, Duration::from_secs(1000), Duration::ZERO)?;
        cx.post("thread")?;
        cx.wait_for("inside.done")?;
        ensure_eq!(gettid(), tid, "the thread's id");
        ensure!(timer.get()?.0 > Duration::ZERO, "the thread's timer has run out");
        Ok(())
    });
    cx.wait_for("thread")?;
    // A signal that waits, with the number of its sender.
    kill(getpid(), Signal::SIGUSR1)?;
    cx.post("init")?;
    cx.park()?;
    cx.wait_for("outside.done")?;
    ensure_eq!((getpid().as_raw(), getppid().as_raw()), (1, 0), "own ids");
    ensure_eq!(getsockopt(&outside, PeerCredentials)?.pid(), 0, "who listens, outside");
    let taken = SigSet::from_iter([Signal::SIGUSR1]).wait()?;
    ensure_eq!(taken, Signal::SIGUSR1, "the signal that waited");
    ensure_eq!(file_fown::look(&reader)?.0, [1, session.pid.as_raw()], "who gets signals of one end");
    ensure_eq!(file_fown::look(&writer)?.0, [2, session.pid.as_raw()], "which group gets those of the other");
    ensure_eq!(waitpid(zombie.pid, None)?, WaitStatus::Exited(zombie.pid, 5), "the zombie");
    let none = Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG);
    ensure_eq!(waitpid(stopped.pid, none)?, WaitStatus::StillAlive, "what is told of the stopped child");
    kill(stopped.pid, Signal::SIGCONT)?;
    stopped.join()?;
    session.join()?;
    mine.set(0, WAIT, Duration::ZERO)?;
    ensure_eq!(SigSet::from_iter([Signal::SIGUSR2]).wait()?, Signal::SIGUSR2, "the timer's signal");
    cx.post("inside.done")?;
    thread.join()?;
    let WaitStatus::Exited(orphan, 33) = waitpid(None, None)? else {
        return Err(Failure::new("the orphan did not end as it should"));
    };
    ensure!(orphan.as_raw() > 2, "the orphan is {orphan}");
    ensure_eq!(waitpid(None, None), Err(Errno::ECHILD), "further children");
    Ok(())
}

pub(crate) fn nested(cx: &mut Context) -> Verdict {
    let door = UnixListener::bind(cx.path("door"))?;
    // The init is in the group of somebody outside, as are those of its children that begin none.
    let leader = cx.child(|cx| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        cx.post("leader")?;
        cx.park()
    })?;
    cx.wait_for("leader")?;
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, init)?;
    setpgid(child.pid, leader.pid)?;
    cx.post("grouped")?;
    let (peer, _) = door.accept()?;
    cx.wait_for("init")?;
    // Those inside, as they are seen from here: the numbers of all are known.
    let mut tree = vec![child.pid];
    for at in 0.. {
        let Some(pid) = tree.get(at).copied() else { break };
        tree.extend(children(pid)?);
    }
    ensure_eq!(tree.len(), 6, "tasks in the namespace");
    let look = || {
        let of = |pid: &Pid| ["NSpid", "NSpgid", "NSsid"].map(|key| numbers(*pid, key).unwrap_or_default());
        tree.iter().map(of).collect::<Vec<_>>()
    };
    let before = look();
    // The last generation has one.
    let victim = tree.last().copied().unwrap_or(child.pid);
    cx.barrier()?;
    ensure_eq!(look(), before, "numbers, outside and inside");
    ensure_eq!(getsockopt(&peer, PeerCredentials)?.pid(), child.pid.as_raw(), "who has connected");
    ensure!(link("self", "pid")? != link(&child.pid.to_string(), "pid")?, "the namespace is ours");
    kill(victim, Signal::SIGTERM)?;
    cx.post("outside.done")?;
    leader.join()?;
    child.join()
}

/// Somebody in the namespace, who stays until `end`.
fn inside(cx: &Context, name: &'static str, pid: i32, end: &'static str) -> Result<Child, Failure> {
    let child = cx.child(move |cx| {
        ensure_eq!((getpid().as_raw(), getppid().as_raw()), (pid, 0), "own ids at first");
        cx.post(name)?;
        cx.wait_for(end)?;
        ensure_eq!((getpid().as_raw(), getppid().as_raw()), (pid, 0), "own ids");
        Ok(())
    })?;
    cx.wait_for(name)?;
    Ok(child)
}

pub(crate) fn kids(cx: &mut Context) -> Verdict {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let init = inside(cx, "first", 1, "end of all")?;
    let second = inside(cx, "second", 2, "end")?;
    let space = File::open(format!("/proc/{}/ns/pid", init.pid))?;
    let ino = |file: &File| Ok::<_, Failure>(nix::sys::stat::fstat(file)?.st_ino);
    let theirs = link(&init.pid.to_string(), "pid")?;
    ensure_eq!(link("self", "pid_for_children")?, theirs, "where children are made");
    cx.barrier()?;
    let theirs = link(&init.pid.to_string(), "pid")?;
    ensure_eq!(link("self", "pid_for_children")?, theirs, "where children will be made");
    ensure!(link("self", "pid")? != theirs, "we are inside");
    ensure_eq!(format!("pid:[{}]", ino(&space)?), theirs.to_string_lossy(), "what the descriptor leads to");
    let third = inside(cx, "third", 3, "end")?;
    ensure_eq!(numbers(second.pid, "NSpid")?.last(), Some(&2), "the second's number");
    cx.post("end")?;
    third.join()?;
    second.join()?;
    cx.post("end of all")?;
    init.join()
}

pub(crate) fn fresh(cx: &mut Context) -> Verdict {
    unshare(CloneFlags::CLONE_NEWPID)?;
    cx.barrier()?;
    let init = inside(cx, "first", 1, "end")?;
    cx.post("end")?;
    init.join()
}

/// Numbers that a procfs shows, in order.
fn shown() -> Result<Vec<i32>, Failure> {
    let names = std::fs::read_dir("/proc")?.flatten();
    let mut shown: Vec<i32> = names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect();
    shown.sort_unstable();
    Ok(shown)
}

/// The init of a namespace that has mounts, and a procfs, of its own.
fn with_proc(cx: &mut Context) -> Verdict {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mounting::change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    let child = cx.child(|cx| {
        let mut own = File::open("/proc/self/status")?;
        let mut parents = File::open("/proc/1/task/1/stat")?;
        own.read_exact(&mut [0; 5])?;
        let folder = File::open("/proc/self/fdinfo")?;
        nix::unistd::chdir("/proc/1")?;
        cx.post("child")?;
        cx.park()?;
        let text = |file: &mut File| {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text)
        };
        ensure!(text(&mut own)?.contains("\nNSpid:\t2\n"), "its own open status is another's");
        ensure!(text(&mut parents)?.starts_with("1 ("), "its parent's open stat is another's");
        ensure_eq!(
            std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?,
            Path::new("/proc/2/fdinfo"),
            "an open folder"
        );
        ensure_eq!(nix::unistd::getcwd()?, Path::new("/proc/1"), "working directory");
        ensure_eq!(status_line("status", "NSpid")?, "1", "whose the working directory is");
        ensure_eq!(std::fs::read_link("/proc/self")?.to_string_lossy(), "2", "the child in /proc");
        ensure_eq!(std::fs::read_link("/proc/thread-self")?.to_string_lossy(), "2/task/2", "its thread");
        ensure_eq!(status_line("/proc/self/status", "PPid")?, "1", "its parent in /proc");
        Ok(())
    })?;
    cx.wait_for("child")?;
    ensure_eq!(shown()?, [1, 2], "who is shown at first");
    let before = mounting::tree()?;
    cx.post("init")?;
    cx.park()?;
    ensure_eq!(mounting::tree()?, before, "mounts");
    child.join()?;
    ensure_eq!(shown()?, [1], "who is shown");
    ensure_eq!(status_line("/proc/1/status", "NSpid")?, "1", "the init's numbers");
    Ok(())
}

pub(crate) fn proc(cx: &mut Context) -> Verdict {
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, with_proc)?;
    cx.wait_for("init")?;
    cx.barrier()?;
    ensure!(shown()?.contains(&child.pid.as_raw()), "the outer procfs does not show the init");
    child.join()
}

/// All numbers of the caller, outermost first.
fn own_numbers() -> Result<Vec<String>, Failure> {
    ["NSpid", "NSpgid", "NSsid"].into_iter().map(|key| status_line("/proc/self/status", key)).collect()
}

/// Tells that it is there, and has its numbers still when it goes on.
fn stay(cx: &Context, name: &str) -> Verdict {
    let ids = || (getpid(), getppid(), getpgrp());
    let before = (own_numbers()?, ids());
    cx.post(name)?;
    cx.park()?;
    ensure_eq!((own_numbers()?, ids()), before, format!("numbers of {name}"));
    Ok(())
}

/// The init of the second level.
fn second_level(cx: &mut Context) -> Verdict {
    ensure_eq!((getpid().as_raw(), getppid().as_raw()), (1, 0), "own ids at first");
    let session = cx.child(|cx| {
        setsid()?;
        let below = cx.child(|cx| stay(cx, "below"))?;
        stay(cx, "session")?;
        below.join()
    })?;
    let zombie = cx.child(|_| exit_now(5))?;
    let thread = cx.thread(|cx| {
        let tid = gettid();
        stay(cx, "thread")?;
        ensure_eq!(gettid(), tid, "the thread's id");
        Ok(())
    });
    let victim = cx.child(|cx| {
        cx.post("victim")?;
        cx.wait_for("never")
    })?;
    cx.wait_for("victim")?;
    stay(cx, "second")?;
    let ended = waitpid(victim.pid, None)?;
    ensure_eq!(ended, WaitStatus::Signaled(victim.pid, Signal::SIGTERM, false), "how the victim ended");
    ensure_eq!(waitpid(zombie.pid, None)?, WaitStatus::Exited(zombie.pid, 5), "the zombie");
    thread.join()?;
    session.join()
}

/// The init of the first level.
fn first_level(cx: &mut Context) -> Verdict {
    let second = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, second_level)?;
    cx.wait_for("second")?;
    // Another one on the second level, whose makers stay on the first.
    let maker = cx.child(|cx| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        let child = inside(cx, "other", 1, "end of all")?;
        stay(cx, "maker")?;
        let next = inside(cx, "next", 2, "end")?;
        cx.post("end")?;
        // With the init all others end.
        next.join()?;
        cx.post("end of all")?;
        child.join()
    })?;
    cx.wait_for("maker")?;
    let own: i32 = std::fs::read_link("/proc/self")?.to_string_lossy().parse()?;
    let outer = children(Pid::from_raw(own))?;
    let last = outer.first().map(|second| children(*second)).transpose()?.unwrap_or_default();
    let victim = last.last().copied().unwrap_or(Pid::from_raw(0));
    let named = numbers(victim, "NSpid")?;
    stay(cx, "first")?;
    ensure_eq!(numbers(victim, "NSpid")?, named, "all numbers of the victim");
    ensure_eq!(named.len(), numbers(Pid::from_raw(own), "NSpid")?.len() + 1, "levels");
    let here = named.iter().rev().nth(1).copied().unwrap_or_default();
    kill(Pid::from_raw(here), Signal::SIGTERM)?;
    second.join()?;
    maker.join()
}

/// Two levels.
pub(crate) fn deep(cx: &mut Context) -> Verdict {
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, first_level)?;
    cx.wait_for("first")?;
    cx.barrier()?;
    child.join()
}

/// The init of a namespace prepares another one.
pub(crate) fn deep_fresh(cx: &mut Context) -> Verdict {
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, |cx| {
        unshare(CloneFlags::CLONE_NEWPID)?;
        cx.post("init")?;
        cx.park()?;
        let init = inside(cx, "first", 1, "end")?;
        cx.post("end")?;
        init.join()
    })?;
    cx.wait_for("init")?;
    cx.barrier()?;
    child.join()
}

const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// The number that the next child gets.
fn next_number(cx: &Context) -> Result<i32, Failure> {
    let child = cx.child(|_| Ok(()))?;
    let number = child.pid.as_raw();
    child.join()?;
    Ok(number)
}

/// A number behind the one that was given last; some are taken by those who look at the tree.
fn ensure_behind(cx: &Context, last: i32) -> Verdict {
    let next = next_number(cx)?;
    ensure!((last + 1..last + 99).contains(&next), "the next number is {next}, behind {last}");
    Ok(())
}

/// Numbers that were given last, here and in a namespace below.
pub(crate) fn last(cx: &mut Context) -> Verdict {
    let child = cx.cloned_child(libc::CLONE_NEWPID | libc::SIGCHLD, |cx| {
        std::fs::write(LAST, "500")?;
        cx.post("init")?;
        cx.park()?;
        ensure_behind(cx, 500)
    })?;
    cx.wait_for("init")?;
    let has_own = getppid().as_raw() <= 1;
    if has_own {
        std::fs::write(LAST, "1500")?;
    }
    cx.barrier()?;
    if has_own {
        ensure_behind(cx, 1500)?;
    }
    child.join()
}
