//! One zoo entry: what the YAML may say, and how it is read.
//!
//! The YAML says what, never how. Unknown keys are errors, and the schema in `zoo/schema.json` is generated from here.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::need::Need;

/// What a zoo file says.
///
/// `{port}` (a free TCP port), `{dir}` (the test's directory), `{outside}` (where the file system of the host is mounted), `{name}` (the entry's name) and `{here}` (the folder of
/// the YAML file) are replaced in `command`, `args`, `env`, `files`, `setup`, `between`, `cleanup`, `ready`, `before` and `after`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// One sentence, printed on failure.
    pub about: String,
    /// A workload of `zdtm/workloads`; either this or `command`.
    #[serde(default)]
    pub workload: Option<String>,
    /// Kinds of the engine's registry that it shows to work; `engine/tests/tidy.rs` compares the names.
    #[serde(default)]
    pub covers: Vec<String>,
    /// Arguments of the workload.
    #[serde(default)]
    pub args: Vec<String>,
    /// Any program with its arguments; either this or `workload`.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Where it can run; the first of them is used unless the runner is told otherwise (`--flavor`).
    #[serde(default = "default_flavors")]
    pub flavors: Vec<Flavor>,
    /// A file system of the host that is mounted as `outside` in the directory of the target: of one with a root of its own, or
    /// with `own_mounts`.
    #[serde(default)]
    pub outside: Option<Outside>,
    /// In flavor `host`, the trial has a mount namespace for itself, in which nobody else mounts anything.
    #[serde(default)]
    pub own_mounts: bool,
    /// A pair of network devices, one of which is in the target's network namespace.
    #[serde(default)]
    pub outer: Option<Outer>,
    /// `workload` only: another one, with its arguments, that runs outside of the target: at the other end of `outer`, if there is
    /// one. It is in the same directory, and has to succeed, too.
    #[serde(default)]
    pub peer: Option<Vec<String>>,
    /// Engine options for both dump and restore.
    #[serde(default)]
    pub options: Vec<String>,
    /// Engine options for dump only.
    #[serde(default)]
    pub dump_options: Vec<String>,
    /// Engine options for restore only.
    #[serde(default)]
    pub restore_options: Vec<String>,
    /// What the machine must have; unmet is a skip with the reason.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// What should happen.
    #[serde(default)]
    pub expect: Expect,
    /// What of the outside view changes by itself while the target runs, and is therefore not compared.
    #[serde(default)]
    pub moves: Vec<Moves>,
    /// What of the machine there is only once: entries that name the same never run at the same time.
    #[serde(default)]
    pub exclusive: Vec<Exclusive>,
    /// Time limit in seconds, where the runner's default is too short.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// `command` only: environment variables to set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `command` only: files to write into the test's directory, name to contents.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// `command` only: commands to run, in order, before the start.
    #[serde(default)]
    pub setup: Vec<Vec<String>>,
    /// Commands to run, in order, between dump and restore.
    #[serde(default)]
    pub between: Vec<Vec<String>>,
    /// Commands to run at the end, whatever happened.
    #[serde(default)]
    pub cleanup: Vec<Vec<String>>,
    /// `command` only: how to see that the program is ready. Without it: it still runs after a third of a second.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// `command` only: a file that holds the pid of the init of a pid namespace when the command has ended: that one's tree is
    /// dumped, and restored.
    #[serde(default)]
    pub init: Option<String>,
    /// `command` only: what to say to the program before the dump.
    #[serde(default)]
    pub before: Vec<Probe>,
    /// `command` only: what to say to it after the restore; the answers show that it is the same program.
    #[serde(default)]
    pub after: Vec<Probe>,
    /// `command` only: the signal that ends the program.
    #[serde(default)]
    pub stop: Option<Stop>,
}

/// Where a target runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Flavor {
    /// As is, in the runner's namespaces.
    Host,
    /// In its own pid, mount, net, ipc and uts namespaces.
    Ns,
    /// As `ns`, and in its own user namespace.
    Userns,
}

/// A pair of network devices that reaches out of the target's network namespace, into one of the trial's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outer {
    /// The name of the inner end.
    pub inner: String,
    /// The name of the outer end.
    pub outer: String,
    /// The name of a bridge that the outer end becomes a port of; its address is 192.0.2.254.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Whether the inner one is a macvlan on top of the outer one instead, which is the bridge.
    #[serde(default)]
    pub macvlan: bool,
}

impl Flavor {
    /// The word in the YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Ns => "ns",
            Self::Userns => "userns",
        }
    }

    /// A name as reports show it: that of an entry where it runs as is needs no more.
    pub fn label(self, name: &str) -> String {
        if self == Self::Host { name.to_owned() } else { format!("{name} ({})", self.as_str()) }
    }
}

/// What the mount of a file system of the host has to do with that of the host (mount_namespaces(7)); in a user namespace,
/// a shared one is a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// Nothing.
    Private,
    /// It receives the host's events.
    Slave,
    /// It shares events with the host's.
    Shared,
}

/// What should happen to an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// Dump, restore and verification succeed.
    #[default]
    Pass,
    /// The dump is refused with a message that contains this, and the target runs on unharmed.
    Refused(String),
}

/// A part of the outside view that changes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Moves {
    /// Children and threads come and go: only the root's leader is compared.
    Tasks,
    /// Descriptors are opened and closed.
    Files,
    /// File positions.
    Positions,
    /// Mappings.
    Maps,
    /// Control groups, which the entry has changed by the restore.
    Cgroups,
    /// How much memory there is: more is touched, or it is shared with processes outside of the tree.
    Memory,
}

/// What of the machine there is only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusive {
    /// Numbers of pseudo-terminals: the one of a killed tree goes to whoever opens one next.
    PtyNumbers,
    /// Names of control groups: those of an entry are the same in all flavors.
    Cgroups,
}

/// How to see that a program is ready.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// This TCP port of the loopback address accepts connections.
    Tcp(String),
    /// A file holds a text.
    File(FileText),
    /// This command succeeds.
    Command(Vec<String>),
}

/// A text that a file should hold.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileText {
    /// The file, relative to the test's directory.
    pub path: String,
    /// The text; empty: any file will do.
    #[serde(default)]
    pub contains: String,
}

/// One exchange with a program.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Runs a command, which must succeed.
    Run(RunProbe),
    /// Sends text to a TCP port.
    Tcp(TcpProbe),
    /// Sends an HTTP GET request.
    Http(HttpProbe),
    /// A file comes to hold a text.
    File(FileText),
    /// This file grows.
    Grows(String),
}

/// A command and what its output should contain.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunProbe {
    /// Program and arguments.
    pub command: Vec<String>,
    /// A part of the standard output.
    #[serde(default)]
    pub expect: String,
}

/// A TCP exchange on the loopback address.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// The port.
    #[serde(default = "default_port")]
    pub port: String,
    /// What to send.
    pub send: String,
    /// A part of the answer.
    pub expect: String,
}

/// An HTTP request on the loopback address.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The port.
    #[serde(default = "default_port")]
    pub port: String,
    /// The path to get.
    #[serde(default = "default_path")]
    pub path: String,
    /// A part of the answer, headers included.
    pub expect: String,
}

/// The signal that ends a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Stop {
    /// The usual request.
    #[default]
    SigTerm,
    /// As from the keyboard.
    SigInt,
    /// For programs that finish their work first.
    SigQuit,
    /// For programs that cannot be asked.
    SigKill,
}

fn default_flavors() -> Vec<Flavor> {
    vec![Flavor::Host]
}

fn default_port() -> String {
    "{port}".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

/// Reads and checks one zoo file; errors name the file.
pub fn load(path: &Path) -> Result<Entry> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Reads and checks the text of a zoo file.
pub fn parse(text: &str) -> Result<Entry> {
    let document = serde_yaml::Deserializer::from_str(text);
    let entry: Entry = serde_yaml::with::singleton_map_recursive::deserialize(document)?;
    check(&entry)?;
    Ok(entry)
}

fn check(entry: &Entry) -> Result<()> {
    ensure!(!entry.about.trim().is_empty(), "`about` is empty: one sentence on what the entry shows");
    ensure!(!entry.flavors.is_empty(), "`flavors` is empty: leave it out for [host]");
    match (&entry.workload, &entry.command) {
        (Some(_), Some(_)) => bail!("both `workload` and `command`: an entry has one of them"),
        (None, None) => bail!("neither `workload` nor `command`: an entry has one of them"),
        (None, Some(command)) => {
            ensure!(!command.is_empty(), "`command` is empty");
            ensure!(entry.args.is_empty(), "`args` belongs to `workload`; put them into `command`");
            ensure!(
                entry.peer.is_none(),
                "`peer` belongs to `workload`; `setup` can start what else is needed"
            );
        }
        (Some(_), None) => {
            let only_for_commands = [
                ("env", !entry.env.is_empty()),
                ("files", !entry.files.is_empty()),
                ("setup", !entry.setup.is_empty()),
                ("ready", entry.ready.is_some()),
                ("init", entry.init.is_some()),
                ("before", !entry.before.is_empty()),
                ("after", !entry.after.is_empty()),
                ("stop", entry.stop.is_some()),
            ];
            for (key, present) in only_for_commands {
                ensure!(!present, "`{key}` goes with `command`; a workload verifies itself");
            }
        }
    }
    if let Expect::Refused(part) = &entry.expect {
        ensure!(!part.trim().is_empty(), "`refused` is empty: it needs a part of the message");
        ensure!(entry.covers.is_empty(), "`covers` goes with `expect: pass`: what is refused is not covered");
    }
    Ok(())
}

/// The JSON schema of a zoo file.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Entry);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema has string keys only");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", parse(text).expect_err("should be refused"))
    }

    #[test]
    fn a_workload_needs_two_lines() {
        let entry = parse("about: A pipe.\nworkload: pipe00\n").unwrap();
        assert_eq!(entry.workload.as_deref(), Some("pipe00"));
        assert_eq!(entry.flavors, [Flavor::Host]);
        assert_eq!(entry.expect, Expect::Pass);
    }

    #[test]
    fn a_service_needs_ten_lines() {
        let text = r#"
about: Redis keeps its keys.
command: [redis-server, --port, "{port}"]
needs: [program:redis-server, root]
ready: {tcp: "{port}"}
before:
  - tcp: {send: "SET answer 42\r\n", expect: OK}
after:
  - tcp: {send: "GET answer\r\n", expect: "42"}
expect: {refused: sockets}
stop: SIGINT
"#;
        let entry = parse(text).unwrap();
        assert_eq!(entry.expect, Expect::Refused("sockets".to_owned()));
        assert_eq!(entry.stop, Some(Stop::SigInt));
        assert!(
            matches!(&entry.after[0], Probe::Tcp(probe) if probe.port == "{port}" && probe.expect == "42")
        );
    }

    #[test]
    fn mistakes_are_named() {
        insta::assert_snapshot!(error("about: x\nworkload: a\ncolour: red\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\ncommand: [b]\n"));
        insta::assert_snapshot!(error("about: x\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\nneeds: [luck]\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\nflavors: [moon]\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\nexpect: {denied: y}\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\nready: {tcp: \"1\"}\n"));
        insta::assert_snapshot!(error("about: x\ncommand: [a]\nbefore: [{tcp: {sned: y}}]\n"));
        insta::assert_snapshot!(error("about: x\nworkload: a\ncovers: [b]\nexpect: {refused: y}\n"));
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.yaml");
        std::fs::write(&path, "about: [").unwrap();
        let message = format!("{:#}", load(&path).unwrap_err());
        assert!(message.starts_with(&path.display().to_string()), "{message}");
    }

    #[test]
    fn the_checked_in_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo/schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, schema()).unwrap();
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(checked_in == schema(), "run UPDATE_SCHEMA=1 cargo test -p zdtm schema");
    }
}
