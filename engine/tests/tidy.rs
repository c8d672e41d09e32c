//! What must stay true of the source tree.
#![cfg(test)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use engine::kinds::{FILE_KINDS, MAPPING_KINDS, TASK_KINDS};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for package in ["engine/src", "parasite/src", "proto/src", "zdtm/src", "benches"] {
        rust_files(&root().join(package), &mut found);
    }
    found.retain(|path| !path.components().any(|c| c.as_os_str() == "target"));
    found
}

/// The support table, from the registry.
fn support_table() -> String {
    let mut text = String::from(
        "# What is supported\n\nGenerated from the registry of kinds (`engine/src/kinds.rs`) by `UPDATE=1 cargo test -p engine --test \
         tidy`.\nWhat no kind claims is refused by a dump, by name; `stasis plan -t PID` tells what a process has.\n",
    );
    let families = [
        ("Descriptors", FILE_KINDS.iter().map(|k| (k.name(), k.not_saved())).collect::<Vec<_>>()),
        ("Mappings", MAPPING_KINDS.iter().map(|k| (k.name(), k.not_saved())).collect()),
        ("Tasks and threads", TASK_KINDS.iter().map(|k| (k.name(), k.not_saved())).collect()),
    ];
    for (family, mut kinds) in families {
        kinds.sort_unstable();
        writeln!(text, "\n## {family}\n\n| kind | not saved |\n| --- | --- |").unwrap();
        for (name, not_saved) in kinds {
            let lost = if not_saved.is_empty() { "-".to_owned() } else { not_saved.join("; ") };
            writeln!(text, "| {name} | {lost} |").unwrap();
        }
    }
    text
}

#[test]
fn the_support_table_is_current() {
    let path = root().join("docs/support.md");
    let table = support_table();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &table).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        table,
        "run UPDATE=1 cargo test -p engine --test tidy"
    );
}

#[test]
fn kinds_have_names_of_their_own() {
    let mut names: Vec<&str> = FILE_KINDS.iter().map(|k| k.name()).collect();
    names.extend(MAPPING_KINDS.iter().map(|k| k.name()));
    names.extend(TASK_KINDS.iter().map(|k| k.name()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Files beside kinds that are none themselves, and why they are there.
const BESIDE_KINDS: [(&str, &str); 4] = [
    ("files/pipe_data.rs", "what pipes and fifos have in common"),
    ("files/socket_options.rs", "what sockets have in common"),
    ("mm/bounds.rs", "the address space besides its mappings"),
    ("mm/pages.rs", "contents of private memory"),
];

#[test]
fn every_kind_file_is_in_the_registry() {
    let registry = fs::read_to_string(root().join("engine/src/kinds.rs")).unwrap();
    for family in ["files", "mm", "task"] {
        for entry in fs::read_dir(root().join("engine/src/kinds").join(family)).unwrap().flatten() {
            let file = entry.file_name().into_string().unwrap();
            let Some(stem) = file.strip_suffix(".rs") else { continue };
            let listed = registry.contains(&format!("{family}::{stem}::"));
            let beside = BESIDE_KINDS.iter().any(|(path, _)| *path == format!("{family}/{file}"));
            assert!(listed != beside, "kinds/{family}/{file} must be in the registry, or among BESIDE_KINDS");
        }
    }
}

#[test]
fn unsafe_code_has_its_places() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let allowed = ["/engine/src/sys/", "/parasite/src/", "/benches/", "/zdtm/src/"];
        let here = path.to_string_lossy().into_owned();
        if allowed.iter().any(|place| here.contains(place)) {
            continue;
        }
        assert!(!text.contains("unsafe {"), "{here}: unsafe code belongs into engine/src/sys");
    }
}

#[test]
fn files_are_one_thing() {
    for path in sources() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!["utils.rs", "helpers.rs", "common.rs", "misc.rs"].contains(&&*name), "{}", path.display());
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 700, "{} has {lines} lines; is it one thing?", path.display());
    }
}
