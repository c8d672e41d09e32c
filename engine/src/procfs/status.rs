//! `/proc/PID/status`: credentials, signal masks, namespaces' pids and seccomp of a task.
//!
//! Documented in proc_pid_status(5). Lines that only some kernels have are `Option`s.

use super::ParseError;
use super::stat::State;
use super::text::{Line, Lines};

const FILE: &str = "/proc/PID/status";

/// What the lines say, under their own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: Vec<u8>,
    /// None for a task that is exiting and has let go of its file system context.
    pub umask: Option<u32>,
    pub state: State,
    pub tgid: i32,
    pub ngid: i32,
    pub pid: i32,
    pub ppid: i32,
    pub tracer_pid: i32,
    pub uid: Ids,
    pub gid: Ids,
    pub groups: Vec<u32>,
    /// One id per pid namespace, from the reader's to the task's own; as is `ns_pid` and the two behind it.
    pub ns_tgid: Vec<i32>,
    pub ns_pid: Vec<i32>,
    pub ns_pgid: Vec<i32>,
    pub ns_sid: Vec<i32>,
    /// Since Linux 6.8.
    pub kthread: Option<bool>,
    /// None for kernel threads and zombies, which have no memory.
    pub thp_enabled: Option<bool>,
    /// Bytes of memory that are locked; none for kernel threads and zombies.
    pub locked: Option<u64>,
    /// Bytes of anonymous memory that it has, hugetlb pages excepted, in memory and in swap.
    pub anonymous: u64,
    pub threads: u32,
    /// Queued signals of the real user, and their limit.
    pub sig_q: (u64, u64),
    pub sig_pnd: u64,
    pub shd_pnd: u64,
    pub sig_blk: u64,
    pub sig_ign: u64,
    pub sig_cgt: u64,
    pub cap_inh: u64,
    pub cap_prm: u64,
    pub cap_eff: u64,
    pub cap_bnd: u64,
    pub cap_amb: u64,
    pub no_new_privs: bool,
    /// Shadow stack features that are on (`x86_Thread_features`), as words; none in a kernel without.
    pub thread_features: Option<String>,
    /// Which bits of an address count (`untag_mask`, Linux 6.4).
    pub untag_mask: Option<u64>,
    /// 0 off, 1 strict, 2 filter; none in a kernel without seccomp.
    pub seccomp: Option<u32>,
    /// Since Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// The CPUs the task may run on, lowest word first.
    pub cpus_allowed: Vec<u64>,
}

/// The four ids of a `Uid:` or `Gid:` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub filesystem: u32,
}

/// Parses the text of `/proc/PID/status`.
pub fn parse(text: &[u8]) -> Result<Status, ParseError> {
    let mut found = Found::default();
    let mut lines = Lines::new(FILE, text);
    for mut line in lines.by_ref() {
        let key = line.key("a name and a colon")?;
        found.read(key, line)?;
    }
    found.complete().ok_or_else(|| lines.fail("all of Name, State, ids, signal masks and capabilities"))
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Found {
    name: Option<Vec<u8>>,
    umask: Option<u32>,
    state: Option<State>,
    tgid: Option<i32>,
    ngid: Option<i32>,
    pid: Option<i32>,
    ppid: Option<i32>,
    tracer_pid: Option<i32>,
    uid: Option<Ids>,
    gid: Option<Ids>,
    groups: Vec<u32>,
    ns_tgid: Vec<i32>,
    ns_pid: Vec<i32>,
    ns_pgid: Vec<i32>,
    ns_sid: Vec<i32>,
    kthread: Option<bool>,
    thp_enabled: Option<bool>,
    locked: Option<u64>,
    anonymous: u64,
    threads: Option<u32>,
    sig_q: (u64, u64),
    sig_pnd: Option<u64>,
    shd_pnd: Option<u64>,
    sig_blk: Option<u64>,
    sig_ign: Option<u64>,
    sig_cgt: Option<u64>,
    cap_inh: Option<u64>,
    cap_prm: Option<u64>,
    cap_eff: Option<u64>,
    cap_bnd: Option<u64>,
    cap_amb: Option<u64>,
    no_new_privs: Option<bool>,
    thread_features: Option<String>,
    untag_mask: Option<u64>,
    seccomp: Option<u32>,
    seccomp_filters: Option<u32>,
    cpus_allowed: Vec<u64>,
}

impl Found {
    fn read(&mut self, key: &[u8], mut line: Line<'_>) -> Result<(), ParseError> {
        match key {
            b"Name" => {
                self.name = Some(unescape_name(line.rest));
                return Ok(());
            }
            b"State" => {
                self.state = Some(state(line)?);
                return Ok(());
            }
            b"Umask" => self.umask = Some(line.octal("the umask in octal")?),
            b"Tgid" => self.tgid = Some(line.decimal("a pid")?),
            b"Ngid" => self.ngid = Some(line.decimal("a NUMA group")?),
            b"Pid" => self.pid = Some(line.decimal("a pid")?),
            b"PPid" => self.ppid = Some(line.decimal("a pid")?),
            b"TracerPid" => self.tracer_pid = Some(line.decimal("a pid")?),
            b"Uid" => self.uid = Some(ids(&mut line)?),
            b"Gid" => self.gid = Some(ids(&mut line)?),
            b"Groups" => self.groups = list(&mut line, "a list of group ids")?,
            b"NStgid" => self.ns_tgid = list(&mut line, "a list of pids")?,
            b"NSpid" => self.ns_pid = list(&mut line, "a list of pids")?,
            b"NSpgid" => self.ns_pgid = list(&mut line, "a list of pids")?,
            b"NSsid" => self.ns_sid = list(&mut line, "a list of pids")?,
            b"Kthread" => self.kthread = Some(bit(&mut line)?),
            b"THP_enabled" => self.thp_enabled = Some(bit(&mut line)?),
            b"VmLck" => {
                self.locked = Some(line.decimal::<u64>("kilobytes of locked memory")?.saturating_mul(1024));
                return Ok(());
            }
            b"RssAnon" | b"VmSwap" => {
                let kilobytes: u64 = line.decimal("kilobytes of memory")?;
                self.anonymous = self.anonymous.saturating_add(kilobytes.saturating_mul(1024));
                return Ok(());
            }
            b"Threads" => self.threads = Some(line.decimal("the number of threads")?),
            b"SigQ" => {
                let queued = line.decimal("the number of queued signals")?;
                line.byte(b'/', "a slash and the limit of queued signals")?;
                self.sig_q = (queued, line.decimal("the limit of queued signals")?);
            }
            b"NoNewPrivs" => self.no_new_privs = Some(bit(&mut line)?),
            b"x86_Thread_features" => {
                self.thread_features = Some(String::from_utf8_lossy(line.rest).trim().to_owned());
                return Ok(());
            }
            b"untag_mask" => {
                line.skip(b"0x");
                self.untag_mask = Some(line.hex("a mask of addresses")?);
            }
            b"Seccomp" => self.seccomp = Some(line.decimal("the seccomp mode")?),
            b"Seccomp_filters" => self.seccomp_filters = Some(line.decimal("the number of seccomp filters")?),
            b"Cpus_allowed" => self.cpus_allowed = cpu_mask(&mut line)?,
            _ => match self.mask(key) {
                Some(mask) => *mask = Some(line.hex("a mask in hexadecimal")?),
                None => return Ok(()),
            },
        }
        line.end("nothing more on this line")
    }

    fn mask(&mut self, key: &[u8]) -> Option<&mut Option<u64>> {
        Some(match key {
            b"SigPnd" => &mut self.sig_pnd,
            b"ShdPnd" => &mut self.shd_pnd,
            b"SigBlk" => &mut self.sig_blk,
            b"SigIgn" => &mut self.sig_ign,
            b"SigCgt" => &mut self.sig_cgt,
            b"CapInh" => &mut self.cap_inh,
            b"CapPrm" => &mut self.cap_prm,
            b"CapEff" => &mut self.cap_eff,
            b"CapBnd" => &mut self.cap_bnd,
            b"CapAmb" => &mut self.cap_amb,
            _ => return None,
        })
    }

    fn complete(self) -> Option<Status> {
        Some(Status {
            name: self.name?,
            umask: self.umask,
            state: self.state?,
            tgid: self.tgid?,
            ngid: self.ngid.unwrap_or(0),
            pid: self.pid?,
            ppid: self.ppid?,
            tracer_pid: self.tracer_pid?,
            uid: self.uid?,
            gid: self.gid?,
            groups: self.groups,
            ns_tgid: self.ns_tgid,
            ns_pid: self.ns_pid,
            ns_pgid: self.ns_pgid,
            ns_sid: self.ns_sid,
            kthread: self.kthread,
            thp_enabled: self.thp_enabled,
            locked: self.locked,
            anonymous: self.anonymous,
            threads: self.threads?,
            sig_q: self.sig_q,
            sig_pnd: self.sig_pnd?,
            shd_pnd: self.shd_pnd?,
            sig_blk: self.sig_blk?,
            sig_ign: self.sig_ign?,
            sig_cgt: self.sig_cgt?,
            cap_inh: self.cap_inh?,
            cap_prm: self.cap_prm?,
            cap_eff: self.cap_eff?,
            cap_bnd: self.cap_bnd?,
            cap_amb: self.cap_amb?,
            no_new_privs: self.no_new_privs?,
            thread_features: self.thread_features,
            untag_mask: self.untag_mask,
            seccomp: self.seccomp,
            seccomp_filters: self.seccomp_filters,
            cpus_allowed: self.cpus_allowed,
        })
    }
}

/// This file escapes newlines and backslashes in the name (`\n`, `\\`), as `/proc/PID/stat` does not.
fn unescape_name(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, bytes.peek()) {
            (b'\\', Some(b'n')) => {
                bytes.next();
                b'\n'
            }
            (b'\\', Some(b'\\')) => {
                bytes.next();
                b'\\'
            }
            _ => byte,
        });
    }
    out
}

fn state(line: Line<'_>) -> Result<State, ParseError> {
    line.rest
        .first()
        .and_then(|letter| State::from_letter(*letter))
        .ok_or_else(|| line.fail("a known state letter"))
}

fn ids(line: &mut Line<'_>) -> Result<Ids, ParseError> {
    const EXPECTED: &str = "four ids";
    Ok(Ids {
        real: line.field(EXPECTED)?,
        effective: line.field(EXPECTED)?,
        saved: line.field(EXPECTED)?,
        filesystem: line.field(EXPECTED)?,
    })
}

fn list<T: TryFrom<i128>>(line: &mut Line<'_>, expected: &'static str) -> Result<Vec<T>, ParseError> {
    let mut out = Vec::new();
    line.blanks();
    while !line.rest.is_empty() {
        out.push(line.decimal(expected)?);
        line.blanks();
    }
    Ok(out)
}

fn bit(line: &mut Line<'_>) -> Result<bool, ParseError> {
    Ok(line.decimal::<u8>("0 or 1")? != 0)
}

/// Groups of 32 bits, the highest first, with commas between.
fn cpu_mask(line: &mut Line<'_>) -> Result<Vec<u64>, ParseError> {
    let mut groups = Vec::new();
    loop {
        groups.push(line.hex("a CPU mask in hexadecimal")?);
        if !line.skip(b",") {
            break;
        }
    }
    groups.reverse();
    Ok(groups
        .chunks(2)
        .map(|pair| match pair {
            [low, high] => low | high << 32,
            [low] => *low,
            _ => 0,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};
    use rstest::rstest;

    use super::*;

    const REAL: &str = "Name:\tcat\nUmask:\t0022\nState:\tR (running)\nTgid:\t6098\nNgid:\t0\nPid:\t6099\n\
        PPid:\t6093\nTracerPid:\t7\nUid:\t0\t1\t2\t4294967295\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t4 24 100 \n\
        NStgid:\t6098\t1\nNSpid:\t6099\t2\nNSpgid:\t6093\t0\nNSsid:\t4987\t0\nKthread:\t0\nVmPeak:\t    3060 kB\n\
        CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\nThreads:\t3\nSigQ:\t1/96365\n\
        SigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000004\nSigIgn:\t8000000000000000\n\
        SigCgt:\t0000000000000010\nCapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n\
        CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n\
        Speculation_Store_Bypass:\tvulnerable\nCpus_allowed:\tf,00000000,00000003\nCpus_allowed_list:\t0-1,64-67\n";

    #[test]
    fn a_line_of_linux_6_18_is_read() {
        let s = parse(REAL.as_bytes()).unwrap();
        assert_eq!((s.name.as_slice(), s.umask, s.state), (&b"cat"[..], Some(0o22), State::Running));
        assert_eq!((s.tgid, s.ngid, s.pid, s.ppid, s.tracer_pid), (6098, 0, 6099, 6093, 7));
        assert_eq!(s.uid, Ids { real: 0, effective: 1, saved: 2, filesystem: u32::MAX });
        assert_eq!(s.gid, Ids { real: 5, effective: 6, saved: 7, filesystem: 8 });
        assert_eq!(s.groups, [4, 24, 100]);
        assert_eq!((s.ns_tgid, s.ns_pid), (vec![6098, 1], vec![6099, 2]));
        assert_eq!((s.ns_pgid, s.ns_sid), (vec![6093, 0], vec![4987, 0]));
        assert_eq!((s.kthread, s.thp_enabled, s.threads, s.sig_q), (Some(false), Some(true), 3, (1, 96365)));
        assert_eq!((s.sig_pnd, s.shd_pnd, s.sig_blk, s.sig_ign, s.sig_cgt), (1, 2, 4, 1 << 63, 16));
        assert_eq!((s.cap_inh, s.cap_prm, s.cap_eff), (0, 0x1ff_feff_ffff, 0x1ff_feff_ffff));
        assert_eq!((s.cap_bnd, s.cap_amb), (0x1ff_feff_ffff, 0x400));
        assert_eq!((s.no_new_privs, s.seccomp, s.seccomp_filters), (true, Some(2), Some(1)));
        assert_eq!(s.cpus_allowed, [3, 0xf]);
    }

    #[rstest]
    #[case("Name:\tcat", r"Name:	a\nb\\n", b"a\nb\\n")]
    #[case("Name:\tcat", "Name:\ta: b", b"a: b")]
    #[case("Name:\tcat", "Name:\t", b"")]
    fn names_are_unescaped(#[case] old: &str, #[case] new: &str, #[case] name: &[u8]) {
        assert_eq!(parse(REAL.replace(old, new).as_bytes()).unwrap().name, name);
    }

    #[rstest]
    #[case("Umask:\t0022", "Umask:\t9", 2, "the umask in octal")]
    #[case("Umask:\t0022", "Umask:\t0099", 2, "nothing more on this line")]
    #[case("Uid:\t0\t1\t2\t4294967295", "Uid:\t0\t1\t2", 9, "four ids")]
    #[case("SigQ:\t1/96365", "SigQ:\t1", 23, "a slash and the limit of queued signals")]
    #[case("State:\tR (running)", "State:\t?", 3, "a known state letter")]
    #[case("CapEff", "CapFfe", 39, "all of Name, State, ids, signal masks and capabilities")]
    fn damage_is_named(#[case] old: &str, #[case] new: &str, #[case] line: usize, #[case] expected: &str) {
        let error = parse(REAL.replace(old, new).as_bytes()).unwrap_err();
        assert_eq!((error.expected, error.line), (expected, line));
    }

    #[test]
    fn our_own_file_is_read() {
        let status = parse(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        assert_eq!(status.tgid, i32::try_from(std::process::id()).unwrap());
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
