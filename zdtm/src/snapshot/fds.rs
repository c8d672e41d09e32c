//! Facts of descriptors.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};

use super::Facts;

/// Lines of fdinfo that are not compared: `pos` is compared apart, `ino`, `eventfd-id` and `map_id` are numbers that the
/// kernel gives to new objects, the others count down or up.
const VOLATILE: &[&str] = &["pos", "ino", "eventfd-id", "map_id", "it_value", "ticks"];

/// Adds the descriptors of a process.
///
/// `mounts` are names of mounts whose numbers mean nothing.
pub(super) fn read(
    facts: &mut Facts,
    pid: i32,
    positions: bool,
    mounts: &BTreeMap<String, String>,
) -> Result<()> {
    let mut numbers: Vec<u32> = Vec::new();
    for item in fs::read_dir(format!("/proc/{pid}/fd"))? {
        numbers.extend(item?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    let removed: Vec<(u32, String)> =
        numbers.iter().filter_map(|fd| Some((*fd, removed_file(pid, *fd)?))).collect();
    for fd in numbers {
        let link = match fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            link => link.with_context(|| format!("fd {fd}"))?,
        };
        let link = facts.link(&link.to_string_lossy());
        facts.add(format!("task {pid} fd {fd} link"), link);
        let info = match fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            info => info.with_context(|| format!("fdinfo {fd}"))?,
        };
        for (key, text) in lines(&info, positions) {
            let text = match &*key {
                "mnt_id" if is_queue(pid, fd) => "that of its ipc namespace".to_owned(),
                "mnt_id" => mounts.get(&text).cloned().unwrap_or(text),
                key if key.starts_with("inotify wd") => watched(&text, &removed),
                key if key.starts_with("fanotify mnt_id") => marked(&text, mounts),
                _ => text,
            };
            facts.add(format!("task {pid} fd {fd} {key}"), text);
        }
    }
    Ok(())
}

/// Whether a descriptor is of a POSIX message queue: each ipc namespace has a mount for them, which nobody sees.
fn is_queue(pid: i32, fd: u32) -> bool {
    /// `MQUEUE_MAGIC` of ipc/mqueue.c.
    const MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x1980_0202);
    let path = format!("/proc/{pid}/fd/{fd}");
    nix::sys::statfs::statfs(path.as_str()).is_ok_and(|fs| fs.filesystem_type() == MAGIC)
}

/// A mark of a mount, whose number comes first: hexadecimal, other than elsewhere.
fn marked(text: &str, mounts: &BTreeMap<String, String>) -> String {
    let (number, rest) = text.split_once(' ').unwrap_or((text, ""));
    let decimal = u32::from_str_radix(number, 16).map(|number| number.to_string()).unwrap_or_default();
    mounts.get(&decimal).map_or_else(|| text.to_owned(), |name| format!("{name} {rest}"))
}

/// How a watch of inotify tells a file, if this descriptor is of one that has been removed.
fn removed_file(pid: i32, fd: u32) -> Option<String> {
    let stat = nix::sys::stat::stat(format!("/proc/{pid}/fd/{fd}").as_str()).ok()?;
    let device = libc::major(stat.st_dev) << 20 | libc::minor(stat.st_dev);
    let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    (is_file && stat.st_nlink == 0).then(|| format!("ino:{:x} sdev:{device:x}", stat.st_ino))
}

/// A removed file is another one when it is restored, with another number and handle: a watch of one that is open is told
/// by the descriptor it is open at.
fn watched(text: &str, removed: &[(u32, String)]) -> String {
    let Some((fd, file)) = removed.iter().find(|(_, file)| text.contains(&format!(" {file} "))) else {
        return if is_on_unnamed_device(text) { without_handle(text) } else { text.to_owned() };
    };
    let known = text.replace(file, &format!("fd {fd}"));
    known.split(" f_handle:").next().unwrap_or(&known).to_owned()
}

/// Whether a watch is in a file system without a device, such as a tmpfs: a restore of one that is the tree's own makes it anew,
/// with other handles and perhaps another number.
fn is_on_unnamed_device(watch: &str) -> bool {
    let device = watch.split(' ').find_map(|word| u32::from_str_radix(word.strip_prefix("sdev:")?, 16).ok());
    device.is_some_and(|device| device >> 20 == 0)
}

fn without_handle(watch: &str) -> String {
    let words = watch.split(' ').filter(|word| !word.starts_with("sdev:") && !word.starts_with("f_handle:"));
    words.collect::<Vec<_>>().join(" ")
}

/// The comparable lines; of lines with the same key, each gets its number.
fn lines(info: &str, positions: bool) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut sorted: Vec<&str> = info.lines().collect();
    // The kernel lists watched files by the addresses of its own structures.
    sorted.sort_by_key(|line| line.starts_with("tfd").then_some(*line));
    for line in sorted {
        let (key, text) = line.split_once(':').unwrap_or((line, ""));
        let key = key.trim();
        if VOLATILE.contains(&key) && !(key == "pos" && positions) {
            continue;
        }
        let text = match key {
            // The number of the watched file's inode is the kernel's choice for pipes and sockets.
            "tfd" => text.split(" pos:").next().unwrap_or(text),
            _ => text,
        };
        let mut words: Vec<&str> = text.split_whitespace().collect();
        // Such a lock belongs to the description. The process is the one that took it, which may have ended since.
        if key == "lock" && words.get(1) == Some(&"FLOCK") && words.len() > 4 {
            words.remove(4);
        }
        let text = words.join(" ");
        let same = found.iter().filter(|(known, _)| known.split('#').next() == Some(key)).count();
        let key = if same == 0 { key.to_owned() } else { format!("{key}#{same}") };
        found.push((key, text));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_on_request() {
        let info = "pos:\t12\nflags:\t0100002\nmnt_id:\t26\nino:\t99\n";
        let keys = |positions| lines(info, positions).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(true), ["pos", "flags", "mnt_id"]);
        assert_eq!(keys(false), ["flags", "mnt_id"]);
    }

    #[test]
    fn watches_of_removed_files_are_told_by_their_descriptors() {
        let text = "1 ino:99c071 sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8 f_handle:71c0";
        let removed = [(3, "ino:99c071 sdev:fe00000".to_owned()), (5, "ino:99 sdev:fe00000".to_owned())];
        assert_eq!(watched(text, &removed), "1 fd 3 mask:fff ignored_mask:0 fhandle-bytes:8");
        assert_eq!(watched(text, &removed[1..]), text);
    }

    #[test]
    fn who_took_a_flock_is_not_compared() {
        let info = "lock:\t1: FLOCK  ADVISORY  WRITE 9 fe:00:7 0 EOF\nlock:\t2: POSIX  ADVISORY  READ 9 fe:00:7 0 4\n";
        let texts: Vec<String> = lines(info, false).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["1: FLOCK ADVISORY WRITE fe:00:7 0 EOF", "2: POSIX ADVISORY READ 9 fe:00:7 0 4"]);
    }

    #[test]
    fn repeated_lines_stay_apart() {
        let info =
            "tfd: 5 events: 19 data: 5 pos:0 ino:1 sdev:f\ntfd: 6 events: 19 data: 6 pos:0 ino:2 sdev:f\n";
        assert_eq!(
            lines(info, false),
            [
                ("tfd".to_owned(), "5 events: 19 data: 5".to_owned()),
                ("tfd#1".to_owned(), "6 events: 19 data: 6".to_owned())
            ]
        );
    }
}
