//! Options about open files, which several commands have.

use std::path::PathBuf;

use crate::options::{FileOptions, GhostLimit, Unsupported, Validation};

use super::grammar::Given;

pub(super) fn options(given: &Given) -> FileOptions {
    FileOptions {
        ghost_limit: given.value("ghost-limit").map_or_else(GhostLimit::default, GhostLimit),
        link_remap: given.flag("link-remap"),
        file_locks: given.flag("file-locks"),
        validation: given.value("file-validation").unwrap_or_default(),
        skip_rwx_check: given.flag("skip-file-rwx-check"),
        evasive_devices: given.flag("evasive-devices"),
        irmap: irmap(given),
        external: given.values("external"),
        on_unsupported: given.values("on-unsupported"),
    }
}

/// Where to look for names of watched inodes: to name a directory is to ask for it.
fn irmap(given: &Given) -> Option<Vec<PathBuf>> {
    let places: Vec<PathBuf> = given.values("irmap-scan-path");
    (given.flag("force-irmap") || !places.is_empty()).then_some(places)
}

/// A number of bytes: `1048576`, `1024K`, `1M`, `1G`.
pub(super) fn size(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "sizes are numbers of bytes, which may end in K, M or G";
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let number: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or(WRONG)?;
    number.checked_mul(1 << shift).ok_or(WRONG)
}

pub(super) fn validation(text: &str) -> Result<Validation, &'static str> {
    match text {
        "filesize" => Ok(Validation::FileSize),
        "buildid" => Ok(Validation::BuildId),
        _ => Err("files are recognized by filesize or buildid"),
    }
}

/// Sorts of resources that may be outside of the tree.
const EXTERNAL: [&str; 8] = ["file[", "macvlan[", "mnt[", "pipe[", "pipe:[", "tty[", "unix[", "veth["];

/// Whether a resource of this key may not be outside of the tree yet.
pub(super) fn is_unfinished_external(key: &str) -> bool {
    // A program that has no such resource says so with no value (LXC: `console:`).
    let is_nothing = key.strip_suffix(':').is_some_and(|name| !name.is_empty() && !name.contains(['[', ':']));
    !is_nothing && !EXTERNAL.iter().any(|sort| key.starts_with(sort)) && !super::namespaces::is_external(key)
}

/// Whether a descriptor of ours may stand for a resource of this name. Paths may be written without their first slash.
pub(super) fn is_inheritable(resource: &str) -> bool {
    const SORTS: [&str; 4] = ["socket:[", "pipe:[", "tty[", "file["];
    let sort = resource.split_once('[').map_or("", |(sort, _)| sort.trim_end_matches(':'));
    let is_path = sort.is_empty() || !sort.bytes().all(|byte| byte.is_ascii_alphabetic());
    !resource.is_empty() && (is_path || SORTS.iter().any(|sort| resource.starts_with(sort)))
}

/// `KIND=close`, `KIND=reopen`, `KIND=refuse`.
pub(super) fn unsupported(text: &str) -> Result<(String, Unsupported), &'static str> {
    const WRONG: &str = "it must be KIND=close, KIND=reopen or KIND=refuse; the kind any stands for all";
    let (kind, choice) = text.split_once('=').filter(|(kind, _)| !kind.is_empty()).ok_or(WRONG)?;
    let choice = match choice {
        "close" => Unsupported::Close,
        "reopen" => Unsupported::Reopen,
        "refuse" => Unsupported::Refuse,
        _ => return Err(WRONG),
    };
    Ok((kind.to_owned(), choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("1048576", 1 << 20), ("3K", 3072), ("1M", 1 << 20), ("2g", 2 << 30)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "M", "1T", "-1", "1.5M", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values() {
        assert_eq!(unsupported("io_uring=close"), Ok(("io_uring".into(), Unsupported::Close)));
        for text in ["", "=close", "x", "x=lose"] {
            assert!(unsupported(text).is_err(), "{text}");
        }
        for resource in ["socket:[7]", "pipe:[7]", "tty[1:2]", "file[1d:8]", "/a", "a/b[1]", "log"] {
            assert!(is_inheritable(resource), "{resource}");
        }
        for resource in ["", "net[1]:x", "pipe[7]"] {
            assert!(!is_inheritable(resource), "{resource}");
        }
        assert!(!is_unfinished_external("file[1d:8]") && is_unfinished_external("dev[x]:y"));
    }
}
