//! `stasis verify`: of a whole set, of damaged ones, of one by CRIU, and of one that cannot be restored now.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output};

use targets::{STASIS, alone, assert_refused, is_root};

mod targets;

fn verify(dir: &Path, options: &[&str]) -> Output {
    Command::new(STASIS).arg("verify").args(options).arg(dir).output().unwrap()
}

/// The image set of a process that has ended.
fn dumped(options: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut sleep = alone(Command::new("sleep").arg("1000").current_dir("/")).spawn().unwrap();
    let pid = sleep.id().to_string();
    let dump =
        Command::new(STASIS).args(["dump", "-R", "-t", &pid, "-D"]).arg(dir.path()).args(options).output();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    let dump = dump.unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    dir
}

#[test]
fn a_whole_set() {
    if !is_root() {
        return;
    }
    let set = dumped(&[]);
    let before = names(set.path());
    let output = verify(set.path(), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("all as their checksums say"), "{text}");
    assert!(text.contains("can be restored here"), "{text}");
    assert_eq!(names(set.path()), before, "nothing is written");

    let bare = dumped(&["--skip-checksums"]);
    let text = String::from_utf8_lossy(&verify(bare.path(), &[]).stdout).into_owned();
    assert!(text.contains("no checksums"), "{text}");
}

#[test]
fn everything_that_is_damaged_is_told_at_once() {
    if !is_root() {
        return;
    }
    let set = dumped(&[]);
    let path = |name: &str| set.path().join(name);
    fs::remove_file(path("files.img")).unwrap();
    let pages = fs::File::options().write(true).open(path("pages-1.img")).unwrap();
    pages.write_all_at(b"?", pages.metadata().unwrap().len() - 1).unwrap();
    let size = fs::metadata(path("pstree.img")).unwrap().len();
    fs::File::options().write(true).open(path("pstree.img")).unwrap().set_len(size - 1).unwrap();
    let parts = ["files.img", "missing", "pages-1.img", "checksum differs", "pstree.img", "bytes, and had"];
    assert_refused(&verify(set.path(), &[]), 3, &parts);
}

#[test]
fn without_checksums_the_form_is_looked_at() {
    if !is_root() {
        return;
    }
    let set = dumped(&["--skip-checksums"]);
    let core = set.path().join(names(set.path()).into_iter().find(|name| name.starts_with("core-")).unwrap());
    let size = fs::metadata(&core).unwrap().len();
    fs::File::options().write(true).open(&core).unwrap().set_len(size - 1).unwrap();
    assert_refused(&verify(set.path(), &[]), 3, &["core-", "damaged"]);
}

#[test]
fn what_stands_in_the_way_of_a_restore() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut sleep = alone(Command::new("sleep").arg("1000").current_dir("/")).spawn().unwrap();
    let pid = sleep.id().to_string();
    let dump = Command::new(STASIS).args(["dump", "-R", "-t", &pid, "-D"]).arg(dir.path()).status().unwrap();
    let output = verify(dir.path(), &[]);
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(dump.success());
    assert_refused(&output, 3, &["cannot verify", &pid, "sleep"]);
}

#[test]
fn there_is_no_set() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(&verify(dir.path(), &[]), 3, &["inventory.img", "missing"]);
    assert_refused(&verify(&dir.path().join("not"), &[]), 4, &["images directory"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
