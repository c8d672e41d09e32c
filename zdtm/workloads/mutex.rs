//! A mutex of the C library, with the attributes that those of Rust do not have.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use zdtm::ensure_eq;
use zdtm::workload::Verdict;

pub(crate) struct Mutex(UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>);

// SAFETY: the mutex is only touched through the pthread functions, which may be called from any thread.
unsafe impl Sync for Mutex {}

impl Mutex {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn pointer(&self) -> *mut libc::pthread_mutex_t {
        self.0.get().cast()
    }

    /// Makes it, before there are other threads.
    pub(crate) fn init(&self, robust: bool, protocol: i32) -> Verdict {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the place is valid for writing.
        let initialized = unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        let robust = if robust { libc::PTHREAD_MUTEX_ROBUST } else { libc::PTHREAD_MUTEX_STALLED };
        // SAFETY: the attributes were initialized above.
        let set = unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust) };
        // SAFETY: the attributes were initialized above.
        let inherits = unsafe { libc::pthread_mutexattr_setprotocol(attributes.as_mut_ptr(), protocol) };
        // SAFETY: attributes are initialized, and nobody uses the mutex yet.
        let made = unsafe { libc::pthread_mutex_init(self.pointer(), attributes.as_ptr()) };
        ensure_eq!([initialized, set, inherits, made], [0; 4], "making a mutex");
        Ok(())
    }

    pub(crate) fn lock(&self) -> i32 {
        // SAFETY: the mutex was initialized before the first thread.
        unsafe { libc::pthread_mutex_lock(self.pointer()) }
    }

    pub(crate) fn unlock(&self) -> i32 {
        // SAFETY: the mutex was initialized before the first thread.
        unsafe { libc::pthread_mutex_unlock(self.pointer()) }
    }

    /// Makes it usable again after its holder has ended.
    pub(crate) fn consistent(&self) -> i32 {
        // SAFETY: the mutex was initialized before the first thread.
        unsafe { libc::pthread_mutex_consistent(self.pointer()) }
    }
}
