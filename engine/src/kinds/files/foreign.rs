//! Descriptors that are known and refused all the same: what each is, why it cannot be saved, and what would help.

use super::FdFacts;
use crate::procfs::link::Link;

/// A sort of descriptor that is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// How to know it: what stands in `anon_inode:[…]`, or the path of a device.
    name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Why it is refused.
    pub why: &'static str,
    /// What would help.
    help: &'static str,
}

impl Foreign {
    /// What would help, and how to lose it.
    pub fn help(&self) -> String {
        // The word that `policy::name_of` finds for it.
        let kind = match self.name {
            name if name.ends_with(" (deleted)") => "other",
            name if name.starts_with('/') => "device",
            name => name,
        };
        let quote = if kind.contains(' ') { "\"" } else { "" };
        format!("{}, or lose the descriptor with --on-unsupported {quote}{kind}=close{quote}", self.help)
    }
}

const CLOSE: &str = "close it first, or start the program without it";

/// All of them.
static FOREIGN: &[Foreign] = &[
    Foreign {
        name: "perf_event",
        what: "a perf event",
        why: "whose counters and attributes the kernel does not tell",
        help: "stop profiling the process first",
    },
    Foreign {
        name: "io_uring",
        what: "an io_uring",
        // Sizes, positions, and how many files and buffers are registered stand in fdinfo, but not with which flags it was set up;
        // they decide who may submit, when completions come, and how large an entry is.
        why: "whose flags (io_uring_setup) and requests in flight the kernel does not tell",
        help: "run the program without io_uring (sysctl kernel.io_uring_disabled makes most fall back to epoll)",
    },
    Foreign {
        name: "userfaultfd",
        what: "a userfaultfd",
        // Features and faults that wait stand in fdinfo, but not the address space; and pages that are absent or protected are
        // part of its state.
        why: "of which the kernel does not tell whose memory it watches",
        help: CLOSE,
    },
    Foreign {
        name: "bpf-prog",
        what: "a loaded BPF program",
        why: "which its verified code alone does not bring back",
        help: "let a process outside of the tree load the program, or close it first",
    },
    Foreign {
        name: "bpf_link",
        what: "an attached BPF program",
        why: "which is tied to kernel objects outside of the tree",
        help: "let a process outside of the tree attach the program, or close it first",
    },
    Foreign { name: "btf", what: "BPF type information", why: "which is not kept in images", help: CLOSE },
    Foreign {
        name: "seccomp notify",
        what: "a seccomp listener",
        why: "whose notifications in flight belong to stopped calls of other tasks",
        help: "end the supervised tasks first",
    },
    Foreign {
        name: "fscontext",
        what: "a filesystem that is being set up (fsopen)",
        why: "whose parameters the kernel does not tell",
        help: "finish the mount, and close it",
    },
    Foreign {
        name: "landlock-ruleset",
        what: "a Landlock ruleset",
        why: "whose rules the kernel does not tell",
        help: CLOSE,
    },
    Foreign {
        name: "kvm-vm",
        what: "a virtual machine (KVM)",
        why: "which only its own monitor can save",
        help: "save the machine with its monitor's own means",
    },
    Foreign {
        name: "dmabuf",
        what: "a buffer shared with a device",
        why: "which is memory of the device",
        help: CLOSE,
    },
    Foreign {
        name: "sync_file",
        what: "a fence of a graphics device",
        why: "which is state of the device",
        help: CLOSE,
    },
    Foreign {
        name: "/dev/zero (deleted)",
        what: "shared anonymous memory that was opened through /proc/PID/map_files",
        why: "which would be another object than the memory",
        help: CLOSE,
    },
    Foreign {
        name: "/anon_hugepage (deleted)",
        what: "memory of huge pages that was opened through /proc/PID/map_files",
        why: "which would be another object than the memory",
        help: CLOSE,
    },
    Foreign {
        name: "/dev/rtc0",
        what: "a hardware clock",
        why: "whose alarm is one for the whole machine",
        help: CLOSE,
    },
    Foreign {
        name: "/dev/fuse",
        what: "a FUSE connection",
        why: "which is one with a mount and its requests in flight",
        help: "unmount the filesystem first",
    },
    Foreign {
        name: "/dev/kvm",
        what: "the door to KVM",
        why: "whose virtual machines only their own monitor can save",
        help: "save the machine with its monitor's own means",
    },
];

/// What is known of a descriptor that no kind claims.
pub fn known(fd: &FdFacts<'_>) -> Option<&'static Foreign> {
    let name = match fd.link() {
        Link::AnonInode(name) => name,
        Link::Path(path) if fd.file_type() == libc::S_IFCHR => path,
        _ if is_memory(fd) => &fd.link,
        _ => return None,
    };
    by_name(name)
}

/// Whether a file is memory, and has no other name than the kernel's for such.
pub fn is_memory(fd: &FdFacts<'_>) -> bool {
    fd.file_type() == libc::S_IFREG
        && fd.stat.st_nlink == 0
        && matches!(fd.link.as_slice(), b"/dev/zero (deleted)" | b"/anon_hugepage (deleted)")
}

fn by_name(name: &[u8]) -> Option<&'static Foreign> {
    FOREIGN.iter().find(|foreign| foreign.name.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(by_name(b"io_uring").map(|foreign| foreign.what), Some("an io_uring"));
        assert_eq!(by_name(b"eventfd"), None);
    }

    #[test]
    fn messages_are_sentences() {
        for foreign in FOREIGN {
            assert!(foreign.help().contains("=close"), "{}", foreign.name);
            assert!(!foreign.why.ends_with('.') && !foreign.help.ends_with('.'), "{}", foreign.name);
        }
    }
}
