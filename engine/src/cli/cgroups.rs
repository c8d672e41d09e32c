//! Options about control groups, of all commands that have them.

use std::path::PathBuf;

use crate::cgroups::wanted::{self, Props};
use crate::options::{CgroupOptions, ManageCgroups};

use super::UsageError;
use super::grammar::Given;

pub(super) fn options(given: &Given) -> Result<CgroupOptions, UsageError> {
    let modes = given.values::<String>("manage-cgroups");
    Ok(CgroupOptions {
        manage: modes.last().map_or(Ok(ManageCgroups::default()), |mode| manage(mode))?,
        roots: given
            .values::<String>("cgroup-root")
            .iter()
            .map(|value| root(value))
            .collect::<Result<_, _>>()?,
        yard: given.value("cgroup-yard"),
        props: props(given)?,
        controllers: given.values("cgroup-dump-controller"),
    })
}

/// What is said about settings on the command line, and in a file; of a controller in both, on the command line.
fn props(given: &Given) -> Result<Props, UsageError> {
    let replaces = given.flag("cgroup-props-ignore-default");
    let mut all = Props::new();
    if let Some(file) = given.value::<PathBuf>("cgroup-props-file") {
        let bad = |reason: &str| {
            UsageError::bad_value("--cgroup-props-file FILE", &file.display().to_string(), reason)
        };
        let text = std::fs::read_to_string(&file).map_err(|e| bad(&e.to_string()))?;
        all = wanted::parse(&text, replaces).map_err(|e| bad(&e.to_string()))?;
    }
    if let Some(text) = given.value::<String>("cgroup-props") {
        let props = wanted::parse(&text, replaces);
        all.extend(props.map_err(|e| UsageError::bad_value("--cgroup-props SPEC", &text, &e.to_string()))?);
    }
    Ok(all)
}

fn manage(mode: &str) -> Result<ManageCgroups, UsageError> {
    Ok(match mode {
        "ignore" => ManageCgroups::Ignore,
        "none" => ManageCgroups::None,
        "props" => ManageCgroups::Props,
        // The option alone.
        "soft" | "+" => ManageCgroups::Soft,
        "full" => ManageCgroups::Full,
        "strict" => ManageCgroups::Strict,
        other => {
            let modes = "the modes are ignore, none, props, soft, full and strict";
            return Err(UsageError::bad_value("--manage-cgroups[=MODE]", other, modes));
        }
    })
}

/// `[CONTROLLER:]/PATH`.
fn root(value: &str) -> Result<(Option<String>, PathBuf), UsageError> {
    let (controller, path) = match value.split_once(':') {
        Some((controller, path)) if !controller.starts_with('/') => (Some(controller.to_owned()), path),
        _ => (None, value),
    };
    if path.starts_with('/') {
        return Ok((controller, path.into()));
    }
    let reason = "a path begins at the root of the hierarchy, with a slash";
    Err(UsageError::bad_value("--cgroup-root [CONTROLLER:]PATH", value, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots() {
        assert_eq!(root("/a:b").unwrap(), (None, "/a:b".into()));
        assert_eq!(root("cpu:/a").unwrap(), (Some("cpu".into()), "/a".into()));
        assert_eq!(root("name=systemd:/a").unwrap(), (Some("name=systemd".into()), "/a".into()));
        root("a").unwrap_err();
        manage("some").unwrap_err();
    }
}
