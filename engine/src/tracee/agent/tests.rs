//! The agent inside a real child.

use std::process::{Child, Command};

use super::*;
use crate::tracee::freeze::FrozenTree;

const LIMIT: Duration = Duration::from_secs(5);

/// A child that sleeps, and ends when this is dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Sleeper {
    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn freeze(&self) -> FrozenTree {
        FrozenTree::freeze(self.pid(), None, LIMIT).unwrap()
    }
}

fn sleeper() -> Sleeper {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    // Until it has executed sleep, its memory is that of the test.
    while std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap() != "sleep\n"
        || crate::tracee::freeze::process_state(child.id() as i32) != Some('S')
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    Sleeper(child)
}

fn maps(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

fn vdso_of(pid: i32) -> Option<(u64, u64)> {
    let maps = crate::procfs::maps::parse(maps(pid).as_bytes()).unwrap();
    maps.iter().find(|vma| vma.path == b"[vdso]").map(|vma| (vma.start, vma.end))
}

fn inject(task: &mut FrozenTask) -> Agent {
    inject_with(task, None, &[])
}

/// Puts an agent in that tells by a signal, and answers this first.
fn inject_with(task: &mut FrozenTask, signal: Option<i32>, first: &[&Batch<'static>]) -> Agent {
    let saved = task.threads.iter().map(|t| Saved::read(t.stopped()).unwrap()).collect();
    let vdso = vdso_of(task.pid);
    let memory = Memory::open(task.pid).unwrap();
    let pidfd = crate::sys::pidfd::open(task.pid).unwrap();
    let (pidfd, first) = (pidfd.as_fd(), first.to_vec());
    let entrance = Entrance { task, saved, memory, vdso, code: Vec::new(), pidfd, signal, first };
    inject_all(vec![entrance]).pop().unwrap().unwrap()
}

#[test]
fn makes_calls_in_the_target_and_leaves_no_trace() {
    let child = sleeper();
    let pid = child.pid();
    let before = maps(pid);
    let mut tree = child.freeze();
    let task = &mut tree.tasks[0];
    let saved = Saved::read(task.threads[0].stopped()).unwrap();

    let mut agent = inject(task);
    let mut batch = Batch::new();
    let getpid = batch.call("getpid", libc::SYS_getpid, crate::args![]);
    let path = batch.input_str(b"/dev/null");
    let fd = batch.call("openat", libc::SYS_openat, crate::args![libc::AT_FDCWD, path, libc::O_RDONLY, 0]);
    let closed = batch.call("close", libc::SYS_close, crate::args![fd]);
    let bad = batch.try_call("close", libc::SYS_close, crate::args![fd]);
    let limits = batch.output::<[u64; 2]>();
    batch.call("prlimit64", libc::SYS_prlimit64, crate::args![0, libc::RLIMIT_NOFILE, 0, limits]);
    let replies = agent.run(&batch).unwrap();
    assert_eq!(replies.result(getpid), Ok(i64::from(pid)));
    assert_eq!(replies.result(closed), Ok(0));
    assert_eq!(replies.result(bad), Err(SysError { call: "close", errno: Errno::EBADF }));
    assert!(replies.output(limits).unwrap()[0] > 0);

    agent.remove(task).unwrap();
    let after = Saved::read(task.threads[0].stopped()).unwrap();
    assert_eq!(after.regs, saved.regs);
    assert_eq!(after.xstate, saved.xstate);
    assert_eq!(after.sigmask, saved.sigmask);
    tree.thaw().unwrap();
    assert_eq!(maps(pid), before);
}

#[test]
fn answers_on_its_way_in_and_stays_until_it_is_needed() {
    let child = sleeper();
    let pid = child.pid();
    let traces = || (maps(pid), std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
    let before = traces();
    for is_needed in [false, true] {
        let mut tree = child.freeze();
        let task = &mut tree.tasks[0];
        let saved = Saved::read(task.threads[0].stopped()).unwrap();
        let (mut one, mut two) = (Batch::new(), Batch::new());
        let getpid = one.call("getpid", libc::SYS_getpid, crate::args![]);
        let limits = two.output::<[u64; 2]>();
        let path = two.input_str(b"/dev/null");
        two.try_call("chdir", libc::SYS_chdir, crate::args![path]);
        two.call("prlimit64", libc::SYS_prlimit64, crate::args![0, libc::RLIMIT_NOFILE, 0, limits]);
        let asked = [&one, &two];
        let mut agent = inject_with(task, Some(libc::SIGURG), &asked);
        assert!(agent.is_parked());
        // Somebody else's, which is ignored.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGURG).unwrap();
        agent.ask_first(&asked).unwrap();
        let replies = agent.first_replies(&asked).unwrap();
        assert_eq!(replies[0].result(getpid), Ok(i64::from(pid)));
        assert!(replies[1].output(limits).unwrap()[0] > 0);
        if is_needed {
            let replies = agent.run(&one).unwrap();
            assert_eq!(replies.result(getpid), Ok(i64::from(pid)));
            assert!(!agent.is_parked());
        }
        agent.remove(task).unwrap();
        let after = Saved::read(task.threads[0].stopped()).unwrap();
        assert_eq!((after.regs, after.sigmask), (saved.regs, saved.sigmask));
        tree.thaw().unwrap();
        assert_eq!(traces(), before);
    }
}

#[test]
fn a_first_call_that_fails_is_told_and_the_others_are_not_made() {
    let child = sleeper();
    let mut tree = child.freeze();
    let (mut one, mut two) = (Batch::new(), Batch::new());
    one.call("getpid", libc::SYS_getpid, crate::args![]);
    two.call("close the moon", libc::SYS_close, crate::args![12345]);
    two.call("getpid", libc::SYS_getpid, crate::args![]);
    let asked = [&one, &two, &one];
    let mut agent = inject_with(&mut tree.tasks[0], Some(libc::SIGURG), &asked);
    let error = agent.first_replies(&asked).unwrap_err();
    assert_eq!(error.to_string(), "close the moon: Bad file number (EBADF)");
    tree.tasks[0].agent = Some(agent);
    drop(tree);
}

#[test]
fn a_failing_call_names_itself_and_ends_the_batch() {
    let child = sleeper();
    let mut tree = child.freeze();
    let mut agent = inject(&mut tree.tasks[0]);
    let mut batch = Batch::new();
    batch.call("getpid", libc::SYS_getpid, crate::args![]);
    batch.call("close the moon", libc::SYS_close, crate::args![12345]);
    batch.call("getpid", libc::SYS_getpid, crate::args![]);
    let error = agent.run(&batch).unwrap_err();
    assert_eq!(error.to_string(), "close the moon: Bad file number (EBADF)");
    tree.tasks[0].agent = Some(agent);
    drop(tree);
}

/// What dying between the two halves of an injection leaves to the thread.
#[test]
fn a_thread_that_nobody_traces_any_more_finds_back_from_the_landing_pad() {
    let mut child = Command::new("sleep").arg("0.3").spawn().unwrap();
    let pid = child.id() as i32;
    while crate::tracee::freeze::process_state(pid) != Some('S')
        || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n"
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let blocked = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|l| l.starts_with("SigBlk")).map(str::to_owned)
    };
    let before = (maps(pid), blocked());
    let mut tree = FrozenTree::freeze(pid, None, LIMIT).unwrap();
    let stopped = tree.tasks[0].threads[0].stopped.take().unwrap();
    let saved = Saved::read(&stopped).unwrap();
    let memory = Memory::open(pid).unwrap();
    let size = Layout::size(1);
    let signal = Some(libc::SIGURG);
    let pad = LandingPad::put(&memory, vdso_of(pid).unwrap(), &saved, size, signal).unwrap();
    let map = entering::map_agent(Layout { base: 0, threads: 1 }, entering::Entry::Serve);
    let mask = !(1 << (libc::SIGURG - 1));
    calls::prepare_call(&stopped, &saved.regs, pad.entry(), &map, mask).unwrap();
    stopped.detach(0).unwrap();
    while crate::tracee::freeze::process_state(pid) != Some('S') {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((maps(pid), blocked()), before);
    assert!(child.wait().unwrap().success(), "the sleep goes on to its end");
}
