//! What must hold of the source tree itself: nothing is missing from a list, and nothing generated is stale.
//!
//! `UPDATE=1 cargo test -p engine --test tidy` writes `docs/support.md`.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use engine::kinds::{FILE_KINDS, MAPPING_KINDS, NAMESPACE_KINDS, TASK_KINDS};

/// The packages: everything else at the root is not ours to check.
const PACKAGES: [&str; 5] = ["benches", "engine", "parasite", "proto", "zdtm"];

/// Files beside the kinds that are none themselves, and what they are instead.
const NO_KINDS: [(&str, &str); 59] = [
    ("files/description.rs", "flags and owners, which every open file description has"),
    ("files/device.rs", "other paths to a device"),
    ("files/duplicate.rs", "descriptors whose duplicate tells all"),
    ("files/ended.rs", "files in /proc of processes that have ended"),
    ("files/erased.rs", "the trait as the registry holds it"),
    ("files/facts.rs", "what is known about a descriptor, whichever kind it is of"),
    ("files/foreign.rs", "what is refused, and why"),
    ("files/ghost.rs", "removed files, whichever kind has them open"),
    ("files/inode_scan.rs", "where the name of an inode is looked for"),
    ("files/locks.rs", "file locks, which belong to descriptors of several kinds"),
    ("files/mounted.rs", "files that are known by their mount"),
    ("files/name.rs", "whether the name of a file leads to it"),
    ("files/policy.rs", "what the user decides about descriptors"),
    ("files/remap.rs", "what stands in for a name"),
    ("files/seen_task.rs", "what is known of the tasks that hold files"),
    ("files/validation.rs", "whether a file is what it was"),
    ("files/pipe_data.rs", "contents of pipes, which pipe and fifo have in common"),
    ("files/inet_address.rs", "addresses of internet sockets"),
    ("files/inet_groups.rs", "multicast groups of internet sockets"),
    ("files/inet_options.rs", "options of internet sockets"),
    ("files/packet_diag.rs", "what the kernel tells about packet sockets"),
    ("files/tcp.rs", "the connections among internet sockets, which are one kind in images"),
    ("files/tcp_closed.rs", "sockets whose TCP connection is over"),
    ("files/sock_diag.rs", "what the kernel tells about sockets that are not ours"),
    ("files/socket_queue.rs", "what waits to be read from sockets of all families"),
    ("files/socket_reading.rs", "when options of sockets are read"),
    ("files/states.rs", "what kinds keep for themselves"),
    ("files/unix_calls.rs", "calls that make unix sockets again"),
    ("files/unix_names.rs", "names of unix sockets, and where they are bound"),
    ("files/unix_world.rs", "the restoring half of unix sockets, which concerns several at once"),
    ("files/watched.rs", "how watched inodes are found, which inotify and fanotify have in common"),
    ("files/socket_options.rs", "options that sockets of all families have"),
    ("files/tty/dump.rs", "how a terminal is dumped"),
    ("files/tty/pair.rs", "a pseudo-terminal that is made again"),
    ("files/tty/queue.rs", "what is queued in a pseudo-terminal"),
    ("files/tty/restore.rs", "how a terminal is restored"),
    ("mm/bounds.rs", "the address space as a whole, of which every task has exactly one"),
    ("mm/pages.rs", "contents of private memory, whichever kind maps it"),
    ("mm/extra.rs", "properties of mappings, whichever kind they are, that have no place elsewhere"),
    ("mm/shared.rs", "contents of shared memory objects, whichever kind they are"),
    ("namespaces/erased.rs", "the trait as the registry holds it"),
    ("namespaces/ipc/messages.rs", "message queues, which are in ipc namespaces"),
    ("namespaces/ipc/semaphores.rs", "sets of semaphores, which are in ipc namespaces"),
    ("namespaces/ipc/queues.rs", "POSIX message queues, which are in ipc namespaces"),
    ("namespaces/net/addresses.rs", "addresses of network devices"),
    ("namespaces/net/conntrack.rs", "tracked connections"),
    ("namespaces/net/link_kinds.rs", "kinds of network devices"),
    ("namespaces/net/links.rs", "network devices"),
    ("namespaces/net/neighbours.rs", "neighbours that were made on purpose"),
    ("namespaces/net/nexthops.rs", "next hops with numbers"),
    ("namespaces/net/nftables.rs", "tables of nftables"),
    ("namespaces/net/outside.rs", "what ties a network namespace to the outside"),
    ("namespaces/net/programs.rs", "rules of netfilter as text"),
    ("namespaces/net/routes.rs", "routes, and rules that choose between tables of them"),
    ("namespaces/net/saved.rs", "images of netlink messages"),
    ("namespaces/net/space.rs", "how network namespaces know each other"),
    ("namespaces/net/sysctls.rs", "tunables of a network namespace"),
    ("namespaces/net/xtables.rs", "tables of iptables"),
    ("task/timer_arming.rs", "how timers go on, which they and their pending signals have in common"),
];

/// Where `unsafe` lives: all of these folders …
const UNSAFE_FOLDERS: [&str; 4] = ["engine/src/sys/", "parasite/", "zdtm/workloads/", "benches/"];

/// … and these files, with what they need it for.
const UNSAFE_FILES: [(&str, &str); 11] = [
    ("engine/tests/files.rs", "prepares a target between fork and execve"),
    ("engine/tests/unix_outside.rs", "prepares a target between fork and execve"),
    ("engine/tests/namespaces.rs", "prepares a command between fork and execve"),
    ("engine/tests/targets/mod.rs", "prepares a target between fork and execve"),
    ("proto/tests/damaged.rs", "an allocator that watches how much is asked for"),
    ("zdtm/src/cell.rs", "forks into namespaces"),
    ("zdtm/src/need.rs", "asks the C library for its rseq area"),
    ("zdtm/src/run.rs", "prepares a trial between fork and execve"),
    ("zdtm/src/target.rs", "prepares a target between fork and execve"),
    ("zdtm/src/watch.rs", "installs a signal handler"),
    ("zdtm/src/workload.rs", "forks on behalf of the workloads"),
];

/// Lines of a source file, at most; workloads are not counted, since each stands alone.
const MAX_LINES: usize = 700;

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: [&str; 7] = ["common", "helper", "helpers", "manager", "misc", "util", "utils"];

/// Families of kinds, as the support table heads them.
const FAMILIES: [&str; 4] = ["Descriptors", "Mappings", "Tasks and threads", "Namespaces"];

/// A kind, as the registry has it.
struct Kind {
    family: &'static str,
    name: &'static str,
    not_saved: &'static [&'static str],
}

fn kinds() -> Vec<Kind> {
    let [descriptors, mappings, tasks, spaces] = FAMILIES;
    let files = FILE_KINDS.iter().map(|k| (descriptors, k.name(), k.not_saved()));
    let memory = MAPPING_KINDS.iter().map(|k| (mappings, k.name(), k.not_saved()));
    let state = TASK_KINDS.iter().map(|k| (tasks, k.name(), k.not_saved()));
    let namespaces = NAMESPACE_KINDS.iter().map(|k| (spaces, k.name(), k.not_saved()));
    let all = files.chain(memory).chain(state).chain(namespaces);
    all.map(|(family, name, not_saved)| Kind { family, name, not_saved }).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below a folder with this extension, as paths from the root with their text.
fn texts(folder: &str, extension: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    PACKAGES.iter().flat_map(|package| texts(package, "rs")).collect()
}

/// Whether a word stands in the code of a line, outside of comments.
fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(part_of_word) && !code[at + word.len()..].starts_with(part_of_word)
    })
}

/// One sentence for each fault, all at once.
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn support_table() -> String {
    let mut text = String::from(
        "# What is supported\n\nGenerated from the registry of kinds (`engine/src/kinds.rs`) by `UPDATE=1 cargo test -p engine --test \
         tidy`.\nWhat no kind claims is refused by a dump, by name; `stasis plan -t PID` tells what a process has.\n",
    );
    for family in FAMILIES {
        let mut kinds: Vec<Kind> = kinds().into_iter().filter(|kind| kind.family == family).collect();
        kinds.sort_unstable_by_key(|kind| kind.name);
        writeln!(text, "\n## {family}\n\n| kind | not saved |\n| --- | --- |").unwrap();
        for Kind { name, not_saved, .. } in kinds {
            let lost = if not_saved.is_empty() { "-".to_owned() } else { not_saved.join("; ") };
            writeln!(text, "| {name} | {lost} |").unwrap();
        }
    }
    text
}

#[test]
fn the_support_table_is_current() {
    let path = root().join("docs/support.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, support_table()).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == support_table(), "run UPDATE=1 cargo test -p engine --test tidy");
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = kinds().iter().map(|kind| kind.name).filter(|name| !seen.insert(*name)).collect();
    assert_eq!(twice, [""; 0], "names that several kinds have");
}

/// A file holds as many kinds as it implements; the registry names as many from it.
#[test]
fn every_file_of_kinds_is_in_the_registry() {
    let registry = fs::read_to_string(root().join("engine/src/kinds.rs")).unwrap();
    let mut faults = Vec::new();
    let mut others: BTreeMap<_, _> = NO_KINDS.into_iter().collect();
    for (family, kind_trait) in
        [("files", "FileKind"), ("mm", "MappingKind"), ("task", "TaskKind"), ("namespaces", "NamespaceKind")]
    {
        for (path, text) in texts(&format!("engine/src/kinds/{family}"), "rs") {
            let file = path.strip_prefix("engine/src/kinds/").unwrap();
            let stem = file.strip_suffix(".rs").unwrap().replace('/', "::");
            let implemented =
                text.lines().filter(|l| l.starts_with(&format!("impl {kind_trait} for "))).count();
            let registered = registry.matches(&format!(" {stem}::")).count()
                + registry.matches(&format!("[{stem}::")).count();
            if others.remove(file).is_none() && implemented == 0 {
                faults.push(format!("{path}: implements no {kind_trait}; give it to NO_KINDS with a reason"));
            }
            if implemented != registered {
                faults.push(format!("{path}: {implemented} kinds, of which kinds.rs lists {registered}"));
            }
        }
    }
    faults.extend(others.keys().map(|file| format!("{file}: in NO_KINDS, but there is no such file")));
    assert_none(&faults);
}

/// Names in `covers: [a, b]` of a zoo file. The runner reads the whole file as YAML; one line is enough here.
fn covers(text: &str) -> Option<Vec<&str>> {
    let Some(line) = text.lines().find(|line| line.starts_with("covers:")) else { return Some(Vec::new()) };
    let names = line.strip_prefix("covers: [")?.strip_suffix(']')?;
    Some(names.split(',').map(str::trim).collect())
}

#[test]
fn every_kind_is_covered_by_the_zoo() {
    let kinds = kinds();
    let mut uncovered: BTreeSet<&str> = kinds.iter().map(|kind| kind.name).collect();
    let mut faults = Vec::new();
    for (path, text) in texts("zdtm/zoo", "yaml") {
        let Some(names) = covers(&text) else {
            faults.push(format!("{path}: `covers` is not one line like `covers: [pipe]`"));
            continue;
        };
        for name in names {
            uncovered.remove(name);
            if kinds.iter().all(|kind| kind.name != name) {
                faults.push(format!("{path}: covers {name}, which no kind is called"));
            }
        }
    }
    faults.extend(uncovered.iter().map(|name| format!("{name}: no zoo entry has `covers: [{name}]`")));
    assert_none(&faults);
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let word = concat!("un", "safe");
    let mut faults = Vec::new();
    let mut files: BTreeMap<_, _> = UNSAFE_FILES.into_iter().collect();
    for (path, text) in sources() {
        let found = text.lines().position(|line| has_word(line, word));
        let allowed = UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder));
        if let Some(at) = found
            && files.remove(path.as_str()).is_none()
            && !allowed
        {
            faults.push(format!("{path}:{}: {word} code; move it to engine/src/sys", at + 1));
        }
    }
    faults.extend(files.keys().map(|file| format!("{file}: in UNSAFE_FILES, but has no {word} code")));
    assert_none(&faults);
}

#[test]
fn files_are_short_and_their_names_say_something() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_LINES && !path.starts_with("zdtm/workloads/") {
            faults.push(format!("{path}: {lines} lines, at most {MAX_LINES}; split it by what it is about"));
        }
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        if EMPTY_NAMES.contains(&stem) {
            faults.push(format!("{path}: its name says nothing; name it after what it holds"));
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_left_for_later() {
    let left = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            faults.extend(
                left.iter().filter(|w| code.contains(**w)).map(|w| format!("{path}:{}: {w}", at + 1)),
            );
        }
    }
    assert_none(&faults);
}
