//! A robust mutex whose holder ends tells the next one so.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

struct Mutex(UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>);

// SAFETY: the mutex is only touched through the pthread functions, which may be called from any thread.
unsafe impl Sync for Mutex {}

static MUTEX: Mutex = Mutex(UnsafeCell::new(MaybeUninit::uninit()));

impl Mutex {
    fn pointer(&self) -> *mut libc::pthread_mutex_t {
        self.0.get().cast()
    }

    fn init(&self) -> Verdict {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the place is valid for writing.
        let initialized = unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: the attributes were initialized above.
        let set = unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust) };
        // SAFETY: attributes are initialized, and nobody uses the mutex yet.
        let made = unsafe { libc::pthread_mutex_init(self.pointer(), attributes.as_ptr()) };
        ensure_eq!([initialized, set, made], [0; 3], "making a robust mutex");
        Ok(())
    }

    fn lock(&self) -> i32 {
        // SAFETY: the mutex was initialized before the first thread.
        unsafe { libc::pthread_mutex_lock(self.pointer()) }
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    MUTEX.init()?;
    let holder = cx.thread(|cx| {
        ensure_eq!(MUTEX.lock(), 0, "locking");
        cx.post("locked")?;
        cx.park()
    });
    cx.wait_for("locked")?;
    cx.barrier()?;
    holder.join()?;
    let result = MUTEX.lock();
    ensure!(result == libc::EOWNERDEAD, "locking after the holder's end: {result} instead of EOWNERDEAD");
    Ok(())
}
