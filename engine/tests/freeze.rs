//! Trees that are hard to stop: each is stopped whole, or refused by name and unharmed.
#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use targets::{STASIS, alone, assert_refused, has_root_and_python, wait_for};

mod targets;

/// A Python program in a session of its own, which makes the file `ready` when it is.
struct Target(Child);

impl Target {
    fn start(dir: &Path, program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", program]).current_dir(dir);
        let target = Self(alone(&mut command).spawn().unwrap());
        wait_for(|| dir.join("ready").exists(), "the target is ready");
        target
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.pid());
        let _gone_already = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _reaped_already = self.0.wait();
    }
}

fn dump(pid: i32, images: &Path, more: &[&str]) -> Output {
    let _there_already = fs::create_dir(images);
    let mut command = Command::new(STASIS);
    command.args(["dump", "-t", &pid.to_string(), "-D"]).arg(images).args(more);
    command.stdin(Stdio::null()).output().unwrap()
}

fn status(pid: i32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.unwrap_or_default().to_owned()
}

#[test]
fn a_task_may_not_wake_up() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The parent of a vfork waits where no signal but a deadly one reaches it.
    let program = "import ctypes, os, time
libc = ctypes.PyDLL(None)
if libc.vfork() == 0:
    open('ready', 'w').close()
    time.sleep(1000)
";
    let target = Target::start(dir.path(), program);
    let output = dump(target.pid(), &dir.path().join("images"), &["--timeout", "1"]);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid())).unwrap();
    let child =
        format!("waits for its child, process {} (python3), which was made by vfork", children.trim());
    assert_refused(
        &output,
        3,
        &["(python3)", "did not stop within 1s", &child, "was left running, unchanged"],
    );
    assert_eq!(status(target.pid(), "TracerPid"), "0");
    assert_eq!(status(children.trim().parse().unwrap(), "State"), "S (sleeping)");
}

#[test]
fn a_tree_may_be_traced() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A tracer inside of the tree.
    let program = "import ctypes, os, time
libc = ctypes.CDLL(None)
pid = os.fork()
if pid == 0:
    time.sleep(1000)
assert libc.ptrace(0x4206, pid, 0, 0) == 0
open('ready', 'w').close()
time.sleep(1000)
";
    let target = Target::start(dir.path(), program);
    let output = dump(target.pid(), &dir.path().join("images"), &[]);
    let tracer = format!("it is traced by process {} (python3)", target.pid());
    assert_refused(&output, 3, &[&tracer, "help: detach the debugger", "was left running, unchanged"]);
    assert_eq!(status(target.pid(), "TracerPid"), "0");
}

#[test]
fn a_tree_may_fork_and_end_all_the_time() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Each child makes the next and ends; they are all given to the subreaper at the top, which reaps them.
    let program = "import ctypes, os, signal, time
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while True:
        if os.fork():
            os._exit(0)
open('ready', 'w').close()
time.sleep(1000)
";
    let target = Target::start(dir.path(), program);
    for round in 0..5 {
        let images = dir.path().join(format!("images.{round}"));
        let output = dump(target.pid(), &images, &["--leave-running"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The top, and the one that lived.
        let cores = fs::read_dir(images).unwrap().flatten();
        let cores = cores.filter(|file| file.file_name().to_string_lossy().starts_with("core-")).count();
        assert!(cores >= 2, "{cores} tasks");
    }
}

#[test]
fn threads_may_come_and_go_and_execute_programs() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Threads all the time, and every now and then one of them executes the program again, under the leader's id.
    let program = "import os, sys, threading, time
open('ready', 'w').close()
def again():
    time.sleep(0.03)
    os.execv(sys.executable, ['python3', '-c', os.environ['PROGRAM']])
def nothing():
    time.sleep(0.0005)
threading.Thread(target=again).start()
while True:
    threads = [threading.Thread(target=nothing) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
";
    let program = format!("import os\nos.environ['PROGRAM'] = r'''{program}'''\nexec(os.environ['PROGRAM'])");
    let target = Target::start(dir.path(), &program);
    for round in 0..40 {
        let output = dump(target.pid(), &dir.path().join("images"), &["--leave-running"]);
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(round % 7));
    }
    assert_eq!(status(target.pid(), "TracerPid"), "0");
}

#[test]
fn a_stop_and_a_continuation_may_come_at_any_time() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = "import threading, time
for i in range(3): threading.Thread(target=time.sleep, args=(1000,)).start()
open('ready', 'w').close()
time.sleep(1000)
";
    let target = Target::start(dir.path(), program);
    let pid = nix::unistd::Pid::from_raw(target.pid());
    for round in 0..40 {
        let stops = round % 2 == 0;
        let signal =
            if stops { nix::sys::signal::Signal::SIGSTOP } else { nix::sys::signal::Signal::SIGCONT };
        let images = dir.path().join("images");
        let dumper = std::thread::spawn(move || dump(pid.as_raw(), &images, &["--leave-running"]));
        std::thread::sleep(Duration::from_micros(700 * (round * 7 % 40)));
        nix::sys::signal::kill(pid, signal).unwrap();
        let output = dumper.join().unwrap();
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        let state = if stops { "T (stopped)" } else { "S (sleeping)" };
        wait_for(|| status(pid.as_raw(), "State") == state, &format!("round {round}: {state}"));
    }
}

#[test]
fn a_32_bit_task_is_refused() {
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("pause32");
    fs::write(&program, elf_32()).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    let Ok(child) = alone(&mut command).spawn() else {
        println!("skipped: this kernel runs no 32-bit programs");
        return;
    };
    let target = Target(child);
    wait_for(|| status(target.pid(), "Name") == "pause32", "its execution");
    let output = dump(target.pid(), &dir.path().join("images"), &[]);
    assert_refused(&output, 3, &["(pause32)", "it runs 32-bit code", "was left running, unchanged"]);
    assert_eq!(status(target.pid(), "TracerPid"), "0");
}

/// A static program for i386 that pauses for ever: file header, one program header, and the code.
fn elf_32() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE_AT: u32 = 52 + 32;
    // again: mov eax, 29 (pause); int 0x80; jmp again
    const CODE: [u8; 9] = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    // ET_EXEC, EM_386; version, entry, program headers, no sections, flags; sizes and counts.
    half(&mut file, &[2, 3]);
    word(&mut file, &[1, BASE + CODE_AT, 52, 0, 0]);
    half(&mut file, &[52, 32, 1, 40, 0, 0]);
    // PT_LOAD, offset, addresses, sizes, readable and executable, alignment.
    let size = CODE_AT + CODE.len() as u32;
    word(&mut file, &[1, 0, BASE, BASE, size, size, 5, 0x1000]);
    file.extend(CODE);
    file
}

/// Python makes its children by vfork; each is waited for until it has executed its program.
#[test]
fn a_parent_that_spawns_all_the_time_is_stopped_when_its_child_has_gone() {
    const PROGRAM: &str = "
import subprocess
open('ready', 'w').close()
while True:
    subprocess.run(['true'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False)
";
    if !has_root_and_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::start(dir.path(), PROGRAM);
    for round in 0..30 {
        let output =
            dump(target.pid(), &dir.path().join("images"), &["-R", "--on-unsupported", "pipe=close"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "round {round}: {text}");
    }
}
