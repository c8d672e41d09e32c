//! The same process with many threads, dumped and restored again and again: nothing is lost on the way, however often.
#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{STASIS, alone, has_root_and_python};

mod targets;

/// Threads that pass numbers around by pipes, sleep, wait for conditions and for files, and take signals. Each counts what it
/// has done, and the sum of all is written down now and then. Any error ends the process.
const PROGRAM: &str = "
import os, select, signal, sys, threading, time
done = [0] * 100
caught = [0]
def on_signal(number, frame):
    caught[0] += 1
signal.signal(signal.SIGUSR1, on_signal)
def guard(work):
    def run(me):
        try:
            while True:
                work(me)
                done[me] += 1
        except BaseException as e:
            open('failed', 'a').write(f'{me}: {e!r}\\n')
            os._exit(1)
    return run
RING = 20
pipes = [os.pipe() for _ in range(RING)]
def pass_on(me):
    number = int.from_bytes(os.read(pipes[me][0], 8), 'little')
    if number % RING != me:
        raise ValueError(f'{number} came to {me}')
    time.sleep(0.002)
    os.write(pipes[(me + 1) % RING][1], (number + 1).to_bytes(8, 'little'))
def sleep(me):
    begun = time.monotonic()
    time.sleep(0.02)
    if time.monotonic() - begun < 0.02:
        raise ValueError('a short sleep')
condition = threading.Condition()
def wait(me):
    with condition:
        condition.wait(0.05)
        condition.notify()
def watch(me):
    poll = select.epoll()
    poll.register(pipes[me % RING][0], select.EPOLLERR)
    if poll.poll(0.03) != []:
        raise ValueError('an event')
    poll.close()
def look(me):
    if select.select([], [], [], 0.02) != ([], [], []):
        raise ValueError('something is ready')
jobs = [pass_on] * RING + [sleep] * 20 + [wait] * 20 + [watch] * 20 + [look] * 20
threads = [threading.Thread(target=guard(job), args=(me,)) for me, job in enumerate(jobs)]
for thread in threads:
    thread.start()
for start in range(0, RING, 4):
    os.write(pipes[start][1], start.to_bytes(8, 'little'))
ident = threading.main_thread().ident
while True:
    time.sleep(0.005)
    signal.pthread_kill(ident, signal.SIGUSR1)
    with open('new', 'w') as file:
        file.write(f'{min(done)} {sum(done)} {caught[0]}')
    os.rename('new', 'counts')
";

/// What the threads have done: the laziest, all together, and signals taken.
fn counts(dir: &Path) -> [u64; 3] {
    let text = fs::read_to_string(dir.join("counts")).unwrap_or_default();
    let mut numbers = text.split(' ').map(|word| word.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Waits until each thread has done something more.
#[track_caller]
fn wait_for_progress(dir: &Path, round: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let before = counts(dir);
    while counts(dir).iter().zip(before).any(|(now, before)| *now <= before) {
        let failed = fs::read_to_string(dir.join("failed")).unwrap_or_default();
        assert!(failed.is_empty(), "round {round}: {failed}");
        assert!(Instant::now() < deadline, "round {round}: no progress since {before:?}: {:?}", counts(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stasis(words: &[&str], images: &Path) {
    let mut command = Command::new(STASIS);
    let output = command.args(words).arg("-D").arg(images).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Ten rounds, or as many as `STASIS_ROUNDS` says.
#[test]
fn a_hundred_threads_go_round_and_round() {
    if !has_root_and_python() {
        return;
    }
    let rounds = std::env::var("STASIS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let mut command = Command::new("python3");
    #[expect(clippy::zombie_processes, reason = "it is waited for by its pid, as what takes its place is")]
    let child = alone(command.args(["-c", PROGRAM]).current_dir(dir.path())).spawn().unwrap();
    let pid = child.id() as i32;
    wait_for_progress(dir.path(), 0);
    for round in 1..=rounds {
        stasis(&["dump", "-t", &pid.to_string()], &images);
        // What was restored is ours again, as its adoptive parent.
        nix::sys::wait::waitpid(Pid::from_raw(pid), None).unwrap();
        stasis(&["restore", "-d"], &images);
        wait_for_progress(dir.path(), round);
    }
    let [least, all, signals] = counts(dir.path());
    println!(
        "{rounds} rounds: each of 100 threads worked {least} times at least, {all} together, {signals} signals"
    );
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(Pid::from_raw(pid), None).unwrap();
}
