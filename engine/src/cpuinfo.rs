//! `cpuinfo.img`: the processor that a set was made on, and whether the one here can stand in for it (`--cpu-cap`).
//!
//! Registers that threads really have in use are looked at in any case, by `restore/plan.rs`: this is about what a program may
//! have found out about its processor, and relies on.

use proto::catalogue::CPUINFO;
use proto::messages::CpuinfoEntry;

use crate::arch::processor::{self, ProcessorRefusal};
use crate::error::{Action, Error, Object, Problem, Result, TargetState};
use crate::image::{Images, NewImages};
use crate::options::{CpuCap, CpuinfoAction, CpuinfoOptions};

/// Adds the image to a set.
pub fn write(images: &mut NewImages) -> Result<(), Problem> {
    images.write(&CPUINFO, 0, &[here()])
}

fn here() -> CpuinfoEntry {
    CpuinfoEntry { x86_entry: vec![processor::describe()], ..CpuinfoEntry::default() }
}

/// All that keeps the processor here from standing in for that of the set, as far as is asked.
pub fn compare(images: &Images, asked: CpuCap) -> Vec<Problem> {
    if asked == CpuCap::default() {
        return Vec::new();
    }
    let entry: CpuinfoEntry = match images.read_single(&CPUINFO, 0) {
        Ok(entry) => entry,
        Err(problem) => return vec![problem],
    };
    let found = match entry.x86_entry.first() {
        Some(there) => processor::compare(&processor::describe(), there, asked),
        None => vec![ProcessorRefusal::Architecture],
    };
    let about = |refusal| Problem::new(refusal).object(Object::Image(CPUINFO.file_name(0)));
    found.into_iter().map(about).collect()
}

/// `cpuinfo dump` and `cpuinfo check`; what there is to tell.
pub fn run(options: &CpuinfoOptions) -> Result<String> {
    let CpuinfoOptions { action, images_dir, cpu_cap, .. } = options;
    let fail = |problems| Error {
        action: Action::Cpuinfo,
        target: images_dir.display().to_string(),
        problems,
        state: TargetState::Untouched,
    };
    let title = processor::title(&processor::describe());
    match action {
        CpuinfoAction::Dump => {
            NewImages::write_alone(images_dir, &CPUINFO, 0, &[here()]).map_err(|p| fail(vec![p]))?;
            Ok(format!("{title} is described\n"))
        }
        CpuinfoAction::Check => {
            let problems = compare(&Images::open(images_dir), *cpu_cap);
            if problems.is_empty() { Ok(format!("{title} will do\n")) } else { Err(fail(problems)) }
        }
    }
}
