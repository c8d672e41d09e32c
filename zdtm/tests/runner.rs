//! The runner as its users meet it: entries without a dump, and with engines that are shell scripts.

// The lint asks for a module; this file is one.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn zdtm(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zdtm"));
    // Under cargo the runner would build, which these tests do not need.
    command.arg("run").args(args).env_remove("CARGO");
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn last_line(output: &Output) -> String {
    stdout(output).lines().last().unwrap_or_default().to_owned()
}

fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("engine.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn with_engine(text: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let engine = script(&dir, text);
    zdtm(&[&["--engine", engine.to_str().unwrap()], args].concat())
}

/// Removes the directory that a failure kept.
fn forget_kept(output: &Output) {
    for line in stdout(output).lines().filter_map(|line| line.trim().strip_prefix("kept: ")) {
        fs::remove_dir_all(Path::new(line).parent().unwrap()).unwrap();
    }
}

#[test]
fn entries_are_right_without_a_dump() {
    let output = zdtm(&["--no-dump", "static/pipe00", "static/zombie00", "apps/shell-loop"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(last_line(&output), "3 passed, 0 failed, 0 skipped");
}

#[test]
fn a_file_of_ones_own_can_be_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.yaml");
    let entry = "about: It appends.\ncommand: [sh, -c, \"while :; do date >> log; sleep 0.1; done\"]\n\
        before: [{grows: log}]\nafter: [{grows: log}]\nmoves: [tasks]\n";
    fs::write(&path, entry).unwrap();
    let output = zdtm(&["--no-dump", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stdout(&output));
    fs::write(&path, entry.replace("after", "later")).unwrap();
    let output = zdtm(&["--no-dump", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("mine.yaml: unknown field `later`"), "{text}");
}

#[test]
fn the_engine_is_called_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls");
    let text = format!("echo \"$@\" >> {}", calls.display());
    let output = with_engine(&text, &["static/sleeping00", "--leave-running", "--iters", "2"]);
    assert!(output.status.success(), "{}", stdout(&output));
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls.lines().count(), 2, "{calls}");
    for part in ["dump -t ", " -D /", " -W /", " -o dump.log -v4 -R"] {
        assert!(calls.lines().all(|line| line.contains(part)), "{part} in {calls}");
    }
}

#[test]
fn a_target_is_followed_through_dump_and_restore() {
    let works = Command::new("setarch").args(["-R", "python3", "--version"]).output();
    if !works.is_ok_and(|output| output.status.success()) || !nix::unistd::geteuid().is_root() {
        return;
    }
    let engine = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restart_engine.py");
    let zoo = tempfile::tempdir().unwrap();
    // The new program's heap is not quite that of the old one.
    fs::write(zoo.path().join("same.yaml"), "about: x\nworkload: sleeping00\nmoves: [maps]\n").unwrap();
    let args = ["run", "--all", "--iters", "3", "--engine", engine, "--zoo", zoo.path().to_str().unwrap()];
    let mut command = Command::new("setarch");
    command.args(["-R", env!("CARGO_BIN_EXE_zdtm")]).args(args).env_remove("CARGO");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(last_line(&output), "1 passed, 0 failed, 0 skipped");
}

#[test]
fn a_dump_that_kills_nothing_is_noticed() {
    let output = with_engine("exit 0", &["static/sleeping00"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("phase: gone") && text.contains("still there"), "{text}");
    assert!(text.contains("A process that only waits") && text.contains("rerun: zdtm run static/sleeping00"));
    assert_eq!(last_line(&output), "0 passed, 1 failed, 0 skipped");
    forget_kept(&output);
}

#[test]
fn the_first_error_of_the_log_is_shown() {
    // The seventh argument is the work directory.
    let text = "echo '(00.1) Error (x.rs:1): it went wrong' > \"$7/dump.log\"; exit 1";
    let output = with_engine(text, &["static/sleeping00"]);
    let text = stdout(&output);
    assert!(text.contains("phase: dump") && text.contains("Error (x.rs:1): it went wrong"), "{text}");
    assert!(text.contains("the target runs on, unchanged"), "{text}");
    forget_kept(&output);
    let output = with_engine("kill -STOP $3; exit 1", &["static/sleeping00"]);
    let text = stdout(&output);
    assert!(text.contains("phase: dump") && text.contains("the failed dump harmed the target"), "{text}");
    forget_kept(&output);
}

#[test]
fn a_harmed_target_is_noticed() {
    let output = with_engine("kill -STOP $3", &["static/sleeping00", "--leave-running"]);
    let text = stdout(&output);
    assert!(text.contains("phase: compare") && text.contains("state: was runs, is stopped"), "{text}");
    forget_kept(&output);
}

#[test]
fn a_hanging_engine_is_ended() {
    let output = with_engine("exec sleep 12321", &["static/sleeping00", "--timeout", "1"]);
    let text = stdout(&output);
    assert!(text.contains("time limit of 1 s reached: dump ends"), "{text}");
    let left = Command::new("pgrep").args(["-f", "^sleep 12321"]).output().unwrap();
    assert!(left.stdout.is_empty(), "the engine is still there");
    forget_kept(&output);
}

#[test]
fn refusals_are_expected_by_their_message() {
    let zoo = tempfile::tempdir().unwrap();
    let entry = "about: It is refused.\nworkload: sleeping00\nexpect: {refused: not today}\n";
    fs::write(zoo.path().join("no.yaml"), entry).unwrap();
    let zoo = zoo.path().to_str().unwrap();
    let refuses = with_engine("echo 'error: not today'; exit 1", &["--zoo", zoo, "no"]);
    assert!(refuses.status.success(), "{}", stdout(&refuses));
    let differently = with_engine("echo 'error: never'; exit 1", &["--zoo", zoo, "no"]);
    assert!(
        stdout(&differently).contains("should be refused with \"not today\""),
        "{}",
        stdout(&differently)
    );
    forget_kept(&differently);
    let not = with_engine("exit 0", &["--zoo", zoo, "no"]);
    assert!(stdout(&not).contains("the dump succeeded"), "{}", stdout(&not));
    forget_kept(&not);
}

#[test]
fn a_missing_need_is_a_skip_with_its_reason() {
    let zoo = tempfile::tempdir().unwrap();
    let entry = "about: It needs something.\nworkload: sleeping00\nneeds: [program:no-such-thing]\n";
    fs::write(zoo.path().join("needy.yaml"), entry).unwrap();
    let output = zdtm(&["--no-dump", "--all", "--zoo", zoo.path().to_str().unwrap()]);
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.contains("skip needy: no program no-such-thing"), "{text}");
    assert_eq!(last_line(&output), "0 passed, 0 failed, 1 skipped");
}

#[test]
fn entries_run_in_the_flavors_that_are_asked_for() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let output = zdtm(&["--no-dump", "--flavor", "host,ns,userns", "static/sleeping00", "static/utsname"]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(stdout(&output).contains("pass static/sleeping00 (userns)"), "{}", stdout(&output));
    assert_eq!(last_line(&output), "5 passed, 0 failed, 0 skipped");
    let output = zdtm(&["--no-dump", "--flavor", "host", "static/utsname"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_workload_is_in_the_zoo() {
    let list = Command::new(env!("CARGO_BIN_EXE_zdtm-workload")).arg("--list").output().unwrap();
    let programs: BTreeSet<String> = stdout(&list).lines().map(str::to_owned).collect();
    let entries = zdtm::zoo::load(&zdtm::zoo::built_in()).unwrap();
    let of = |entry: zdtm::entry::Entry| {
        entry.workload.into_iter().chain(entry.peer.and_then(|words| words.into_iter().next()))
    };
    let named: BTreeSet<String> = entries.into_iter().flat_map(|named| of(named.entry)).collect();
    assert_eq!(programs, named);
}

#[test]
fn reports_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (junit, json) = (dir.path().join("junit.xml"), dir.path().join("report.json"));
    let files = ["--report-junit", junit.to_str().unwrap(), "--report-json", json.to_str().unwrap()];
    zdtm(&[&["--no-dump", "static/sleeping00"], &files[..]].concat());
    assert!(fs::read_to_string(junit).unwrap().contains("classname=\"static\" name=\"sleeping00\""));
    assert!(fs::read_to_string(json).unwrap().contains("\"outcome\": \"passed\""));
}

#[test]
fn mistakes_are_usage_errors() {
    for (args, part) in [
        (&["static/sleeping00", "--kill-sweep", "5"][..], "--kill-sweep is not supported yet"),
        (&["static/sleeping00", "--lazy-pages"], "--lazy-pages is not supported yet"),
        (&["--no-dump", "nothing/like-this"], "no zoo entry matches `nothing/like-this`"),
        (&[], "required"),
    ] {
        let output = zdtm(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(part), "{text}");
    }
}
