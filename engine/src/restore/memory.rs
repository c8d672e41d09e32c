//! A stub's memory: mapped, filled, protected and described.

use proto::messages::VmaEntry;

use super::fill;
use super::heirlooms::{Heirlooms, Inheritance};
use super::set::{Alive, Task, filling_prot};
use super::stub::{Stub, Stubs};
use crate::args;
use crate::error::{Context as _, Problem};
use crate::image::Images;
use crate::kinds::MAPPING_KINDS;
use crate::kinds::files::{FileRefusal, FilesRestore};
use crate::kinds::mm::{self, aio, bounds, pages, status, vdso};
use crate::stats::RestoreStats;
use crate::tracee::batch::Batch;

/// The step in which memory is mapped.
const MAP: &str = "map its memory";

/// Maps, fills and describes every task's memory.
pub(super) fn restore(
    stubs: &mut Stubs,
    tasks: &[Task],
    files: &mut FilesRestore<'_>,
    images: &Images,
    heirlooms: &Heirlooms,
    stats: &mut RestoreStats,
) -> Result<(), Problem> {
    let vmas = all_mappings(tasks);
    for (at, (task, stub)) in tasks.iter().zip(&mut stubs.0).enumerate() {
        if !stub.is_mapped {
            map(stub, at, task, &vmas, heirlooms, files)?;
        }
    }
    if shares_table(tasks) {
        // One is described with a number that its agent keeps free, and that what another maps could arrive at.
        stubs.collect()?;
    }
    let options = files.options;
    let bytes = fill::fill(stubs, tasks, images, heirlooms, options, &mut |stub, alive| {
        if aio::has_rings(&alive.mm) {
            let name = stub.name.clone();
            aio::restore(&alive.mm, stub.agent()?).of_task(&name)?;
        }
        protect(stub, alive)?;
        describe(stub, alive, files)
    })?;
    stats.pages(bytes / pages::PAGE);
    for kind in MAPPING_KINDS {
        kind.mapped(files)?;
    }
    Ok(())
}

/// Whether there are tasks that have the descriptor table of another.
pub(super) fn shares_table(tasks: &[Task]) -> bool {
    tasks.iter().flat_map(|task| &task.alive).any(|alive| alive.shares.files.is_some())
}

/// The mappings of all tasks.
pub(super) fn all_mappings(tasks: &[Task]) -> Vec<&VmaEntry> {
    tasks.iter().flat_map(|task| &task.alive).flat_map(|alive| &alive.mm.vmas).collect()
}

/// Maps the memory of the task at a place, if it has some of its own; `vmas` are all mappings of the tree.
pub(super) fn map(
    stub: &mut Stub,
    at: usize,
    task: &Task,
    vmas: &[&VmaEntry],
    heirlooms: &Heirlooms,
    files: &mut FilesRestore<'_>,
) -> Result<(), Problem> {
    let nothing = Inheritance::default();
    let Some(alive) = task.own_memory() else { return Ok(()) };
    stub.is_mapped = true;
    map_all(stub, alive, vmas, heirlooms.of(at).unwrap_or(&nothing), files).of_task(&stub.name)
}

fn map_all(
    stub: &mut Stub,
    alive: &Alive,
    vmas: &[&VmaEntry],
    heirlooms: &Inheritance,
    files: &mut FilesRestore<'_>,
) -> Result<(), Problem> {
    for vma in &alive.mm.vmas {
        mm::kind_of(vma)?.prepare(files, vma, vmas).map_err(|p| p.object(mm::object(vma)))?;
    }
    // The vdso goes first: it is put where we ask only if nothing is near.
    let is_vdso = |vma: &VmaEntry| vma.status & (status::VDSO | status::VVAR) != 0;
    let (first, rest): (Vec<&VmaEntry>, Vec<&VmaEntry>) =
        alive.stretches.iter().partition(|vma| is_vdso(vma));
    let mut batch = Batch::new();
    for vma in &first {
        mm::kind_of(vma)?.restore(files, vma, vma.prot, &mut batch)?;
    }
    vdso::trim(&alive.mm.vmas, &mut batch);
    for vma in rest.into_iter().filter(|vma| !heirlooms.is_filled(vma)) {
        add_mapping(stub, alive, vma, heirlooms, files, &mut batch)?;
    }
    stub.post(MAP, batch)
}

/// Adds the calls that make one mapping, unless it is there already, and prepare it for its pages.
fn add_mapping<'fd>(
    stub: &mut Stub,
    alive: &Alive,
    vma: &VmaEntry,
    heirlooms: &Inheritance,
    files: &'fd FilesRestore<'_>,
    batch: &mut Batch<'fd>,
) -> Result<(), Problem> {
    if batch.is_nearly_full(8, 512) {
        stub.post(MAP, std::mem::take(batch))?;
    }
    if heirlooms.is_kept(vma) {
        for (start, len) in heirlooms.stale(vma) {
            if batch.is_nearly_full(1, 0) {
                stub.post(MAP, std::mem::take(batch))?;
            }
            batch.call("madvise", libc::SYS_madvise, args![start, len, libc::MADV_DONTNEED]);
        }
        return Ok(());
    }
    mm::kind_of(vma)?.restore(files, vma, vma.prot, batch)?;
    alive.extra.before_pages(vma, batch);
    mm::advise_before_pages(vma, batch);
    Ok(())
}

/// Maps and fills what a task gives to those it is about to make.
pub(super) fn make_heirlooms(
    stub: &mut Stub,
    alive: &Alive,
    heirlooms: &mut Inheritance,
    files: &mut FilesRestore<'_>,
    images: &Images,
) -> Result<(), Problem> {
    let vmas: Vec<&VmaEntry> = alive.mm.vmas.iter().collect();
    for vma in alive.stretches.iter().filter(|vma| heirlooms.concerns(vma)) {
        mm::kind_of(vma)?.prepare(files, vma, &vmas).map_err(|p| p.object(mm::object(vma)))?;
    }
    let mut batch = Batch::new();
    for vma in alive.stretches.iter().filter(|vma| heirlooms.concerns(vma)) {
        add_mapping(stub, alive, vma, heirlooms, files, &mut batch)?;
    }
    stub.run(MAP, &batch)?;
    fill::fill_heirlooms(stub, alive, images, heirlooms, files.options)?;
    heirlooms.given_is_filled = true;
    Ok(())
}

fn protect(stub: &mut Stub, alive: &Alive) -> Result<(), Problem> {
    let step = "protect its memory";
    let mut batch = Batch::new();
    alive.extra.guard(&mut batch, &mut |batch| stub.post(step, std::mem::take(batch)))?;
    let special = status::VDSO | status::VVAR | status::VSYSCALL | status::UPROBES;
    for vma in alive.mm.vmas.iter().filter(|vma| vma.status & special == 0) {
        if batch.is_nearly_full(12, 256) {
            stub.post(step, std::mem::take(&mut batch))?;
        }
        mm::finish(vma, filling_prot(&alive.pagemap, vma), alive.extra.mlock_flags(vma), &mut batch);
        alive.extra.at_last(vma, &mut batch);
    }
    stub.post_later(step, batch)
}

fn describe(stub: &mut Stub, alive: &Alive, files: &mut FilesRestore<'_>) -> Result<(), Problem> {
    let name = stub.name.clone();
    let exe = alive.mm.exe_file_id;
    files.open(exe).of_task(&name)?;
    let exe = files.opened(exe).ok_or(FileRefusal::NoSuchId(exe)).of_task(&name)?;
    let mut batch = Batch::new();
    let socket = stub.agent_fd().unwrap_or(0);
    bounds::restore(&alive.mm, exe, socket + 1, &mut batch);
    alive.extra.lock_later(&mut batch);
    stub.post("describe its address space", batch)
}
