//! Tables of iptables and ip6tables that are not those of nftables: what `IPT_SO_GET_ENTRIES` tells of one, `IPT_SO_SET_REPLACE`
//! takes (`include/uapi/linux/netfilter_ipv4/ip_tables.h`, `include/uapi/linux/netfilter_ipv6/ip6_tables.h`).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proto::catalogue::STASIS_XTABLES;
use proto::messages::StasisXtableEntry;

use super::NetRefusal;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::netlink::number;
use crate::sys::{socket, xtables};

/// Numbers of both headers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const ADD_COUNTERS: i32 = 65;
/// `struct ipt_getinfo`, and the name that it begins with (`XT_TABLE_MAXNAMELEN`).
const INFO: usize = 84;
const NAME: usize = 32;
const HOOKS: usize = 5;
/// More than anybody has.
const MOST_ENTRIES: u32 = 1 << 20;
const COUNTER: usize = 16;

/// A family: how its sockets are made, where its tables are listed, and where in an entry the next one is told and counted.
struct Family {
    number: i32,
    level: i32,
    names: &'static str,
    next_at: usize,
    counters_at: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        number: libc::AF_INET,
        level: libc::IPPROTO_IP,
        names: "/proc/self/net/ip_tables_names",
        next_at: 90,
        counters_at: 96,
    },
    Family {
        number: libc::AF_INET6,
        level: libc::IPPROTO_IPV6,
        names: "/proc/self/net/ip6_tables_names",
        next_at: 142,
        counters_at: 152,
    },
];
/// Tables of others, which are refused.
const FOREIGN: [(&str, &str); 1] = [("arptables", "/proc/self/net/arp_tables_names")];

fn names(path: &str) -> Vec<String> {
    // No file, no tables: the module is not there.
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Finds what cannot be dumped.
pub(super) fn look(problems: &mut Vec<Problem>) {
    for (what, path) in FOREIGN {
        for name in names(path) {
            let object = Object::Named { kind: what, name: format!("table {name}") };
            problems.push(Problem::new(NetRefusal::Table).object(object));
        }
    }
}

/// Returns families of which there are tables (`AF_INET`, `AF_INET6`).
pub(super) fn dump(id: u32, images: &mut NewImages) -> Result<Vec<i32>, Problem> {
    let mut all = Vec::new();
    for family in &FAMILIES {
        // The youngest comes first, and is to be made last.
        for name in names(family.names).into_iter().rev() {
            all.push(read(family, &name).about(|| object(&name)).while_trying_to("read its entries")?);
        }
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    images.write(&STASIS_XTABLES, id.into(), &all)?;
    let has = |family: &&Family| all.iter().any(|table| table.family == family.number as u32);
    Ok(FAMILIES.iter().filter(has).map(|family| family.number).collect())
}

fn object(name: &str) -> Object {
    Object::Named { kind: "iptables", name: format!("table {name}") }
}

fn socket_of(family: &Family) -> Result<OwnedFd, SysError> {
    socket::create(family.number, libc::SOCK_RAW, libc::IPPROTO_RAW)
}

/// The name of a table as structures begin with it.
fn named(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME, 0);
    bytes
}

fn info(socket: BorrowedFd<'_>, family: &Family, name: &str) -> Result<Vec<u8>, SysError> {
    let mut info = named(name);
    info.resize(INFO, 0);
    socket::get_option(socket, family.level, GET_INFO, &mut info)?;
    Ok(info)
}

fn read(family: &Family, name: &str) -> Result<StasisXtableEntry, SysError> {
    /// `struct ipt_get_entries` begins with name and size, and is aligned.
    const BEFORE: usize = NAME + 8;
    let socket = socket_of(family)?;
    let info = info(socket.as_fd(), family, name)?;
    let word = |at: usize| number(&info, at).unwrap_or_default();
    let words = |at: usize| (0..HOOKS).map(|n| word(at + 4 * n)).collect();
    let size = word(INFO - 4);
    let mut entries = named(name);
    entries.extend(size.to_ne_bytes());
    entries.resize(BEFORE + size as usize, 0);
    socket::get_option(socket.as_fd(), family.level, GET_ENTRIES, &mut entries)?;
    Ok(StasisXtableEntry {
        family: family.number as u32,
        name: name.to_owned(),
        valid_hooks: word(NAME),
        hook_entries: words(NAME + 4),
        underflows: words(NAME + 24),
        count: word(INFO - 8),
        entries: entries.split_off(BEFORE),
    })
}

pub(super) fn restore(images: &Images, id: u32) -> Result<(), Problem> {
    if !images.has(&STASIS_XTABLES, id.into()) {
        return Ok(());
    }
    let all: Vec<StasisXtableEntry> = images.read(&STASIS_XTABLES, id.into())?;
    for table in all {
        let family = FAMILIES.iter().find(|family| family.number as u32 == table.family);
        let is_whole = table.name.len() < NAME
            && table.hook_entries.len() == HOOKS
            && table.underflows.len() == HOOKS
            && table.count <= MOST_ENTRIES;
        let Some(family) = family.filter(|_| is_whole) else {
            return Err(invalid(&STASIS_XTABLES, id.into(), "a table is not what was written"));
        };
        write(family, &table).about(|| object(&table.name)).while_trying_to("replace its entries")?;
    }
    Ok(())
}

fn write(family: &Family, table: &StasisXtableEntry) -> Result<(), SysError> {
    let socket = socket_of(family)?;
    // Of the entries that are replaced, the kernel tells the counters: it wants to know that they are as many as we think.
    let old =
        number(&info(socket.as_fd(), family, &table.name)?, INFO - 8).unwrap_or_default().min(MOST_ENTRIES);
    let mut header = named(&table.name);
    let sizes = [table.valid_hooks, table.count, table.entries.len() as u32];
    let words = sizes.iter().chain(&table.hook_entries).chain(&table.underflows).chain([&old]);
    header.extend(words.flat_map(|word| word.to_ne_bytes()));
    let mut told = vec![0; old as usize * COUNTER];
    xtables::replace(socket.as_fd(), family.level, &header, &mut told, &table.entries)?;
    // New entries have counted nothing.
    let mut counted = named(&table.name);
    let counters = counters(family, &table.entries);
    counted.extend((counters.len() as u32).to_ne_bytes());
    counted.extend([0; 4]);
    counted.extend(counters.iter().flatten());
    if counters.len() == table.count as usize && !counters.is_empty() {
        socket::set_option(socket.as_fd(), family.level, ADD_COUNTERS, &counted)?;
    }
    Ok(())
}

/// What entries have counted: packets and bytes of each.
fn counters(family: &Family, mut entries: &[u8]) -> Vec<[u8; COUNTER]> {
    let mut found = Vec::new();
    while let Some(counter) = entries.get(family.counters_at..).and_then(<[u8]>::first_chunk) {
        found.push(*counter);
        let next =
            entries.get(family.next_at..).and_then(<[u8]>::first_chunk).map(|b| u16::from_ne_bytes(*b));
        match next {
            None | Some(0) => break,
            Some(next) => entries = entries.get(usize::from(next)..).unwrap_or_default(),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_damaged_entries_end_somewhere() {
        let [family, _] = &FAMILIES;
        let mut entry = vec![0; 112];
        entry[90..92].copy_from_slice(&112_u16.to_ne_bytes());
        entry[96] = 5;
        let two = [entry.clone(), entry.clone()].concat();
        assert_eq!(counters(family, &two).iter().map(|counter| counter[0]).collect::<Vec<_>>(), [5, 5]);
        entry[90..92].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(counters(family, &entry).len(), 1);
        assert_eq!(counters(family, &two[..150]).len(), 1);
    }
}
