//! `/proc/PID/cgroup`: where a task is in each hierarchy of control groups, documented in cgroups(7).

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/PID/cgroup";

/// A task's place in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The hierarchy: its controllers (`cpu,cpuacct`), `name=systemd`, or nothing for version 2.
    pub hierarchy: String,
    /// The path from the root of the reader's cgroup namespace; it begins with `/..` for what is outside of that.
    pub path: String,
}

/// Parses the text of `/proc/PID/cgroup`.
pub fn parse(text: &[u8]) -> Result<Vec<Membership>, ParseError> {
    Lines::new(FILE, text)
        .map(|line| {
            let mut fields = line.rest.splitn(3, |byte| *byte == b':').skip(1);
            let (Some(hierarchy), Some(path)) = (fields.next(), fields.next()) else {
                return Err(line.fail("a number, a hierarchy and a path"));
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(Membership { hierarchy: text(hierarchy), path: text(path) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let found = parse(b"9:name=systemd:/a:b\n4:cpu,cpuacct:/\n0::/x y\n").unwrap();
        let pairs: Vec<(&str, &str)> = found.iter().map(|m| (&*m.hierarchy, &*m.path)).collect();
        assert_eq!(pairs, [("name=systemd", "/a:b"), ("cpu,cpuacct", "/"), ("", "/x y")]);
        parse(b"0:\n").unwrap_err();
        parse(&std::fs::read("/proc/self/cgroup").unwrap()).unwrap();
    }
}
