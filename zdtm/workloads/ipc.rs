//! Processes work together by all of System V IPC, while they are dumped: a message asks for work, a semaphore guards the
//! shared memory that it is done in, and another message tells that it is done.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::shm;

const WORKERS: usize = 3;
/// Types of messages: for the workers, and for the one who asks.
const ASK: i64 = 1;
const DONE: i64 = 2;

#[derive(Clone, Copy)]
struct Ipc {
    queue: i32,
    guard: i32,
    memory: *mut u64,
}

fn make() -> Result<Ipc, Failure> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
    // SAFETY: takes numbers only.
    let queue = Errno::result(unsafe { libc::msgget(libc::IPC_PRIVATE, flags) })?;
    // SAFETY: takes numbers only.
    let guard = Errno::result(unsafe { libc::semget(libc::IPC_PRIVATE, 1, flags) })?;
    // SAFETY: takes numbers only.
    let segment = Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, flags) })?;
    Ok(Ipc { queue, guard, memory: shm::place(segment)?.cast() })
}

impl Ipc {
    fn send(self, kind: i64, value: u64) -> Verdict {
        let message = [kind as u64, value];
        // SAFETY: the kernel reads the type and eight bytes behind it.
        Errno::result(unsafe { libc::msgsnd(self.queue, message.as_ptr().cast(), 8, 0) })?;
        Ok(())
    }

    fn receive(self, kind: i64) -> Result<u64, Failure> {
        let mut message = [0_u64; 2];
        loop {
            // SAFETY: the kernel writes the type and eight bytes behind it.
            let got = unsafe { libc::msgrcv(self.queue, message.as_mut_ptr().cast(), 8, kind, 0) };
            match Errno::result(got) {
                Err(Errno::EINTR) => {}
                got => {
                    ensure_eq!(got?, 8, "bytes of a message");
                    return Ok(message[1]);
                }
            }
        }
    }

    fn step(self, by: i16) -> Verdict {
        let mut operation = libc::sembuf { sem_num: 0, sem_op: by, sem_flg: 0 };
        // SAFETY: the kernel reads one operation.
        while let Err(errno) = Errno::result(unsafe { libc::semop(self.guard, &raw mut operation, 1) }) {
            ensure_eq!(errno, Errno::EINTR, "semop");
        }
        Ok(())
    }

    /// Does something to the memory that nobody else may do at the same time.
    fn guarded(self, act: impl FnOnce(u64) -> u64) -> Verdict {
        self.step(-1)?;
        // SAFETY: the segment is attached, and the semaphore is ours.
        let value = unsafe { self.memory.read_volatile() };
        // SAFETY: as above.
        unsafe { self.memory.write_volatile(act(value)) };
        self.step(1)
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let ipc = make()?;
    ipc.step(1)?;
    let worker = |_: &mut Context| loop {
        match ipc.receive(ASK)? {
            0 => return Ok(()),
            by => ipc.guarded(|value| value + by)?,
        }
        ipc.send(DONE, 1)?;
    };
    let workers = (0..WORKERS).map(|_| cx.child(worker)).collect::<Result<Vec<_>, _>>()?;
    let mut sum = 0;
    let mut round = |by: u64| -> Verdict {
        for worker in 0..WORKERS as u64 {
            ipc.send(ASK, by + worker)?;
            sum += by + worker;
        }
        (0..WORKERS).try_for_each(|_| ipc.receive(DONE).map(drop))?;
        // SAFETY: the segment is attached, and nobody works on it now.
        ensure_eq!(unsafe { ipc.memory.read_volatile() }, sum, "the sum in shared memory");
        Ok(())
    };
    round(1)?;
    cx.post("ready.1")?;
    while !cx.passed() {
        round(7)?;
    }
    round(1)?;
    workers.iter().try_for_each(|_| ipc.send(ASK, 0))?;
    workers.into_iter().try_for_each(zdtm::workload::Child::join)
}
