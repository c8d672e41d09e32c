//! The open files of each task.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::catalogue;
use proto::messages::{FdTypes, FdinfoEntry, FileEntry, FsEntry, InetSkEntry, TaskKobjIdsEntry, UnixSkEntry};

use super::image_set::Files;
use super::{CritError, ImageSet};

/// Writes what the descriptors of each task are, and its working directory, root directory and executable.
pub fn fds(set: &ImageSet, output: &mut dyn Write) -> Result<(), CritError> {
    let files = set.files()?;
    for task in set.tasks()? {
        writeln!(output, "{} {}", task.pid, set.comm(task.pid)?)?;
        for slot in slots(set, task.pid)? {
            let file = files.get(slot.r#type, slot.id);
            let description = file.map_or_else(|| unknown(&slot), |file| describe(file, &files));
            writeln!(output, "\t{:>7}: {description}", slot.fd)?;
        }
        if let Some(fs) = set.single::<FsEntry>(&catalogue::FS, task.pid)? {
            writeln!(output, "\t{:>7}: {}", "cwd", files.path(fs.cwd_id))?;
            writeln!(output, "\t{:>7}: {}", "root", files.path(fs.root_id))?;
        }
        if let Some(mm) = set.mm(task.pid)? {
            writeln!(output, "\t{:>7}: {}", "exe", files.path(mm.exe_file_id))?;
        }
    }
    Ok(())
}

/// A task's descriptor table. It is numbered by the identifier of the table, in old sets by the task.
fn slots(set: &ImageSet, pid: u32) -> Result<Vec<FdinfoEntry>, CritError> {
    let ids: Option<TaskKobjIdsEntry> = set.single(&catalogue::IDS, pid)?;
    let table = ids.map_or(pid, |ids| ids.files_id);
    let mut slots: Vec<FdinfoEntry> = set.all(&catalogue::FDINFO, table)?.unwrap_or_default();
    slots.sort_by_key(|slot| slot.fd);
    Ok(slots)
}

fn unknown(slot: &FdinfoEntry) -> String {
    match FdTypes::try_from(slot.r#type) {
        Ok(kind) => format!("{} {} (not in files.img)", kind.as_str_name(), slot.id),
        Err(_) => format!("file {} of the unknown type {}", slot.id, slot.r#type),
    }
}

/// One open file in a few words.
fn describe(file: &FileEntry, files: &Files) -> String {
    let id = file.id;
    if let Some(reg) = &file.reg {
        reg.name.escape_debug().to_string()
    } else if let Some(pipe) = &file.pipe {
        format!("pipe[{}]", pipe.pipe_id)
    } else if let Some(fifo) = &file.fifo {
        format!("fifo[{}] {}", fifo.pipe_id, fifo.regf_id.map(|id| files.path(id)).unwrap_or_default())
    } else if let Some(sk) = &file.usk {
        unix(sk)
    } else if let Some(sk) = &file.isk {
        inet(sk)
    } else if let Some(sk) = &file.nlsk {
        format!("netlink[{}] protocol {} port {}", sk.ino, sk.protocol, sk.portid)
    } else if let Some(sk) = &file.psk {
        format!("packet[{id}] protocol {:#x} interface {}", sk.protocol, sk.ifindex)
    } else if let Some(efd) = &file.efd {
        format!("eventfd[{id}] counter {}", efd.counter)
    } else if let Some(epfd) = &file.epfd {
        format!("eventpoll[{id}] watching {}", epfd.tfd.len())
    } else if let Some(tfd) = &file.tfd {
        format!("timerfd[{id}] clock {}", tfd.clockid)
    } else if let Some(sgfd) = &file.sgfd {
        format!("signalfd[{id}] mask {:#x}", sgfd.sigmask)
    } else if let Some(ify) = &file.ify {
        format!("inotify[{id}] watching {}", ify.wd.len())
    } else if let Some(ffy) = &file.ffy {
        format!("fanotify[{id}] marks {}", ffy.mark.len())
    } else if let Some(memfd) = &file.memfd {
        files.memfd(u64::from(memfd.inode_id))
    } else if let Some(tty) = &file.tty {
        format!("tty[{}] {}", tty.tty_info_id, tty.regf_id.map(|id| files.path(id)).unwrap_or_default())
    } else if let Some(ns) = &file.nsf {
        format!("namespace[{}]", ns.ns_id)
    } else if let Some(pidfd) = &file.pidfd {
        format!("pidfd[{}]", pidfd.nspid)
    } else if let Some(bpf) = &file.bpf {
        format!("bpf-map[{}] {}", bpf.map_id, bpf.map_name.escape_debug())
    } else if let Some(tun) = &file.tunf {
        format!("tun[{id}] {}", tun.netdev.as_deref().unwrap_or_default().escape_debug())
    } else {
        let kind = FdTypes::try_from(file.r#type).map_or("UND", |kind| kind.as_str_name());
        format!("{}[{id}]", kind.to_lowercase())
    }
}

fn unix(sk: &UnixSkEntry) -> String {
    let name = String::from_utf8_lossy(&sk.name);
    // A path ends with a null byte, an abstract name begins with one.
    let name = name.strip_suffix('\0').unwrap_or(&name).replacen('\0', "@", 1);
    let kind = named(sk.r#type, &[(1, "STREAM"), (2, "DGRAM"), (5, "SEQPACKET")]);
    let peer = if sk.peer == 0 { String::new() } else { format!(" -> {}", sk.peer) };
    let space = if name.is_empty() { "" } else { " " };
    format!("unix[{}{peer}] {kind}{space}{}", sk.ino, name.escape_debug())
}

fn inet(sk: &InetSkEntry) -> String {
    let protocol = named(sk.proto, &[(0, "IP"), (6, "TCP"), (17, "UDP"), (136, "UDPLITE")]);
    let (source, destination) = (address(&sk.src_addr, sk.src_port), address(&sk.dst_addr, sk.dst_port));
    let state = named(sk.state, &[(1, "ESTABLISHED"), (7, "CLOSE"), (10, "LISTEN")]);
    match sk.dst_port {
        0 => format!("inet[{}] {protocol} {source} {state}", sk.ino),
        _ => format!("inet[{}] {protocol} {source} -> {destination} {state}", sk.ino),
    }
}

/// The name of a number, or the number.
fn named(number: u32, names: &[(u32, &str)]) -> String {
    names
        .iter()
        .find(|(n, _)| *n == number)
        .map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

fn address(words: &[u32], port: u32) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let address = match (<[u8; 4]>::try_from(bytes.as_slice()), <[u8; 16]>::try_from(bytes.as_slice())) {
        (Ok(v4), _) => IpAddr::V4(Ipv4Addr::from(v4)),
        (_, Ok(v6)) => IpAddr::V6(Ipv6Addr::from(v6)),
        _ => return format!("?:{port}"),
    };
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}
