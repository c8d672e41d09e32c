//! `/proc/PID/smaps`: the mappings again, each with its sizes and its flags.
//!
//! The flags are what `/proc/PID/maps` does not tell: how a mapping was advised, locked, or made to grow.

use super::ParseError;
use super::maps::{self, Vma};
use super::text::{Line, Lines};

const FILE: &str = "/proc/PID/smaps";

/// One mapping with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmapsVma {
    pub vma: Vma,
    pub flags: VmFlags,
    /// Whether others may have some of its pages, too.
    pub shared: bool,
    /// The page size in use: 4096, or that of hugetlb pages.
    pub page_size: u64,
    /// Its protection key (`pkeys(7)`); 0 is that of all memory.
    pub protection_key: u32,
}

macro_rules! vm_flags {
    ($($flag:ident = $letters:literal $doc:literal,)*) => {
        /// A flag of a mapping, by the kernel's name for it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum VmFlag { $(#[doc = $doc] $flag,)* }

        impl VmFlag {
            /// All flags, with their two letters.
            pub const ALL: &[(Self, [u8; 2])] = &[$((Self::$flag, *$letters),)*];

            fn from_letters(letters: [u8; 2]) -> Option<Self> {
                match &letters {
                    $($letters => Some(Self::$flag),)*
                    _ => None,
                }
            }
        }
    };
}

// Letters as in Documentation/filesystems/proc.rst, section "VmFlags".
vm_flags! {
    Read = b"rd" "Readable.",
    Write = b"wr" "Writable.",
    Exec = b"ex" "Executable.",
    Shared = b"sh" "Shared.",
    MayRead = b"mr" "May be made readable.",
    MayWrite = b"mw" "May be made writable.",
    MayExec = b"me" "May be made executable.",
    MayShare = b"ms" "May be shared.",
    GrowsDown = b"gd" "A stack (`MAP_GROWSDOWN`).",
    PureFrameNumbers = b"pf" "Pure page frame numbers, no pages.",
    Locked = b"lo" "Locked in memory (`mlock`).",
    LockOnFault = b"lf" "Locked when touched (`MLOCK_ONFAULT`).",
    Io = b"io" "Memory-mapped device.",
    Sequential = b"sr" "`MADV_SEQUENTIAL`.",
    Random = b"rr" "`MADV_RANDOM`.",
    DontCopy = b"dc" "Not inherited by fork (`MADV_DONTFORK`).",
    DontExpand = b"de" "Cannot grow with mremap.",
    Accountable = b"ac" "Accounted against overcommit.",
    NoReserve = b"nr" "`MAP_NORESERVE`.",
    HugeTlb = b"ht" "Pages of hugetlbfs.",
    Sync = b"sf" "Synchronous faults (`MAP_SYNC`).",
    Architecture = b"ar" "Private to the architecture.",
    WipeOnFork = b"wf" "`MADV_WIPEONFORK`.",
    DontDump = b"dd" "Not in core dumps (`MADV_DONTDUMP`).",
    SoftDirty = b"sd" "Written to since soft-dirty bits were cleared.",
    MixedMap = b"mm" "Pages and page frame numbers mixed.",
    HugePage = b"hg" "`MADV_HUGEPAGE`.",
    NoHugePage = b"nh" "`MADV_NOHUGEPAGE`.",
    Mergeable = b"mg" "`MADV_MERGEABLE`.",
    UffdMissing = b"um" "Missing pages go to a userfaultfd.",
    UffdWriteProtect = b"uw" "Writes go to a userfaultfd.",
    UffdMinor = b"ui" "Minor faults go to a userfaultfd.",
    ShadowStack = b"ss" "A shadow stack.",
    Sealed = b"sl" "Sealed (`mseal`).",
    Droppable = b"dp" "May be dropped by the kernel (`MAP_DROPPABLE`).",
    MaybeGuard = b"gu" "May hold guard regions (`MADV_GUARD_INSTALL`).",
    BranchTarget = b"bt" "Guarded by branch target identification (arm64).",
    MemoryTagged = b"mt" "Tagged memory (arm64).",
}

/// The flags of one mapping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmFlags {
    known: u64,
    unknown: Vec<[u8; 2]>,
}

impl VmFlags {
    /// Whether the flag is set.
    pub fn has(&self, flag: VmFlag) -> bool {
        self.known & (1 << flag as u64) != 0
    }

    /// Flags of a kernel that is newer than this list.
    pub fn unknown(&self) -> &[[u8; 2]] {
        &self.unknown
    }

    fn parse(mut line: Line<'_>) -> Result<Self, ParseError> {
        let mut flags = Self::default();
        line.blanks();
        while !line.rest.is_empty() {
            let word = line.word("a flag")?;
            let letters = <[u8; 2]>::try_from(word).map_err(|_length| line.fail("flags of two letters"))?;
            match VmFlag::from_letters(letters) {
                Some(flag) => flags.known |= 1 << flag as u64,
                None => flags.unknown.push(letters),
            }
            line.blanks();
        }
        Ok(flags)
    }
}

impl FromIterator<VmFlag> for VmFlags {
    fn from_iter<I: IntoIterator<Item = VmFlag>>(flags: I) -> Self {
        let known = flags.into_iter().fold(0, |known, flag| known | 1 << flag as u64);
        Self { known, unknown: Vec::new() }
    }
}

/// Parses the text of `/proc/PID/smaps`.
pub fn parse(text: &[u8]) -> Result<Vec<SmapsVma>, ParseError> {
    // A mapping takes some 700 bytes here.
    let mut vmas: Vec<SmapsVma> = Vec::with_capacity(text.len() / 600);
    for mut line in Lines::new(FILE, text) {
        // Details start with a capital letter, mappings with a hexadecimal digit (in lower case).
        if !line.rest.first().is_some_and(u8::is_ascii_uppercase) {
            vmas.push(SmapsVma {
                vma: maps::parse_line(line)?,
                flags: VmFlags::default(),
                shared: false,
                page_size: 0,
                protection_key: 0,
            });
            continue;
        }
        let Some(last) = vmas.last_mut() else {
            return Err(line.fail("a mapping first"));
        };
        match line.key("a name and a colon")? {
            b"VmFlags" => last.flags = VmFlags::parse(line)?,
            b"Shared_Clean" | b"Shared_Dirty" => last.shared |= kilobytes(line)? > 0,
            b"ProtectionKey" => last.protection_key = line.decimal("a protection key")?,
            b"KernelPageSize" => last.page_size = kilobytes(line)?,
            _ => {}
        }
    }
    Ok(vmas)
}

fn kilobytes(mut line: Line<'_>) -> Result<u64, ParseError> {
    let before = line;
    let size: u64 = line.decimal("a size in kB")?;
    size.checked_mul(1024).ok_or_else(|| before.fail("a size in kB"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::{any, prop, proptest};

    use super::*;

    const REAL: &str = "\
5649f79fb000-5649f79fe000 r--p 00000000 fe:00 247749                     /usr/bin/sed
Size:                 12 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                  12 kB
Pss:                  11 kB
Pss_Dirty:             0 kB
Shared_Clean:          4 kB
Shared_Dirty:          0 kB
Anonymous:             8 kB
Swap:                  4 kB
SwapPss:               3 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd mr mw me zz 
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
VmFlags: rd wr mr mw me gd ac 
";

    #[test]
    fn details_belong_to_the_mapping_above_them() {
        let vmas = parse(REAL.as_bytes()).unwrap();
        assert_eq!(vmas.len(), 2);
        assert_eq!((vmas[0].shared, vmas[1].shared, vmas[0].page_size), (true, false, 4096));
        assert_eq!(vmas[0].vma.path, b"/usr/bin/sed");
        assert!(vmas[0].flags.has(VmFlag::MayWrite) && !vmas[0].flags.has(VmFlag::Write));
        assert_eq!(vmas[0].flags.unknown(), [*b"zz"]);
        assert!(vmas[1].flags.has(VmFlag::GrowsDown) && vmas[1].flags.unknown().is_empty());
    }

    #[test]
    fn letters_are_unique_and_fit_the_set() {
        assert!(VmFlag::ALL.len() <= 64);
        for (flag, letters) in VmFlag::ALL {
            assert_eq!(VmFlag::from_letters(*letters), Some(*flag));
        }
    }

    #[test]
    fn details_without_a_mapping_are_an_error() {
        assert_eq!(parse(b"Size: 4 kB\n").unwrap_err().expected, "a mapping first");
    }

    #[test]
    fn our_own_mappings_have_no_unknown_flags() {
        let vmas = parse(&std::fs::read("/proc/self/smaps").unwrap()).unwrap();
        let unknown: Vec<_> = vmas.iter().flat_map(|vma| vma.flags.unknown()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_hundred_thousand_mappings_are_read() {
        let (_, details) = REAL.split_once('\n').unwrap();
        let (details, _) = details.split_once("7ffd").unwrap();
        let mut text = String::new();
        for i in 0..100_000_u64 {
            let start = 0x7f00_0000_0000 + i * 0x2000;
            write!(
                text,
                "{start:x}-{:x} rw-p {i:08x} fe:00 247282    /usr/lib/libc.so.6\n{details}",
                start + 0x1000
            )
            .unwrap();
        }
        assert_eq!(parse(text.as_bytes()).unwrap().len(), 100_000);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_damage(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut text = REAL.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            text.truncate(cut.index(REAL.len()));
            let _ = parse(&text);
        }
    }
}
