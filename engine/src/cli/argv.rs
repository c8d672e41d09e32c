//! What getopt accepts and clap does not: options before the command, and values that may be missing from short ones.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::table::{Spec, Takes};

/// A command line in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arranged {
    /// The first word that is neither an option nor an option's value.
    pub(super) command: Option<OsString>,
    /// All other words, in their order.
    pub(super) rest: Vec<OsString>,
    /// Whether `--version` or `-V` is among them.
    pub(super) version: bool,
}

/// Finds the command, and rewrites `-v4` to `--verbosity=4`, `-vv` to `--verbosity=++` and `-x17` to
/// `--ext-unix-sk=17`.
pub(super) fn arrange(args: impl IntoIterator<Item = OsString>) -> Arranged {
    let mut arranged = Arranged { command: None, rest: Vec::new(), version: false };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            arranged.rest.push(arg);
            arranged.rest.extend(args);
            break;
        }
        arranged.version |= arg == "--version" || arg == "-V";
        let value_follows = match arg.as_bytes() {
            [b'-', b'-', name @ ..] => value_follows_long(name),
            [b'-', _, ..] => {
                let (words, value_follows) = take_shorts(&arg);
                arranged.rest.extend(words);
                arranged.rest.extend(value_follows.then(|| args.next()).flatten());
                continue;
            }
            _ if arranged.command.is_none() => {
                arranged.command = Some(arg);
                continue;
            }
            _ => false,
        };
        arranged.rest.push(arg);
        arranged.rest.extend(value_follows.then(|| args.next()).flatten());
    }
    arranged
}

fn value_follows_long(name: &[u8]) -> bool {
    let spec = str::from_utf8(name).ok().and_then(Spec::find);
    spec.is_some_and(|spec| matches!(spec.takes, Takes::Value(_) | Takes::Values(_)))
}

/// Walks through `-Rj`, `-v4`, `-Ddir`: the words that say the same, and whether the next word is a value.
fn take_shorts(arg: &OsStr) -> (Vec<OsString>, bool) {
    let bytes = arg.as_bytes();
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        let Some(spec) = Spec::find_short(char::from(*byte)) else { break };
        let (before, value) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
        match spec.takes {
            Takes::Flag => {}
            Takes::Value(_) | Takes::Values(_) => return (vec![arg.to_owned()], value.is_empty()),
            Takes::Maybe(_) => {
                let mut long = OsString::from(format!("--{}", spec.long));
                let value = value.strip_prefix(b"=").unwrap_or(value);
                // Every further v counts, as the first one does.
                let pluses =
                    (spec.short == Some('v') && value.iter().all(|b| *b == b'v')).then_some(value.len() + 1);
                match pluses {
                    Some(count) => long.push(format!("={}", "+".repeat(count))),
                    None if value.is_empty() => {}
                    None => {
                        long.push("=");
                        long.push(OsStr::from_bytes(value));
                    }
                }
                let flags = (before.len() > 1).then(|| OsStr::from_bytes(before).to_owned());
                return (flags.into_iter().chain([long]).collect(), false);
            }
        }
    }
    (vec![arg.to_owned()], false)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("dump -t 5", Some("dump"), "-t 5")]
    #[case("-D dir dump -t 5", Some("dump"), "-D dir -t 5")]
    #[case("-Ddir --tree 5 dump", Some("dump"), "-Ddir --tree 5")]
    #[case("--images-dir=dir dump", Some("dump"), "--images-dir=dir")]
    #[case("-v4 dump", Some("dump"), "--verbosity=4")]
    #[case("dump -v", Some("dump"), "--verbosity=+")]
    #[case("dump -vvv -Rj", Some("dump"), "--verbosity=+++ -Rj")]
    #[case("dump -Rv4", Some("dump"), "-R --verbosity=4")]
    #[case("dump -v=3", Some("dump"), "--verbosity=3")]
    #[case("dump -vx", Some("dump"), "--verbosity=x")]
    #[case("dump -x -x17", Some("dump"), "--ext-unix-sk --ext-unix-sk=17")]
    #[case("restore -RD dir --exec-cmd -- -v x", Some("restore"), "-RD dir --exec-cmd -- -v x")]
    #[case("swrk 3", Some("swrk"), "3")]
    #[case("- dump", Some("-"), "dump")]
    #[case("", None, "")]
    fn words_come_in_order(#[case] line: &str, #[case] command: Option<&str>, #[case] rest: &str) {
        let arranged = arrange(line.split_whitespace().map(OsString::from));
        let words = |s: &str| s.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(arranged.command, command.map(OsString::from));
        assert_eq!(arranged.rest, words(rest));
    }

    #[test]
    fn a_version_is_asked_for_before_the_dashes_only() {
        let version = |line: &str| arrange(line.split_whitespace().map(OsString::from)).version;
        assert!(version("--version") && version("-V") && version("dump --version"));
        assert!(!version("restore -- --version") && !version("dump -o --version"));
    }
}
