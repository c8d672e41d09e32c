//! What this processor is and can do, as `cpuinfo.img` tells it, and whether it can stand in for another.
//!
//! The words of feature bits are in the kernel's order (`enum cpuid_leafs`, `arch/x86/include/asm/cpufeature.h`); those that
//! the kernel makes up itself are left at zero. Only features that a program meets are compared: a processor without
//! virtualization does for a program as well.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use proto::messages::{CpuinfoX86Entry, cpuinfo_x86_entry::Vendor};

use super::component_names;
use crate::error::{Class, Explain};
use crate::options::CpuCap;

/// `cpuinfo_x86_entry.capability_ver`: twenty words.
const CAPABILITY_VERSION: u32 = 2;
const WORDS: usize = 20;

/// Registers of `cpuid` that feature bits come from.
#[derive(Debug, Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where each word comes from: its number, leaf, subleaf and register.
const SOURCES: &[(usize, u32, u32, Register)] = &[
    (0, 1, 0, Register::Edx),
    (1, 0x8000_0001, 0, Register::Edx),
    (4, 1, 0, Register::Ecx),
    (6, 0x8000_0001, 0, Register::Ecx),
    (9, 7, 0, Register::Ebx),
    (10, 0xd, 1, Register::Eax),
    (12, 7, 1, Register::Eax),
    (13, 0x8000_0008, 0, Register::Ebx),
    (14, 6, 0, Register::Eax),
    (15, 0x8000_000a, 0, Register::Edx),
    (16, 7, 0, Register::Ecx),
    (17, 0x8000_0007, 0, Register::Ebx),
    (18, 7, 0, Register::Edx),
];

/// Features that registers depend on: word, bit, and the name that `/proc/cpuinfo` has for it.
const REGISTERS: &[(usize, u32, &str)] =
    &[(0, 0, "fpu"), (0, 23, "mmx"), (0, 24, "fxsr"), (0, 25, "sse"), (0, 26, "sse2"), (4, 26, "xsave")];

/// Instructions that a program may use after it has asked whether they are there.
#[rustfmt::skip]
const INSTRUCTIONS: &[(usize, u32, &str)] = &[
    (0, 4, "tsc"), (0, 8, "cx8"), (0, 15, "cmov"), (0, 19, "clflush"),
    (1, 11, "syscall"), (1, 22, "mmxext"), (1, 27, "rdtscp"), (1, 29, "lm"), (1, 30, "3dnowext"), (1, 31, "3dnow"),
    (4, 0, "sse3"), (4, 1, "pclmulqdq"), (4, 9, "ssse3"), (4, 12, "fma"), (4, 13, "cx16"), (4, 19, "sse4_1"),
    (4, 20, "sse4_2"), (4, 22, "movbe"), (4, 23, "popcnt"), (4, 25, "aes"), (4, 28, "avx"), (4, 29, "f16c"),
    (4, 30, "rdrand"),
    (6, 0, "lahf_lm"), (6, 5, "abm"), (6, 6, "sse4a"), (6, 7, "misalignsse"), (6, 8, "3dnowprefetch"), (6, 11, "xop"),
    (6, 15, "lwp"), (6, 16, "fma4"), (6, 21, "tbm"), (6, 29, "mwaitx"),
    (9, 0, "fsgsbase"), (9, 3, "bmi1"), (9, 4, "hle"), (9, 5, "avx2"), (9, 8, "bmi2"), (9, 11, "rtm"), (9, 14, "mpx"),
    (9, 16, "avx512f"), (9, 17, "avx512dq"), (9, 18, "rdseed"), (9, 19, "adx"), (9, 21, "avx512ifma"),
    (9, 23, "clflushopt"), (9, 24, "clwb"), (9, 26, "avx512pf"), (9, 27, "avx512er"), (9, 28, "avx512cd"),
    (9, 29, "sha_ni"), (9, 30, "avx512bw"), (9, 31, "avx512vl"),
    (10, 0, "xsaveopt"), (10, 1, "xsavec"), (10, 2, "xgetbv1"),
    (12, 0, "sha512"), (12, 1, "sm3"), (12, 2, "sm4"), (12, 4, "avx_vnni"), (12, 5, "avx512_bf16"),
    (12, 7, "cmpccxadd"), (12, 21, "amx_fp16"), (12, 23, "avx_ifma"),
    (13, 0, "clzero"), (13, 4, "rdpru"),
    (16, 1, "avx512vbmi"), (16, 3, "pku"), (16, 5, "waitpkg"), (16, 6, "avx512_vbmi2"), (16, 8, "gfni"), (16, 9, "vaes"),
    (16, 10, "vpclmulqdq"), (16, 11, "avx512_vnni"), (16, 12, "avx512_bitalg"), (16, 14, "avx512_vpopcntdq"),
    (16, 22, "rdpid"), (16, 25, "cldemote"), (16, 27, "movdiri"), (16, 28, "movdir64b"),
    (18, 2, "avx512_4vnniw"), (18, 3, "avx512_4fmaps"), (18, 8, "avx512_vp2intersect"), (18, 14, "serialize"),
    (18, 16, "tsxldtrk"), (18, 22, "amx_bf16"), (18, 23, "avx512_fp16"), (18, 24, "amx_tile"), (18, 25, "amx_int8"),
];

/// Why this processor cannot stand in for the one that an image set was made on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessorRefusal {
    /// It cannot hold registers that the other has.
    #[error("this processor cannot hold registers that the tasks may have in use: {0}")]
    Registers(String),
    /// It lacks instructions.
    #[error("this processor lacks instructions that the tasks may have found: {0}")]
    Instructions(String),
    /// It is another.
    #[error("this processor is another: {here} instead of {there}")]
    Model {
        /// What it is.
        here: String,
        /// What the other was.
        there: String,
    },
    /// It can do more.
    #[error("this processor can do what the other could not: {0}")]
    More(String),
    /// The image tells of no processor of this sort.
    #[error("the images are of a processor of another architecture")]
    Architecture,
}

impl Explain for ProcessorRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("restore on a machine like the first, or pass --cpu-cap with less".into())
    }
}

/// Describes the processor that we run on.
pub fn describe() -> CpuinfoX86Entry {
    let basic = __cpuid(0);
    let extended = __cpuid(0x8000_0000).eax;
    let is_there = |leaf: u32| if leaf & 0x8000_0000 == 0 { leaf <= basic.eax } else { leaf <= extended };
    let mut capability = vec![0; WORDS];
    let mut last = None;
    for (word, leaf, subleaf, register) in SOURCES {
        if !is_there(*leaf) {
            continue;
        }
        // Each cpuid is a trap in a virtual machine, and several words come from one.
        let found = match last {
            Some((known, found)) if known == (*leaf, *subleaf) => found,
            _ => __cpuid_count(*leaf, *subleaf),
        };
        last = Some(((*leaf, *subleaf), found));
        let bits = match register {
            Register::Eax => found.eax,
            Register::Ebx => found.ebx,
            Register::Ecx => found.ecx,
            Register::Edx => found.edx,
        };
        if let Some(place) = capability.get_mut(*word) {
            *place = bits;
        }
    }
    let (cpu_family, model, stepping) = signature(__cpuid(1).eax);
    let xstate = __cpuid_count(0xd, 0);
    let has_xsave = is_there(0xd);
    CpuinfoX86Entry {
        vendor_id: vendor(&[basic.ebx, basic.edx, basic.ecx]).into(),
        cpu_family,
        model,
        stepping,
        capability_ver: CAPABILITY_VERSION,
        capability,
        model_id: (0x8000_0004 <= extended).then(brand),
        xfeatures_mask: has_xsave.then_some(u64::from(xstate.edx) << 32 | u64::from(xstate.eax)),
        xsave_size: has_xsave.then_some(xstate.ebx),
        xsave_size_max: has_xsave.then_some(xstate.ecx),
    }
}

fn vendor(words: &[u32; 3]) -> Vendor {
    match text(words).as_str() {
        "GenuineIntel" => Vendor::Intel,
        "AuthenticAMD" => Vendor::Amd,
        _ => Vendor::Unknown,
    }
}

/// The name of the model, in 48 bytes of three leaves.
fn brand() -> String {
    let leaves = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(__cpuid);
    let words: Vec<u32> = leaves.iter().flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]).collect();
    text(&words).trim().to_owned()
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Family, model and stepping out of the signature of leaf 1 (Intel SDM volume 2, `CPUID`).
fn signature(eax: u32) -> (u32, u32, u32) {
    let base = eax >> 8 & 0xf;
    let family = if base == 0xf { base + (eax >> 20 & 0xff) } else { base };
    let low = eax >> 4 & 0xf;
    let model = if base == 0x6 || base == 0xf { (eax >> 16 & 0xf) << 4 | low } else { low };
    (family, model, eax & 0xf)
}

/// All that keeps processor `here` from standing in for `there`, as far as is asked.
pub fn compare(here: &CpuinfoX86Entry, there: &CpuinfoX86Entry, asked: CpuCap) -> Vec<ProcessorRefusal> {
    let mut found = Vec::new();
    if asked.cpu {
        let identity = |cpu: &CpuinfoX86Entry| (cpu.vendor_id, cpu.cpu_family, cpu.model);
        if identity(here) != identity(there) {
            found.push(ProcessorRefusal::Model { here: title(here), there: title(there) });
        }
        let more = lacking(there, here, INSTRUCTIONS);
        if !more.is_empty() {
            found.push(ProcessorRefusal::More(more.join(", ")));
        }
    }
    if asked.fpu || asked.cpu {
        let mut missing: Vec<String> =
            lacking(here, there, REGISTERS).into_iter().map(str::to_owned).collect();
        let components = there.xfeatures_mask.unwrap_or(0) & !here.xfeatures_mask.unwrap_or(0);
        if components != 0 {
            missing.push(component_names(components));
        }
        if !missing.is_empty() {
            found.push(ProcessorRefusal::Registers(missing.join(", ")));
        }
    }
    if asked.ins || asked.cpu {
        let missing = lacking(here, there, INSTRUCTIONS);
        if !missing.is_empty() {
            found.push(ProcessorRefusal::Instructions(missing.join(", ")));
        }
    }
    found
}

/// Names of the features that `of` has and `who` has not.
fn lacking(
    who: &CpuinfoX86Entry,
    of: &CpuinfoX86Entry,
    features: &[(usize, u32, &'static str)],
) -> Vec<&'static str> {
    let has = |cpu: &CpuinfoX86Entry, word: usize, bit: u32| {
        cpu.capability.get(word).is_some_and(|bits| bits & 1 << bit != 0)
    };
    let is_missing = |(word, bit, _): &&(usize, u32, &str)| has(of, *word, *bit) && !has(who, *word, *bit);
    features.iter().filter(is_missing).map(|(_, _, name)| *name).collect()
}

/// How messages name a processor.
pub fn title(cpu: &CpuinfoX86Entry) -> String {
    let name = cpu.model_id.as_deref().filter(|name| !name.is_empty());
    let name = name.map_or_else(|| cpu.vendor_id().as_str_name().to_owned(), str::to_owned);
    format!("{name} (family {}, model {}, stepping {})", cpu.cpu_family, cpu.model, cpu.stepping)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const FPU: CpuCap = CpuCap { fpu: true, ins: false, cpu: false };
    const INS: CpuCap = CpuCap { fpu: false, ins: true, cpu: false };
    const CPU: CpuCap = CpuCap { fpu: false, ins: false, cpu: true };

    #[test]
    fn a_processor_stands_in_for_itself() {
        let here = describe();
        for asked in [FPU, INS, CPU] {
            assert_eq!(compare(&here, &here, asked), Vec::new());
        }
        assert_eq!(here.capability.len(), WORDS);
        assert_eq!(lacking(&here, &here, INSTRUCTIONS), Vec::<&str>::new());
    }

    /// What `/proc/cpuinfo` calls a feature that we know is a feature that we find; it may hide some.
    #[test]
    fn names_are_those_of_the_kernel() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap();
        let nothing = CpuinfoX86Entry { capability: vec![0; WORDS], ..describe() };
        let ours = lacking(&nothing, &describe(), INSTRUCTIONS);
        let known = |flag: &&str| INSTRUCTIONS.iter().any(|(_, _, name)| name == flag);
        for flag in flags.split_whitespace().filter(known) {
            assert!(ours.contains(&flag), "{flag} is not in {ours:?}");
        }
    }

    #[rstest]
    #[case(FPU, 2, 9, 31, vec![ProcessorRefusal::Registers("AVX".into())])]
    #[case(INS, 60, 9, 31, vec![ProcessorRefusal::Instructions("avx512vl".into())])]
    #[case(INS, 60, 4, 5, Vec::new())]
    #[case(CpuCap::default(), 2, 9, 31, Vec::new())]
    fn what_is_missing_is_named(
        #[case] asked: CpuCap,
        #[case] component: u32,
        #[case] word: usize,
        #[case] bit: u32,
        #[case] expected: Vec<ProcessorRefusal>,
    ) {
        let mut there = describe();
        let mut here = there.clone();
        there.xfeatures_mask = Some(there.xfeatures_mask.unwrap_or(0) | 1 << component);
        here.xfeatures_mask = there.xfeatures_mask.map(|mask| mask & !(1 << component));
        there.capability[word] |= 1 << bit;
        here.capability[word] &= !(1 << bit);
        assert_eq!(compare(&here, &there, asked), expected);
    }

    #[test]
    fn the_same_model_is_asked_for() {
        let there = describe();
        let mut here = CpuinfoX86Entry { model: there.model + 1, ..there.clone() };
        here.capability[18] ^= 1 << 14;
        let found = compare(&here, &there, CPU);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(matches!(found.first(), Some(ProcessorRefusal::Model { .. })));
    }

    #[rstest]
    // A Zen 4, and a Skylake.
    #[case(0x00a1_0f11, (25, 17, 1))]
    #[case(0x0005_0654, (6, 85, 4))]
    fn signatures_are_taken_apart(#[case] eax: u32, #[case] expected: (u32, u32, u32)) {
        assert_eq!(signature(eax), expected);
    }
}
