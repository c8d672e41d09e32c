//! Facts of mappings.

use std::fs;

use anyhow::{Context as _, Result};

use super::Facts;

/// Flags of `VmFlags` that are not compared: `sd` and `um`/`uw` belong to whoever tracks the memory, `ac` (accounted)
/// depends on the order of the calls that made the mapping.
const VOLATILE_FLAGS: &[&str] = &["sd", "um", "uw", "ac"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    permissions: String,
    offset: u64,
    path: String,
    flags: String,
}

/// Adds the mappings of a process.
pub(super) fn read(facts: &mut Facts, pid: i32) -> Result<()> {
    let text = fs::read(format!("/proc/{pid}/smaps")).context("smaps")?;
    for mapping in merge(parse(&String::from_utf8_lossy(&text))) {
        let Mapping { start, end, permissions, offset, path, flags } = mapping;
        let path = facts.link(&path);
        facts.add(
            format!("task {pid} map {start:012x}-{end:012x}"),
            format!("{permissions} offset {offset:x} {path} [{flags}]"),
        );
    }
    Ok(())
}

fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let kept: Vec<&str> =
                flags.split_whitespace().filter(|flag| !VOLATILE_FLAGS.contains(flag)).collect();
            if let Some(mapping) = mappings.last_mut() {
                mapping.flags = kept.join(" ");
            }
        } else if let Some(mapping) = head(line) {
            mappings.push(mapping);
        }
    }
    // The pages of vvar belong to the kernel that runs now, and newer kernels split it in two; what it needs for its
    // breakpoints it maps when one is met.
    let kernels_own = ["[vvar", "[vsyscall]", "[uprobes"];
    mappings.retain(|mapping| !kernels_own.iter().any(|name| mapping.path.starts_with(name)));
    mappings
}

/// The first line of a mapping: range, permissions, offset, device, inode, path.
fn head(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        permissions: words.next()?.to_owned(),
        offset: u64::from_str_radix(words.next()?, 16).ok()?,
        path: words.nth(2).unwrap_or_default().trim().to_owned(),
        flags: String::new(),
    })
}

/// Joins neighbors that look the same: where the kernel splits a mapping is its own affair.
fn merge(mappings: Vec<Mapping>) -> Vec<Mapping> {
    let mut merged: Vec<Mapping> = Vec::new();
    for mapping in mappings {
        match merged.last_mut() {
            Some(last) if continues(last, &mapping) => last.end = mapping.end,
            _ => merged.push(mapping),
        }
    }
    merged
}

fn continues(last: &Mapping, next: &Mapping) -> bool {
    let is_file = next.path.starts_with('/');
    last.end == next.start
        && last.permissions == next.permissions
        && last.path == next.path
        && last.flags == next.flags
        && (!is_file || last.offset + (last.end - last.start) == next.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_are_joined() {
        let text = "\
00001000-00002000 rw-p 00000000 00:00 0 \nRss: 4 kB\nVmFlags: rd wr sd \n\
00002000-00003000 rw-p 00000000 00:00 0 \nVmFlags: rd wr ac \n\
00003000-00004000 r--s 00001000 08:01 77                         /a b\nVmFlags: rd\n\
00004000-00005000 r--s 00003000 08:01 77                         /a b\nVmFlags: rd\n\
00006000-00007000 r--p 00000000 00:00 0                          [vvar]\nVmFlags: rd\n";
        let found = merge(parse(text));
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].start, found[0].end, found[0].flags.as_str()), (0x1000, 0x3000, "rd wr"));
        assert_eq!(found[1].path, "/a b");
    }
}
