//! Registers of x86-64 threads, and their form in images.
//!
//! ptrace gives the extended state in the standard (not compacted) XSAVE layout, whose offsets are the processor's own
//! (CPUID leaf 0xD). Images give each component a list of its own, so that they can be read on any processor.

pub mod processor;

use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::LazyLock;

use libc::user_regs_struct;
use proto::messages::{
    CoreEntry, ThreadInfoX86, UserDescT, UserX86FpregsEntry, UserX86RegsEntry, UserX86RegsMode,
    UserX86XsaveEntry, core_entry::March,
};

use zerocopy::IntoBytes as _;

use crate::error::{Class, Explain};
use crate::tracee::agent::Saved;
use crate::tracee::regs;

/// Bytes of the legacy area (`FXSAVE`).
const LEGACY: usize = 512;
/// Legacy area and XSAVE header.
const HEADER_END: usize = LEGACY + 64;

/// Components of the extended state: bits of `xstate_bv` (Intel SDM volume 1, chapter 13).
const X87_SSE: u64 = 0b11;
const AVX: u32 = 2;
const BNDREGS: u32 = 3;
const BNDCSR: u32 = 4;
const OPMASK: u32 = 5;
const ZMM_HI256: u32 = 6;
const HI16_ZMM: u32 = 7;
const PKRU: u32 = 9;
/// AMX: the shape of tiles, and their contents.
const TILE_CONFIGURATION: u32 = 17;
const TILE_DATA: u32 = 18;
const KNOWN: u64 = X87_SSE
    | 1 << AVX
    | 1 << BNDREGS
    | 1 << BNDCSR
    | 1 << OPMASK
    | 1 << ZMM_HI256
    | 1 << HI16_ZMM
    | 1 << PKRU;

/// Components that a process may use only after it has asked for them (`arch_prctl(2)`, `ARCH_REQ_XCOMP_PERM`).
pub const ASKED_FOR: u64 = 1 << TILE_DATA;

/// What is wrong with the registers of a thread or of an image.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// State that images have no place for.
    #[error("it has processor state in use that images cannot hold: {}", component_names(*.0))]
    UnknownComponents(u64),
    /// State that this processor does not have.
    #[error("it uses processor features that this machine lacks: {}", component_names(*.0))]
    MissingComponents(u64),
    /// The kernel's or the image's state is too short.
    #[error("the extended registers are incomplete")]
    Truncated,
    /// The image is of another architecture.
    #[error("the image is of another architecture ({0})")]
    OtherArchitecture(String),
    /// 32-bit code.
    #[error("it is a 32-bit task, which is not supported yet")]
    Compat,
}

impl Explain for ArchError {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        matches!(self, Self::MissingComponents(_)).then(|| {
            "restore it on a machine whose processor has all features of the one it was dumped on".into()
        })
    }
}

fn component_names(components: u64) -> String {
    let names = [
        (AVX, "AVX"),
        (BNDREGS, "MPX"),
        (BNDCSR, "MPX"),
        (OPMASK, "AVX-512"),
        (ZMM_HI256, "AVX-512"),
        (HI16_ZMM, "AVX-512"),
        (PKRU, "protection keys"),
        (TILE_CONFIGURATION, "AMX"),
        (TILE_DATA, "AMX"),
    ];
    let mut found: Vec<String> = Vec::new();
    for bit in (0..64).filter(|bit| components & (1_u64 << bit) != 0) {
        let name = names.iter().find(|(known, _)| *known == bit).map(|(_, name)| (*name).to_owned());
        found.push(name.unwrap_or_else(|| format!("XSAVE component {bit}")));
    }
    found.dedup();
    found.join(", ")
}

/// Where the processor keeps each component in the standard layout; none of those that it does not have. In a virtual machine,
/// each `cpuid` is a trap to the host, and costs as much as many system calls; so it is asked once.
static COMPONENTS: LazyLock<[Option<Range<usize>>; 64]> = LazyLock::new(|| {
    let all = __cpuid_count(0xd, 0);
    let all = u64::from(all.edx) << 32 | u64::from(all.eax);
    std::array::from_fn(|bit| {
        // The first two are the legacy area.
        if bit < 2 || all & 1 << bit == 0 {
            return None;
        }
        let leaf = __cpuid_count(0xd, bit as u32);
        let (size, offset) = (leaf.eax as usize, leaf.ebx as usize);
        (size != 0).then(|| offset..offset + size)
    })
});

fn component(bit: u32) -> Option<Range<usize>> {
    COMPONENTS.get(bit as usize).cloned().flatten()
}

/// Has the processor asked what it is asked once.
pub fn warm_up() {
    LazyLock::force(&COMPONENTS);
}

/// Puts a thread's registers into its image.
pub fn dump_registers(saved: &Saved, clear_tid_addr: u64, core: &mut CoreEntry) -> Result<(), ArchError> {
    core.mtype = March::X8664.into();
    core.thread_info = Some(ThreadInfoX86 {
        clear_tid_addr,
        gpregs: dump_general(&regs::for_image(&saved.regs)),
        fpregs: dump_extended(&saved.xstate)?,
        // The three TLS entries of the GDT; 64-bit code has no use for them, and they are empty.
        tls: (12..15)
            .map(|entry_number| UserDescT {
                entry_number,
                read_exec_only: true,
                seg_not_present: true,
                ..UserDescT::default()
            })
            .collect(),
    });
    Ok(())
}

fn dump_general(r: &user_regs_struct) -> UserX86RegsEntry {
    UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.rbp,
        bx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.rax,
        cx: r.rcx,
        dx: r.rdx,
        si: r.rsi,
        di: r.rdi,
        orig_ax: r.orig_rax,
        ip: r.rip,
        cs: r.cs,
        flags: r.eflags,
        sp: r.rsp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(UserX86RegsMode::Native.into()),
    }
}

fn dump_extended(xstate: &[u8]) -> Result<UserX86FpregsEntry, ArchError> {
    let used = u64_at(xstate, LEGACY).ok_or(ArchError::Truncated)?;
    if used & !KNOWN != 0 {
        return Err(ArchError::UnknownComponents(used & !KNOWN));
    }
    let words = |range: Range<usize>| words32(xstate.get(range).unwrap_or_default());
    let longs =
        |bit| component(bit).map(|range| words64(xstate.get(range).unwrap_or_default())).unwrap_or_default();
    let half =
        |at: usize| xstate.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
    let word =
        |at: usize| xstate.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    Ok(UserX86FpregsEntry {
        cwd: half(0).into(),
        swd: half(2).into(),
        twd: half(4).into(),
        fop: half(6).into(),
        rip: u64_at(xstate, 8).unwrap_or(0),
        rdp: u64_at(xstate, 16).unwrap_or(0),
        mxcsr: word(24),
        mxcsr_mask: word(28),
        st_space: words(32..160),
        xmm_space: words(160..416),
        padding: Vec::new(),
        xsave: Some(UserX86XsaveEntry {
            xstate_bv: used,
            ymmh_space: component(AVX).map(words).unwrap_or_default(),
            bndreg_state: longs(BNDREGS),
            bndcsr_state: longs(BNDCSR),
            opmask_reg: longs(OPMASK),
            zmm_upper: longs(ZMM_HI256),
            hi16_zmm: longs(HI16_ZMM),
            pkru: component(PKRU).map(words).unwrap_or_default(),
            cet: None,
        }),
    })
}

/// The general registers of an image.
pub fn restore_registers(core: &CoreEntry) -> Result<user_regs_struct, ArchError> {
    if core.mtype() != March::X8664 {
        return Err(ArchError::OtherArchitecture(core.mtype().as_str_name().to_owned()));
    }
    let g = &core.thread_info.as_ref().ok_or(ArchError::Truncated)?.gpregs;
    if g.mode() == UserX86RegsMode::Compat {
        return Err(ArchError::Compat);
    }
    Ok(user_regs_struct {
        r15: g.r15,
        r14: g.r14,
        r13: g.r13,
        r12: g.r12,
        rbp: g.bp,
        rbx: g.bx,
        r11: g.r11,
        r10: g.r10,
        r9: g.r9,
        r8: g.r8,
        rax: g.ax,
        rcx: g.cx,
        rdx: g.dx,
        rsi: g.si,
        rdi: g.di,
        // What was to be restarted is arranged for already; -1 keeps the kernel from doing it again.
        orig_rax: u64::MAX,
        rip: g.ip,
        cs: g.cs,
        eflags: g.flags,
        rsp: g.sp,
        ss: g.ss,
        fs_base: g.fs_base,
        gs_base: g.gs_base,
        ds: g.ds,
        es: g.es,
        fs: g.fs,
        gs: g.gs,
    })
}

/// Whether a thread can have the registers of an image here, and what it was `permitted` to use besides.
pub fn check_registers(core: &CoreEntry, permitted: u64) -> Result<(), ArchError> {
    restore_registers(core)?;
    let xsave = core.thread_info.as_ref().and_then(|info| info.fpregs.xsave.as_ref());
    match (xsave.map_or(0, |xsave| xsave.xstate_bv) | permitted) & !components_here() {
        0 => Ok(()),
        missing => Err(ArchError::MissingComponents(missing)),
    }
}

/// The components that this processor has.
fn components_here() -> u64 {
    (0..64).filter(|bit| *bit < 2 || component(*bit).is_some()).fold(0, |all, bit| all | 1 << bit)
}

/// The extended state of an image, in the layout of this machine. `template` is that of any thread here.
pub fn restored_xstate(core: &CoreEntry, template: &[u8]) -> Result<Vec<u8>, ArchError> {
    let f = &core.thread_info.as_ref().ok_or(ArchError::Truncated)?.fpregs;
    let mut xstate = template.to_vec();
    let mut put = |at: usize, bytes: &[u8]| -> Result<(), ArchError> {
        xstate.get_mut(at..at + bytes.len()).ok_or(ArchError::Truncated)?.copy_from_slice(bytes);
        Ok(())
    };
    for (at, value) in [(0, f.cwd), (2, f.swd), (4, f.twd), (6, f.fop)] {
        put(at, &(value as u16).to_le_bytes())?;
    }
    put(8, &f.rip.to_le_bytes())?;
    put(16, &f.rdp.to_le_bytes())?;
    put(24, &f.mxcsr.to_le_bytes())?;
    put(32, &bytes32(&f.st_space, 128))?;
    put(160, &bytes32(&f.xmm_space, 256))?;
    let Some(x) = &f.xsave else {
        put(LEGACY, &X87_SSE.to_le_bytes())?;
        return Ok(xstate);
    };
    let missing = x.xstate_bv & !components_here();
    if missing != 0 {
        return Err(ArchError::MissingComponents(missing));
    }
    // Components in their initial state have a zero here, whatever their bytes say.
    put(LEGACY, &x.xstate_bv.to_le_bytes())?;
    let components = [
        (AVX, bytes32(&x.ymmh_space, 0)),
        (BNDREGS, bytes64(&x.bndreg_state)),
        (BNDCSR, bytes64(&x.bndcsr_state)),
        (OPMASK, bytes64(&x.opmask_reg)),
        (ZMM_HI256, bytes64(&x.zmm_upper)),
        (HI16_ZMM, bytes64(&x.hi16_zmm)),
        (PKRU, bytes32(&x.pkru, 0)),
    ];
    for (bit, bytes) in components {
        if x.xstate_bv & (1 << bit) != 0
            && let Some(range) = component(bit)
        {
            let bytes = bytes.get(..range.len()).ok_or(ArchError::Truncated)?;
            put(range.start.max(HEADER_END), bytes)?;
        }
    }
    Ok(xstate)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn words64(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
}

/// The words' bytes; exactly `len` of them unless that is 0.
fn bytes32(words: &[u32], len: usize) -> Vec<u8> {
    let mut bytes = words.as_bytes().to_vec();
    if len != 0 {
        bytes.resize(len, 0);
    }
    bytes
}

fn bytes64(words: &[u64]) -> Vec<u8> {
    words.as_bytes().to_vec()
}
