//! `stasis cpuinfo` and `--cpu-cap`: a processor stands in for itself, and not for one that can do more.
#![cfg(test)]

use std::path::Path;
use std::process::{Child, Command, Output};

use engine::image::{Images, NewImages};
use proto::catalogue::{CORE, CPUINFO};
use proto::messages::{CoreEntry, CpuinfoEntry};

use targets::{STASIS, alone, assert_refused, is_root};

mod targets;

/// A bit of word 18 that no processor has without AMX, which hardly any has.
const AMX_TILE: (usize, u32) = (18, 1 << 24);
const AMX_COMPONENTS: u64 = 1 << 17 | 1 << 18;

fn stasis(dir: &Path, words: &[&str]) -> Output {
    Command::new(STASIS).args(words).arg("-D").arg(dir).output().unwrap()
}

fn has_amx() -> bool {
    let entry = engine::arch::processor::describe();
    entry.capability[AMX_TILE.0] & AMX_TILE.1 != 0
}

/// Makes the image tell of a processor with AMX, another model and more registers.
fn improve(dir: &Path) {
    let mut entry: CpuinfoEntry = Images::open(dir).read_single(&CPUINFO, 0).unwrap();
    let cpu = entry.x86_entry.first_mut().unwrap();
    cpu.capability[AMX_TILE.0] |= AMX_TILE.1;
    cpu.xfeatures_mask = cpu.xfeatures_mask.map(|mask| mask | AMX_COMPONENTS);
    cpu.model += 1;
    NewImages::write_alone(dir, &CPUINFO, 0, &[entry]).unwrap();
}

#[test]
fn a_processor_that_can_do_more_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(&stasis(dir.path(), &["cpuinfo", "check"]), 3, &["cpuinfo.img", "missing"]);
    assert!(stasis(dir.path(), &["cpuinfo", "dump"]).status.success());
    assert!(stasis(dir.path(), &["cpuinfo", "check", "--cpu-cap=all"]).status.success());
    if has_amx() {
        return;
    }
    improve(dir.path());
    let check = |caps: &str| stasis(dir.path(), &["cpuinfo", "check", caps]);
    assert_refused(&check("--cpu-cap=ins"), 3, &["lacks instructions", "amx_tile"]);
    assert_refused(&check("--cpu-cap=fpu"), 3, &["cannot hold registers", "AMX"]);
    assert_refused(&check("--cpu-cap=cpu"), 3, &["is another", "amx_tile", "AMX"]);
    assert_refused(&check("--cpu-cap"), 3, &["amx_tile", "AMX"]);
    assert!(check("--cpu-cap=none").status.success());
    assert_refused(&check("--cpu-cap=sse"), 2, &["sse"]);
}

/// A process that was dumped, and is gone.
fn dumped(dir: &Path, options: &[&str]) -> i32 {
    let mut sleep: Child = alone(Command::new("sleep").arg("1000").current_dir("/")).spawn().unwrap();
    let pid = sleep.id().to_string();
    let dump = stasis(dir, &[&["dump", "-t", &pid, "--skip-checksums"], options].concat());
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    pid.parse().unwrap()
}

#[test]
fn a_restore_compares_what_it_is_asked_to() {
    if !is_root() || has_amx() {
        return;
    }
    let set = tempfile::tempdir().unwrap();
    let pid = dumped(set.path(), &["--cpu-cap"]);
    improve(set.path());
    let restore = |caps: &str| stasis(set.path(), &["restore", "-d", caps]);
    assert_refused(&restore("--cpu-cap"), 3, &["cannot restore", "amx_tile", "nothing was restored"]);
    assert_refused(&stasis(set.path(), &["verify", "--cpu-cap=ins"]), 3, &["amx_tile"]);
    let output = restore("--cpu-cap=none");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
}

#[test]
fn registers_in_use_that_are_not_here_are_refused_with_their_thread() {
    if !is_root() || has_amx() {
        return;
    }
    let set = tempfile::tempdir().unwrap();
    let pid = dumped(set.path(), &[]);
    let id = pid as u64;
    let mut core: CoreEntry = Images::open(set.path()).read_single(&CORE, id).unwrap();
    let fpregs = &mut core.thread_info.as_mut().unwrap().fpregs;
    fpregs.xsave.as_mut().unwrap().xstate_bv |= AMX_COMPONENTS;
    NewImages::write_alone(set.path(), &CORE, id, &[core]).unwrap();
    let output = stasis(set.path(), &["restore", "-d"]);
    let thread = format!("thread {pid}");
    assert_refused(
        &output,
        3,
        &["cannot restore", &thread, "this machine lacks: AMX", "nothing was restored"],
    );
}
