//! Flags of mounts and of file systems: the words of `/proc/PID/mountinfo`, the bits of mount(2) that images have, and the
//! bits of mount_setattr(2).

use nix::mount::MsFlags;

use crate::procfs::mountinfo::Propagation;
use crate::sys::mount::MOUNT_ATTR_ATIME;

/// `MS_NOSYMFOLLOW` of `include/uapi/linux/mount.h` (Linux 5.10).
const MS_NOSYMFOLLOW: u32 = 1 << 8;

/// A flag of a mount: its word, `MS_*` and `MOUNT_ATTR_*`.
const OF_MOUNT: [(&str, u32, u64); 8] = [
    ("ro", MsFlags::MS_RDONLY.bits() as u32, 1),
    ("nosuid", MsFlags::MS_NOSUID.bits() as u32, 2),
    ("nodev", MsFlags::MS_NODEV.bits() as u32, 4),
    ("noexec", MsFlags::MS_NOEXEC.bits() as u32, 8),
    ("noatime", MsFlags::MS_NOATIME.bits() as u32, 0x10),
    ("nodiratime", MsFlags::MS_NODIRATIME.bits() as u32, 0x80),
    ("relatime", MsFlags::MS_RELATIME.bits() as u32, 0),
    ("nosymfollow", MS_NOSYMFOLLOW, 0x20_0000),
];

/// `MOUNT_ATTR_STRICTATIME`, which has no word: neither noatime nor relatime is there.
const ATTR_STRICTATIME: u64 = 0x20;

/// All of `MOUNT_ATTR_*` that are in the table above.
const ALL_ATTRIBUTES: u64 = 0xf | MOUNT_ATTR_ATIME | 0x80 | 0x20_0000;

/// A flag of a file system: its word and `MS_*` (`show_sb_opts`, fs/proc_namespace.c).
const OF_SUPER: [(&str, u32); 5] = [
    ("ro", MsFlags::MS_RDONLY.bits() as u32),
    ("sync", MsFlags::MS_SYNCHRONOUS.bits() as u32),
    ("dirsync", MsFlags::MS_DIRSYNC.bits() as u32),
    ("mand", MsFlags::MS_MANDLOCK.bits() as u32),
    ("lazytime", MsFlags::MS_LAZYTIME.bits() as u32),
];

/// `MS_*` of a mount's options.
pub(super) fn of_mount(options: &str) -> u32 {
    let bits = |word: &str| OF_MOUNT.iter().find(|(name, ..)| *name == word).map_or(0, |(_, bits, _)| *bits);
    options.split(',').map(bits).fold(0, |all, bits| all | bits)
}

/// `MS_*` of how a mount propagates.
pub(super) fn of_propagation(propagation: &Propagation) -> u32 {
    let shared = propagation.shared.map_or(MsFlags::empty(), |_| MsFlags::MS_SHARED);
    let slave = propagation.master.map_or(MsFlags::empty(), |_| MsFlags::MS_SLAVE);
    let both = match (shared | slave).is_empty() {
        true if propagation.unbindable => MsFlags::MS_UNBINDABLE,
        true => MsFlags::MS_PRIVATE,
        false => shared | slave,
    };
    both.bits() as u32
}

/// Whether no other mount can be made from a mount.
pub(super) fn is_unbindable(flags: u32) -> bool {
    flags & MsFlags::MS_UNBINDABLE.bits() as u32 != 0
}

/// `MS_*` of a file system's options, and the others.
pub(super) fn split_super(options: &str) -> (u32, String) {
    let mut bits = 0;
    let mut others = Vec::new();
    for word in options.split(',').filter(|word| !word.is_empty() && *word != "rw") {
        match OF_SUPER.iter().find(|(name, _)| *name == word) {
            Some((_, flag)) => bits |= flag,
            None => others.push(word),
        }
    }
    (bits, others.join(","))
}

/// The words of a file system's flags.
pub(super) fn super_words(bits: u32) -> impl Iterator<Item = &'static str> {
    OF_SUPER.iter().filter(move |(_, flag)| bits & flag != 0).map(|(name, _)| *name)
}

/// What mount_setattr(2) is to set and to clear.
pub(super) fn attributes(flags: u32) -> (u64, u64) {
    let set = OF_MOUNT.iter().filter(|(_, bits, _)| flags & bits != 0).fold(0, |all, (.., attr)| all | attr);
    let is_strict = flags & (MsFlags::MS_NOATIME | MsFlags::MS_RELATIME).bits() as u32 == 0;
    (if is_strict { set | ATTR_STRICTATIME } else { set }, ALL_ATTRIBUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_bits() {
        assert_eq!(of_mount("rw,nosuid,nodev,relatime"), 2 | 4 | (1 << 21));
        assert_eq!(split_super("rw,size=4k,lazytime,mode=755"), (1 << 25, "size=4k,mode=755".into()));
        assert_eq!(super_words(1 | 16).collect::<Vec<_>>(), ["ro", "sync"]);
        assert_eq!(attributes(of_mount("ro,noatime")), (1 | 0x10, 0x20_00ff));
        assert_eq!(attributes(of_mount("rw")).0, 0x20);
        assert_eq!(attributes(of_mount("rw,relatime")).0, 0);
    }
}
