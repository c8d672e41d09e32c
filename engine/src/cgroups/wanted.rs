//! Which settings of groups are kept: those of the table, and what the user says about that (`--cgroup-props`).

use std::collections::BTreeMap;

use super::properties::SETTINGS;

/// What the user says about one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerProps {
    /// Its settings of the table are not kept, unless they are named.
    pub replaces: bool,
    /// Names of files, which begin with the controller's.
    pub names: Vec<String>,
}

/// What the user says, by controller.
pub type Props = BTreeMap<String, ControllerProps>;

/// The controller that a setting belongs to.
fn controller(name: &str) -> &str {
    name.split_once('.').map_or("", |(controller, _)| controller)
}

/// Whether a name is one of a setting that a controller may have beyond those of the table. Files of groups as such are none:
/// some move tasks, or kill them.
pub(super) fn is_setting(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
    is_plain && !["", "cgroup"].contains(&controller(name)) && !name.ends_with('.')
}

/// Names of all settings that are kept, in the order in which they are set.
pub(super) fn names(props: &Props) -> Vec<&str> {
    let built_in = SETTINGS.iter().map(|(name, _)| *name);
    let is_kept = |name: &&str| match props.get(controller(name)) {
        Some(own) if own.replaces => own.names.iter().any(|named| named == name),
        _ => true,
    };
    let mut all: Vec<&str> = built_in.filter(is_kept).collect();
    for name in props.values().flat_map(|own| &own.names) {
        if !all.contains(&name.as_str()) {
            all.push(name);
        }
    }
    all
}

/// Why a text is no such specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropsError {
    /// It is none at all.
    #[error(
        "it is not of the form \"CONTROLLER\":, - \"strategy\": \"merge\", - \"properties\": [\"NAME\", …]: {0}"
    )]
    Form(String),
    /// A strategy that there is not.
    #[error("the strategy of {0} must be merge or replace")]
    Strategy(String),
    /// A file that is no setting of the controller.
    #[error("{name} is no setting of {controller}")]
    Foreign {
        /// The controller.
        controller: String,
        /// The file.
        name: String,
    },
}

/// One line below a controller.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
struct Item {
    strategy: Option<String>,
    properties: Option<Vec<String>>,
}

/// Reads a specification: YAML, but that lines may be indented as people like.
pub fn parse(text: &str, replaces: bool) -> Result<Props, PropsError> {
    let indented = |line: &str| {
        let line = line.trim();
        if line.starts_with('-') { format!(" {line}\n") } else { format!("{line}\n") }
    };
    let text: String = text.lines().map(indented).collect();
    let read: BTreeMap<String, Vec<Item>> =
        serde_yaml::from_str(&text).map_err(|e| PropsError::Form(e.to_string()))?;
    let mut all = Props::new();
    for (controller, items) in read {
        let mut own = ControllerProps { replaces, names: Vec::new() };
        for item in items {
            match item.strategy.as_deref() {
                None | Some("merge") => {}
                Some("replace") => own.replaces = true,
                Some(_other) => return Err(PropsError::Strategy(controller)),
            }
            own.names.extend(item.properties.unwrap_or_default());
        }
        if let Some(name) =
            own.names.iter().find(|name| !is_setting(name) || self::controller(name) != controller)
        {
            return Err(PropsError::Foreign { name: name.clone(), controller });
        }
        all.insert(controller, own);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_indented_in_any_way() {
        let text = "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"cpu.new\", \"cpu.shares\"]\n \"pids\":\n\t\
                    - \"strategy\": \"replace\"\n  - \"properties\": [\"pids.other\"]";
        let props = parse(text, false).unwrap();
        let own = |replaces, names: &[&str]| ControllerProps {
            replaces,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(props.get("cpu"), Some(&own(false, &["cpu.new", "cpu.shares"])));
        assert_eq!(props.get("pids"), Some(&own(true, &["pids.other"])));
        let names = names(&props);
        let has = |name: &str| names.iter().filter(|is| **is == name).count();
        assert_eq!(
            ["cpu.shares", "cpu.new", "pids.max", "pids.other", "memory.limit_in_bytes"].map(has),
            [1, 1, 0, 1, 1]
        );
        assert!(parse("\"pids\":\n - \"properties\": [\"pids.max\"]", true).unwrap()["pids"].replaces);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| parse(text, false).unwrap_err();
        let foreign = |controller: &str, name: &str| PropsError::Foreign {
            controller: controller.into(),
            name: name.into(),
        };
        assert_eq!(error("\"cpu\":\n - \"properties\": [\"pids.max\"]"), foreign("cpu", "pids.max"));
        assert_eq!(
            error("\"cpu\":\n - \"properties\": [\"cpu./../tasks\"]"),
            foreign("cpu", "cpu./../tasks")
        );
        assert_eq!(
            error("\"cgroup\":\n - \"properties\": [\"cgroup.kill\"]"),
            foreign("cgroup", "cgroup.kill")
        );
        assert_eq!(error("\"cpu\":\n - \"strategy\": \"mix\""), PropsError::Strategy("cpu".into()));
        assert!(matches!(error("cpu"), PropsError::Form(_)));
        assert!(matches!(error("\"cpu\":\n - \"props\": []"), PropsError::Form(_)));
    }
}
