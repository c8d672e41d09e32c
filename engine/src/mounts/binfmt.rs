//! Interpreters that are registered in a binfmt_misc (Documentation/admin-guide/binfmt-misc.rst): a file for each tells what was
//! written to `register`.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use proto::messages::BinfmtMiscEntry;

use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::invalid;

/// The type of such file systems.
pub(super) const TYPE: &str = "binfmt_misc";

/// Files that are no entries.
const CONTROL: [&str; 2] = ["register", "status"];

/// Reads the entries of what is mounted at a path, in the order of their names.
pub(super) fn read(mountpoint: &Path) -> Result<Vec<BinfmtMiscEntry>, Problem> {
    let about = || Object::Path(mountpoint.to_owned());
    let files = fs::read_dir(mountpoint).map_err(SysError::io("opendir")).about(about)?;
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !CONTROL.contains(&name.as_str())).collect();
    names.sort_unstable();
    let read = |name: &String| {
        let text = fs::read_to_string(mountpoint.join(name)).map_err(SysError::io("read")).about(about)?;
        Ok(parse(name, &text))
    };
    names.iter().map(read).collect()
}

fn parse(name: &str, text: &str) -> BinfmtMiscEntry {
    let mut entry = BinfmtMiscEntry { name: name.to_owned(), ..BinfmtMiscEntry::default() };
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = || value.to_owned();
        match key {
            "enabled" => entry.enabled = true,
            "interpreter" => entry.interpreter = value(),
            "flags:" => entry.flags = Some(value()).filter(|flags| !flags.is_empty()),
            "extension" => entry.extension = value().strip_prefix('.').map(str::to_owned),
            "offset" => entry.offset = value().parse().ok(),
            "magic" => entry.magic = Some(value()),
            "mask" => entry.mask = Some(value()),
            _ => {}
        }
    }
    entry
}

/// Registers the entries in a file system, given by the root of its mount. One that is there is the machine's, and stays.
pub(super) fn register(root: &OwnedFd, entries: &[BinfmtMiscEntry]) -> Result<(), Problem> {
    let dir = format!("/proc/self/fd/{}", root.as_raw_fd());
    let dir = Path::new(&dir);
    for entry in entries {
        let about = || Object::Named { kind: "interpreter", name: entry.name.clone() };
        if entry.name.contains('/') || CONTROL.contains(&entry.name.as_str()) {
            return Err(invalid(&proto::catalogue::BINFMT_MISC, 0, "the name of an interpreter is none"));
        }
        let file = dir.join(&entry.name);
        if file.exists() {
            continue;
        }
        let line = line(entry).ok_or_else(|| {
            invalid(&proto::catalogue::BINFMT_MISC, 0, "an interpreter is told by nothing that is known")
        })?;
        let step = "register it";
        let write = |path: &Path, text: &str| fs::write(path, text).map_err(SysError::io("write"));
        write(&dir.join("register"), &line).about(about).while_trying_to(step)?;
        if !entry.enabled {
            write(&file, "0").about(about).while_trying_to(step)?;
        }
    }
    Ok(())
}

/// What is written to `register`, with a separator that no part has.
fn line(entry: &BinfmtMiscEntry) -> Option<String> {
    let escaped = |hex: &str| {
        let bytes = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        bytes.map(|byte| format!("\\x{byte}")).collect::<Vec<_>>().concat()
    };
    let (kind, offset, magic, mask) = match (&entry.extension, &entry.magic) {
        (Some(extension), _) => ("E", String::new(), extension.clone(), String::new()),
        (None, Some(magic)) => {
            let mask = entry.mask.as_deref().map(escaped).unwrap_or_default();
            ("M", entry.offset().to_string(), escaped(magic), mask)
        }
        (None, None) => return None,
    };
    let parts = [&entry.name, kind, &offset, &magic, &mask, &entry.interpreter, entry.flags()];
    let separator =
        [":", "|", "!", "\x01"].into_iter().find(|s| parts.iter().all(|part| !part.contains(s)))?;
    Some(format!("{separator}{}", parts.join(separator)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_registered() {
        let text = "enabled\ninterpreter /bin/true\nflags: OC\noffset 4\nmagic 7f45\nmask ffff\n";
        let entry = parse("a", text);
        assert_eq!(line(&entry).unwrap(), ":a:M:4:\\x7f\\x45:\\xff\\xff:/bin/true:OC");
        let entry = parse("b", "disabled\ninterpreter /a:b\nflags: \nextension .x\n");
        assert_eq!((line(&entry).unwrap().as_str(), entry.enabled), ("|b|E||x||/a:b|", false));
        assert_eq!(line(&parse("c", "")), None);
    }
}
