//! Options about mounts, which dump and restore have; older spellings, too.

use std::path::PathBuf;

use crate::options::{AutoMounts, MountOptions};

use super::UsageError;
use super::grammar::Given;

/// What stands for finding external mounts by oneself, among the older spellings.
const AUTO: &str = "auto";

pub(super) fn options(given: &Given) -> Result<MountOptions, UsageError> {
    let mut options = MountOptions {
        root: given.value("root"),
        external_sharing: given.flag("enable-external-sharing"),
        external_masters: given.flag("enable-external-masters"),
        skip: given.values::<PathBuf>("skip-mnt").iter().map(|path| path.display().to_string()).collect(),
        ..MountOptions::default()
    };
    for list in given.values::<String>("enable-fs") {
        options.enabled.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
    }
    for value in given.values::<String>("external") {
        if let Some(mount) = value.strip_prefix("mnt[") {
            external(mount, &mut options).ok_or_else(|| bad("--external RESOURCE", &value))?;
        }
    }
    for value in given.values::<String>("ext-mount-map") {
        match value.split_once(':') {
            _ if value == AUTO => options.auto = options.auto.or(Some(AutoMounts::default())),
            // A program that has no such mount says so with no value (LXC, of its console).
            Some((key, "")) if !key.is_empty() && !key.starts_with('/') => {}
            Some((key, to)) if !key.is_empty() && !to.is_empty() => {
                options.external.push((key.to_owned(), to.to_owned()));
            }
            _ => return Err(bad("--ext-mount-map KEY:VALUE", &value)),
        }
    }
    Ok(options)
}

/// What stands behind `mnt[`.
fn external(mount: &str, options: &mut MountOptions) -> Option<()> {
    let (key, to) = mount.split_once(']')?;
    let to = if to.is_empty() { None } else { Some(to.strip_prefix(':').filter(|to| !to.is_empty())?) };
    if key.is_empty() {
        let letters = to.unwrap_or_default();
        if letters.chars().any(|letter| !"ms".contains(letter)) {
            return None;
        }
        options.auto = Some(AutoMounts { masters: letters.contains('m'), sharing: letters.contains('s') });
    } else {
        options.external.push((key.to_owned(), to.unwrap_or(key).to_owned()));
    }
    Some(())
}

fn bad(option: &str, value: &str) -> UsageError {
    let reason = "mounts are given as mnt[MOUNTPOINT]:NAME for a dump, mnt[NAME]:PATH for a restore, and mnt[], \
                  mnt[]:m, mnt[]:s or mnt[]:ms to find them";
    UsageError::bad_value(option, value, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_mounts() {
        let parse = |text: &str| {
            let mut options = MountOptions::default();
            external(text, &mut options).map(|()| options)
        };
        let pair = |a: &str, b: &str| vec![(a.to_owned(), b.to_owned())];
        assert_eq!(parse("/a]:name").unwrap().external, pair("/a", "name"));
        assert_eq!(parse("name]:/b:c").unwrap().external, pair("name", "/b:c"));
        assert_eq!(parse("/a]").unwrap().external, pair("/a", "/a"));
        let auto = |masters, sharing| Some(AutoMounts { masters, sharing });
        assert_eq!(parse("]").unwrap().auto, auto(false, false));
        assert_eq!(parse("]:sm").unwrap().auto, auto(true, true));
        for wrong in ["", "/a", "/a]x", "/a]:", "]:x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
