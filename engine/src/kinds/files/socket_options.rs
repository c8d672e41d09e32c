//! Options that sockets of all families have (socket(7)), and their form in images.
//!
//! CRIU's message holds the well-known ones. All others are pairs of a number and bytes in our own message: one is saved if
//! it differs from what a new socket of the same family, type and protocol has, and only what the tables here name is set.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use proto::messages::{SkOptsEntry, StasisSocketOption};

use super::SocketFacts;
use crate::error::{Class, Explain, Problem, SysError};
use crate::sys::socket::{self, get_number, get_option, set_number, set_option};

/// From `include/uapi/asm-generic/socket.h`.
const SO_BUF_LOCK: i32 = 72;
/// Instructions of a socket filter (`BPF_MAXINSNS` of `include/uapi/linux/bpf_common.h`).
const MOST_INSTRUCTIONS: usize = 4096;

/// An option by level and number, and how many bytes it has at most.
pub type Place = (i32, i32, usize);

/// The processor that packets should come to; of a connection, the one that they came to last.
pub const INCOMING_CPU: Place = (libc::SOL_SOCKET, libc::SO_INCOMING_CPU, 4);

/// Options of `SOL_SOCKET` that CRIU's message lacks, from `include/uapi/asm-generic/socket.h`.
pub const MORE: &[Place] = &[
    (libc::SOL_SOCKET, libc::SO_DEBUG, 4),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 4),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 4),
    (libc::SOL_SOCKET, 63, 4), // SO_TIMESTAMP_NEW
    (libc::SOL_SOCKET, 64, 4), // SO_TIMESTAMPNS_NEW
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 8),
    (libc::SOL_SOCKET, 65, 8), // SO_TIMESTAMPING_NEW
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 4),
    (libc::SOL_SOCKET, 41, 4), // SO_WIFI_STATUS
    (libc::SOL_SOCKET, libc::SO_PEEK_OFF, 4),
    (libc::SOL_SOCKET, 43, 4), // SO_NOFCS
    (libc::SOL_SOCKET, 45, 4), // SO_SELECT_ERR_QUEUE
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL, 4),
    (libc::SOL_SOCKET, 47, 8), // SO_MAX_PACING_RATE
    INCOMING_CPU,
    (libc::SOL_SOCKET, 60, 4), // SO_ZEROCOPY
    (libc::SOL_SOCKET, 61, 8), // SO_TXTIME
    (libc::SOL_SOCKET, 69, 4), // SO_PREFER_BUSY_POLL
    (libc::SOL_SOCKET, 73, 4), // SO_RESERVE_MEM
    (libc::SOL_SOCKET, 74, 4), // SO_TXREHASH
    (libc::SOL_SOCKET, 75, 4), // SO_RCVMARK
    (libc::SOL_SOCKET, 76, 4), // SO_PASSPIDFD
    (libc::SOL_SOCKET, 82, 4), // SO_RCVPRIORITY
    (libc::SOL_SOCKET, 83, 4), // SO_PASSRIGHTS
    // Behind the filter that it locks.
    (libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 4),
];

/// Why options cannot be saved or set.
#[derive(Debug, thiserror::Error)]
pub enum OptionRefusal {
    /// A filter of the newer sort.
    #[error("an eBPF program is attached to the socket, which cannot be read back from it")]
    Ebpf,
    /// The buffer may not be as large.
    #[error("its {buffer} buffer has {was} bytes, and only {is} are allowed here")]
    Buffer {
        /// Which one.
        buffer: &'static str,
        /// Bytes it had.
        was: u32,
        /// Bytes it got.
        is: u32,
    },
    /// The kernel takes none, or not this value.
    #[error("option {name} of level {level} cannot be set: {why}")]
    Unset {
        /// Its level.
        level: i32,
        /// Its number.
        name: i32,
        /// What the kernel said.
        why: SysError,
    },
}

impl Explain for OptionRefusal {
    fn class(&self) -> Class {
        match self {
            Self::Ebpf => Class::Refused,
            Self::Buffer { .. } => Class::Environment,
            Self::Unset { why, .. } => why.class(),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Ebpf => Some("detach it first (SO_DETACH_BPF)".into()),
            Self::Buffer { buffer: "send", .. } => {
                Some("restore with CAP_NET_ADMIN, or raise net.core.wmem_max".into())
            }
            Self::Unset { why, .. } => why.help(),
            Self::Buffer { .. } => Some("restore with CAP_NET_ADMIN, or raise net.core.rmem_max".into()),
        }
    }
}

/// Reads all options of CRIU's message.
pub fn read(fd: BorrowedFd<'_>, family: i32) -> Result<SkOptsEntry, Problem> {
    Ok(SkOptsEntry { so_filter: filter(fd)?, ..read_plain(fd, family)? })
}

/// Reads all but the filter.
pub fn read_plain(fd: BorrowedFd<'_>, family: i32) -> Result<SkOptsEntry, SysError> {
    // Other families cannot pass credentials, and say so since Linux 6.16.
    let passes = [libc::AF_UNIX, libc::AF_NETLINK].contains(&family);
    let mut device = [0; libc::IFNAMSIZ];
    let len = get_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut device)?;
    let name = device.get(..len).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    let number = |name| get_number(fd, libc::SOL_SOCKET, name);
    let flag = |name| number(name).map(|value| Some(value != 0));
    let time = |name| -> Result<(u64, u64), SysError> {
        let mut value = [0; 16];
        get_option(fd, libc::SOL_SOCKET, name, &mut value)?;
        let (seconds, micros) = value.split_at(8);
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
        Ok((word(seconds), word(micros)))
    };
    let (so_snd_tmo_sec, so_snd_tmo_usec) = time(libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = time(libc::SO_RCVTIMEO)?;
    let mut linger = [0; 8];
    get_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger)?;
    let (on, seconds) = linger.split_at(4);
    let seconds = seconds.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
    Ok(SkOptsEntry {
        so_sndbuf: number(libc::SO_SNDBUF)? as u32,
        so_rcvbuf: number(libc::SO_RCVBUF)? as u32,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(number(libc::SO_PRIORITY)? as u32),
        so_rcvlowat: Some(number(libc::SO_RCVLOWAT)? as u32),
        so_mark: Some(number(libc::SO_MARK)? as u32).filter(|mark| *mark != 0),
        so_passcred: if passes { flag(libc::SO_PASSCRED)? } else { None },
        so_passsec: if passes { flag(libc::SO_PASSSEC)? } else { None },
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(number(libc::SO_OOBINLINE)? as u32),
        so_linger: on.iter().any(|byte| *byte != 0).then_some(seconds),
        so_buf_lock: number(SO_BUF_LOCK).ok().map(|lock| lock as u32),
        so_bound_dev: Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty()),
        ..SkOptsEntry::default()
    })
}

/// The classic filter (`SO_ATTACH_FILTER`), one word for each instruction: code, jt, jf, k from the top.
pub fn filter(fd: BorrowedFd<'_>) -> Result<Vec<u64>, Problem> {
    filter_of(socket::filter(fd).as_ref())
}

/// The same of what the kernel answered.
pub fn filter_of(answer: Result<&Vec<libc::sock_filter>, &SysError>) -> Result<Vec<u64>, Problem> {
    let program = match answer {
        Ok(program) => program,
        Err(SysError { errno: Errno::EACCES, .. }) => return Err(Problem::new(OptionRefusal::Ebpf)),
        Err(e) => return Err((*e).into()),
    };
    let word = |i: &libc::sock_filter| {
        u64::from(i.code) << 48 | u64::from(i.jt) << 40 | u64::from(i.jf) << 32 | u64::from(i.k)
    };
    Ok(program.iter().map(word).collect())
}

fn attach(fd: BorrowedFd<'_>, filter: &[u64]) -> Result<(), SysError> {
    let instruction = |word: &u64| libc::sock_filter {
        code: (word >> 48) as u16,
        jt: (word >> 40) as u8,
        jf: (word >> 32) as u8,
        k: *word as u32,
    };
    let program: Vec<_> = filter.iter().take(MOST_INSTRUCTIONS + 1).map(instruction).collect();
    socket::attach_filter(fd, &program)
}

/// Sets all options that differ from what the socket has; `SO_REUSEADDR` comes after binding.
pub fn write(fd: BorrowedFd<'_>, family: i32, options: &SkOptsEntry) -> Result<(), Problem> {
    write_over(fd, options, &read_plain(fd, family)?)
}

/// Sets all options that differ from what a new socket of this sort has. This one is new, apart from its buffers.
pub fn write_new(
    fd: BorrowedFd<'_>,
    fresh: &mut Fresh,
    facts: SocketFacts,
    options: &SkOptsEntry,
) -> Result<(), Problem> {
    let size = |name| get_number(fd, libc::SOL_SOCKET, name).map(|size| size as u32);
    let is = SkOptsEntry {
        so_sndbuf: size(libc::SO_SNDBUF)?,
        so_rcvbuf: size(libc::SO_RCVBUF)?,
        so_buf_lock: size(SO_BUF_LOCK).ok(),
        ..fresh.plain(facts)?.clone()
    };
    write_over(fd, options, &is)
}

fn write_over(fd: BorrowedFd<'_>, options: &SkOptsEntry, is: &SkOptsEntry) -> Result<(), Problem> {
    let number = |name, value: u32, is: u32| {
        if value == is { Ok(()) } else { set_number(fd, libc::SOL_SOCKET, name, value as i32) }
    };
    let flag = |name, value: Option<bool>, is: Option<bool>| match value {
        Some(value) if Some(value) != is => set_number(fd, libc::SOL_SOCKET, name, i32::from(value)),
        _ => Ok(()),
    };
    write_buffers(fd, options, is)?;
    let times = [
        (libc::SO_SNDTIMEO, options.so_snd_tmo_sec, options.so_snd_tmo_usec),
        (libc::SO_RCVTIMEO, options.so_rcv_tmo_sec, options.so_rcv_tmo_usec),
    ];
    for (name, seconds, micros) in
        times.into_iter().filter(|(_, seconds, micros)| (*seconds, *micros) != (0, 0))
    {
        set_option(fd, libc::SOL_SOCKET, name, &[seconds.to_ne_bytes(), micros.to_ne_bytes()].concat())?;
    }
    number(libc::SO_PRIORITY, options.so_priority.unwrap_or(0), is.so_priority.unwrap_or(0))?;
    number(libc::SO_RCVLOWAT, options.so_rcvlowat.unwrap_or(1), is.so_rcvlowat.unwrap_or(1))?;
    number(libc::SO_MARK, options.so_mark.unwrap_or(0), is.so_mark.unwrap_or(0))?;
    flag(libc::SO_PASSCRED, options.so_passcred, is.so_passcred)?;
    flag(libc::SO_PASSSEC, options.so_passsec, is.so_passsec)?;
    flag(libc::SO_DONTROUTE, options.so_dontroute, is.so_dontroute)?;
    flag(libc::SO_NO_CHECK, options.so_no_check, is.so_no_check)?;
    flag(libc::SO_REUSEPORT, options.so_reuseport, is.so_reuseport)?;
    flag(libc::SO_BROADCAST, options.so_broadcast, is.so_broadcast)?;
    flag(libc::SO_KEEPALIVE, options.so_keepalive, is.so_keepalive)?;
    number(libc::SO_OOBINLINE, options.so_oobinline.unwrap_or(0), is.so_oobinline.unwrap_or(0))?;
    if let Some(seconds) = options.so_linger {
        let linger = [1_u32.to_ne_bytes(), seconds.to_ne_bytes()].concat();
        set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
    }
    if let Some(device) = options.so_bound_dev.as_ref().filter(|name| !name.is_empty()) {
        set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())?;
    }
    if !options.so_filter.is_empty() {
        attach(fd, &options.so_filter)?;
    }
    Ok(())
}

/// Sizes of the buffers, and whether they were set by hand.
fn write_buffers(fd: BorrowedFd<'_>, options: &SkOptsEntry, is: &SkOptsEntry) -> Result<(), Problem> {
    let buffers = [
        ("send", libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.so_sndbuf, is.so_sndbuf),
        ("receive", libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.so_rcvbuf, is.so_rcvbuf),
    ];
    for (buffer, force, plain, was, is) in buffers {
        if was == is {
            continue;
        }
        // The kernel doubles what it is given, to have room for its own.
        let half = (was / 2) as i32;
        match set_number(fd, libc::SOL_SOCKET, force, half) {
            Err(SysError { errno: Errno::EPERM, .. }) => {
                set_number(fd, libc::SOL_SOCKET, plain, half)?;
                let is = get_number(fd, libc::SOL_SOCKET, plain)? as u32;
                if is < was {
                    return Err(Problem::new(OptionRefusal::Buffer { buffer, was, is }));
                }
            }
            done => done?,
        }
    }
    // Setting a size locks it.
    if let Some(lock) = options.so_buf_lock
        && (options.so_sndbuf, options.so_rcvbuf, options.so_buf_lock)
            != (is.so_sndbuf, is.so_rcvbuf, is.so_buf_lock)
    {
        set_number(fd, libc::SOL_SOCKET, SO_BUF_LOCK, lock as i32)?;
    }
    Ok(())
}

/// Lets a socket send more than it was allowed, until its own limit is set.
pub fn widen(fd: BorrowedFd<'_>, bytes: usize) -> Result<(), SysError> {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX / 4).max(1 << 20);
    match set_number(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted) {
        Err(SysError { errno: Errno::EPERM, .. }) => {
            set_number(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, wanted)
        }
        done => done,
    }
}

/// Bytes of the longest option of any table.
const LONGEST: usize = 64;

/// The values of a table's options, with their places; those that a socket does not have are left out.
type Values = Vec<(Place, Vec<u8>)>;

/// What new sockets have, by family, type and protocol.
#[derive(Debug, Default)]
pub struct Fresh {
    values: HashMap<(i32, i32, i32), Values>,
    plain: HashMap<(i32, i32, i32), SkOptsEntry>,
}

fn key(facts: SocketFacts) -> (i32, i32, i32) {
    (facts.domain, facts.kind, facts.protocol)
}

/// Calls `take` with the value of an option, if the socket has it.
fn with_value<R>(fd: BorrowedFd<'_>, place: Place, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let (level, name, size) = place;
    let mut value = [0; LONGEST];
    let value = value.get_mut(..size)?;
    let len = get_option(fd, level, name, value).ok()?;
    value.get(..len).map(take)
}

/// The processor that a socket was given, if it was.
pub fn incoming_cpu(fd: BorrowedFd<'_>) -> Option<StasisSocketOption> {
    let value = with_value(fd, INCOMING_CPU, <[u8]>::to_vec)?;
    let (level, name, _) = INCOMING_CPU;
    let option = StasisSocketOption { level: level as u32, name: name as u32, value };
    (option.value != (-1_i32).to_ne_bytes()).then_some(option)
}

impl Fresh {
    /// Learns what new sockets of a sort have of a table's options.
    pub fn learn(&mut self, facts: SocketFacts, table: &[Place]) {
        self.values.entry(key(facts)).or_insert_with(|| {
            let Ok(new) = socket::create(facts.domain, facts.kind, facts.protocol) else {
                // Then every option of a socket is one to be saved.
                return table.iter().map(|place| (*place, Vec::new())).collect();
            };
            let value = |place: &Place| Some((*place, with_value(new.as_fd(), *place, <[u8]>::to_vec)?));
            table.iter().filter_map(value).collect()
        });
    }

    /// Whether what new sockets of a sort have was learned.
    pub fn knows(&self, facts: SocketFacts) -> bool {
        self.values.contains_key(&key(facts))
    }

    /// Those options that differ from what was learned; what a new socket does not have, others like it do not have either.
    pub fn differing(&self, fd: BorrowedFd<'_>, facts: SocketFacts) -> Vec<StasisSocketOption> {
        let learned = self.values.get(&key(facts)).map(Vec::as_slice).unwrap_or_default();
        let differing = learned.iter().filter_map(|(place, fresh)| {
            let value = with_value(fd, *place, |value| (value != fresh).then(|| value.to_vec()))??;
            Some(StasisSocketOption { level: place.0 as u32, name: place.1 as u32, value })
        });
        differing.collect()
    }

    /// Those options of a table that differ from what a new socket has.
    pub fn differences(
        &mut self,
        fd: BorrowedFd<'_>,
        facts: SocketFacts,
        table: &[Place],
    ) -> Vec<StasisSocketOption> {
        self.learn(facts, table);
        self.differing(fd, facts)
    }

    /// What a new socket has of CRIU's message.
    fn plain(&mut self, facts: SocketFacts) -> Result<&SkOptsEntry, SysError> {
        Ok(match self.plain.entry(key(facts)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let new = socket::create(facts.domain, facts.kind, facts.protocol)?;
                place.insert(read_plain(new.as_fd(), facts.domain)?)
            }
        })
    }
}

/// Sets options of a table; others in the image are passed over.
pub fn write_more(
    fd: BorrowedFd<'_>,
    options: &[StasisSocketOption],
    table: &[Place],
) -> Result<(), OptionRefusal> {
    for &(level, name, _) in table {
        let saved = options.iter().find(|o| (o.level as i32, o.name as i32) == (level, name));
        if let Some(option) = saved {
            let set = set_option(fd, level, name, &option.value);
            set.map_err(|why| OptionRefusal::Unset { level, name, why })?;
        }
    }
    Ok(())
}
