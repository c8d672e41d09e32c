//! The registry: the only list of kinds in the tree.
//!
//! A kind is one kernel resource, in one file, with its dump and restore side by side. Support table, `check`, fault
//! point names and the zoo's coverage check are derived from what is listed here.

pub mod files;
pub mod mm;
pub mod namespaces;
pub mod task;

use files::{Erase as _, ErasedFileKind};
use mm::{Erase as _, ErasedMappingKind};
use namespaces::{Erase as _, ErasedNamespaceKind};
use task::{Erase as _, ErasedTaskKind};

/// Kinds of descriptors. Exactly one claims each descriptor, so their order means nothing.
pub static FILE_KINDS: &[&dyn ErasedFileKind] = &[
    files::bpf_map::BpfMap::ERASED,
    files::epoll::Epoll::ERASED,
    files::eventfd::Eventfd::ERASED,
    files::fanotify::Fanotify::ERASED,
    files::fifo::Fifo::ERASED,
    files::inet::Inet::ERASED,
    files::inotify::Inotify::ERASED,
    files::memfd::Memfd::ERASED,
    files::namespace::Namespace::ERASED,
    files::netlink::Netlink::ERASED,
    files::packet::Packet::ERASED,
    files::pidfd::Pidfd::ERASED,
    files::pipe::Pipe::ERASED,
    files::posix_queue::PosixQueue::ERASED,
    files::regular::Regular::ERASED,
    files::tty::Tty::ERASED,
    files::tun::Tun::ERASED,
    files::signalfd::Signalfd::ERASED,
    files::timerfd::Timerfd::ERASED,
    files::unix::Unix::ERASED,
];

/// Kinds of mappings. Exactly one claims each mapping, so their order means nothing.
pub static MAPPING_KINDS: &[&dyn ErasedMappingKind] = &[
    mm::aio::AioRing::ERASED,
    mm::anonymous::AnonymousPrivate::ERASED,
    mm::file::FileMapping::ERASED,
    mm::hugetlb::HugetlbPrivate::ERASED,
    mm::memfd::MemfdMapping::ERASED,
    mm::packet::PacketRings::ERASED,
    mm::shmem::SharedAnonymous::ERASED,
    mm::sysv::SysvShm::ERASED,
    mm::uprobes::Uprobes::ERASED,
    mm::vdso::Vdso::ERASED,
    mm::vsyscall::Vsyscall::ERASED,
];

/// Kinds of state of tasks and threads, in the order in which they are restored: what needs privileges comes before
/// the credentials, which give them up.
pub static TASK_KINDS: &[&dyn ErasedTaskKind] = &[
    task::name::Name::ERASED,
    task::personality::Personality::ERASED,
    task::signals::Handlers::ERASED,
    task::signals::AltStack::ERASED,
    task::posix_timers::PosixTimers::ERASED,
    task::signals::Pending::ERASED,
    task::itimers::Itimers::ERASED,
    task::futex::Futex::ERASED,
    task::rseq::Rseq::ERASED,
    task::sleep::Sleeps::ERASED,
    task::process::Subreaper::ERASED,
    task::process::Membarrier::ERASED,
    task::process::OomScore::ERASED,
    task::memory_policy::MemoryPolicy::ERASED,
    task::sched::Sched::ERASED,
    task::settings::Settings::ERASED,
    task::seccomp::Seccomp::ERASED,
    task::rlimits::Rlimits::ERASED,
    task::creds::Creds::ERASED,
    task::process::ParentDeath::ERASED,
];

/// Kinds of namespaces, in the order in which they are filled: those who we are there come first, and mounts, which take
/// the files of the outside away from us, last.
pub static NAMESPACE_KINDS: &[&dyn ErasedNamespaceKind] = &[
    namespaces::user::UserNamespace::ERASED,
    namespaces::time::TimeNamespace::ERASED,
    namespaces::pid::PidNamespace::ERASED,
    namespaces::cgroup::CgroupNamespace::ERASED,
    namespaces::uts::UtsNamespace::ERASED,
    namespaces::ipc::IpcNamespace::ERASED,
    namespaces::net::NetNamespace::ERASED,
    namespaces::mnt::MntNamespace::ERASED,
];
