//! Names of bits and of values that the format keeps as plain numbers.

/// A set of named bits.
#[derive(Debug)]
pub(super) struct Flags {
    pub(super) name: &'static str,
    bits: &'static [(&'static str, u64)],
}

/// Named values of one field.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) name: &'static str,
    values: &'static [(&'static str, u64)],
}

impl Flags {
    /// The set that the messages call by this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FLAGS.iter().find(|flags| flags.name == name)
    }

    /// The names of the bits that are set, and what has no name in hexadecimal.
    pub(super) fn render(&self, value: u64) -> String {
        let mut rest = value;
        let mut names = Vec::new();
        for (name, bits) in self.bits {
            if value & bits != 0 {
                names.push((*name).to_owned());
                rest &= !bits;
            }
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        names.join(" | ")
    }

    /// The bit with this name.
    pub(super) fn bit(&self, name: &str) -> Option<u64> {
        self.bits.iter().find(|(n, _)| *n == name).map(|(_, bit)| *bit)
    }
}

impl Dict {
    /// The values that the messages call by this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        DICTS.iter().find(|dict| dict.name == name)
    }

    /// The name of a value.
    pub(super) fn render(&self, value: u64) -> Option<&'static str> {
        self.values.iter().find(|(_, v)| *v == value).map(|(name, _)| *name)
    }

    /// The value with this name.
    pub(super) fn value(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

const FLAGS: &[Flags] = &[
    // linux/mman.h
    Flags { name: "mmap.prot", bits: &[("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4)] },
    Flags {
        name: "mmap.flags",
        bits: &[
            ("MAP_SHARED", 0x1),
            ("MAP_PRIVATE", 0x2),
            ("MAP_DROPPABLE", 0x8),
            ("MAP_ANON", 0x20),
            ("MAP_GROWSDOWN", 0x100),
        ],
    },
    // The format's own. The first is never shown, but it is understood.
    Flags {
        name: "mmap.status",
        bits: &[
            ("VMA_AREA_NONE", 0),
            ("VMA_AREA_REGULAR", 1 << 0),
            ("VMA_AREA_STACK", 1 << 1),
            ("VMA_AREA_VSYSCALL", 1 << 2),
            ("VMA_AREA_VDSO", 1 << 3),
            ("VMA_AREA_HEAP", 1 << 5),
            ("VMA_FILE_PRIVATE", 1 << 6),
            ("VMA_FILE_SHARED", 1 << 7),
            ("VMA_ANON_SHARED", 1 << 8),
            ("VMA_ANON_PRIVATE", 1 << 9),
            ("VMA_AREA_SYSVIPC", 1 << 10),
            ("VMA_AREA_SOCKET", 1 << 11),
            ("VMA_AREA_VVAR", 1 << 12),
            ("VMA_AREA_AIORING", 1 << 13),
            ("VMA_AREA_MEMFD", 1 << 14),
            ("VMA_AREA_SHSTK", 1 << 15),
            ("VMA_AREA_UPROBES", 1 << 17),
            ("VMA_UNSUPP", 1 << 31),
        ],
    },
    // asm-generic/fcntl.h
    Flags {
        name: "rfile.flags",
        bits: &[
            ("O_WRONLY", 0o1),
            ("O_RDWR", 0o2),
            ("O_CREAT", 0o100),
            ("O_EXCL", 0o200),
            ("O_NOCTTY", 0o400),
            ("O_TRUNC", 0o1000),
            ("O_APPEND", 0o2000),
            ("O_NONBLOCK", 0o4000),
            ("O_DSYNC", 0o10000),
            ("FASYNC", 0o20000),
            ("O_DIRECT", 0o40000),
            ("O_LARGEFILE", 0o10_0000),
            ("O_DIRECTORY", 0o20_0000),
            ("O_NOFOLLOW", 0o40_0000),
            ("O_NOATIME", 0o100_0000),
            ("O_CLOEXEC", 0o200_0000),
        ],
    },
    // The format's own.
    Flags { name: "pmap.flags", bits: &[("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4)] },
    // linux/fcntl.h
    Flags {
        name: "seals.flags",
        bits: &[
            ("F_SEAL_SEAL", 0x1),
            ("F_SEAL_SHRINK", 0x2),
            ("F_SEAL_GROW", 0x4),
            ("F_SEAL_WRITE", 0x8),
            ("F_SEAL_FUTURE_WRITE", 0x10),
        ],
    },
];

const DICTS: &[Dict] = &[
    // The format's own.
    Dict { name: "gen.task_state", values: &[("Alive", 1), ("Zombie", 3), ("Stopped", 6)] },
    // linux/socket.h
    Dict {
        name: "sk.family",
        values: &[("UNIX", 1), ("INET", 2), ("INET6", 10), ("NETLINK", 16), ("PACKET", 17)],
    },
    // linux/net.h
    Dict {
        name: "sk.type",
        values: &[("STREAM", 1), ("DGRAM", 2), ("RAW", 3), ("SEQPACKET", 5), ("PACKET", 10)],
    },
    // net/tcp_states.h
    Dict {
        name: "sk.state",
        values: &[
            ("ESTABLISHED", 1),
            ("SYN_SENT", 2),
            ("SYN_RECV", 3),
            ("FIN_WAIT1", 4),
            ("FIN_WAIT2", 5),
            ("TIME_WAIT", 6),
            ("CLOSE", 7),
            ("CLOSE_WAIT", 8),
            ("LAST_ACK", 9),
            ("LISTEN", 10),
        ],
    },
    // linux/in.h
    Dict { name: "sk.proto", values: &[("IP", 0), ("TCP", 6), ("UDP", 17), ("UDPLITE", 136)] },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_without_a_name_are_not_lost() {
        let flags = Flags::named("rfile.flags").unwrap();
        assert_eq!(flags.render(0), "");
        assert_eq!(flags.render(0o100_001), "O_WRONLY | O_LARGEFILE");
        assert_eq!(flags.render(0x4000_0001), "O_WRONLY | 0x40000000");
        assert_eq!(flags.bit("O_LARGEFILE"), Some(0o100_000));
        let status = Flags::named("mmap.status").unwrap();
        assert_eq!(status.render(0x8001), "VMA_AREA_REGULAR | VMA_AREA_SHSTK");
        assert_eq!(status.bit("VMA_AREA_NONE"), Some(0));
    }
}
