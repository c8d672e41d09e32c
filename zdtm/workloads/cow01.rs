//! Memory that a child, its child and a later child inherited is right in each, whoever changed which page and when.

use std::fs;

use nix::sys::mman::MapFlags;
use zdtm::workload::{Context, Verdict, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const PAGES: usize = 64;
const LENGTH: usize = PAGES * PAGE;
/// Who changes a page: the bits of its number say it, so that every combination is there.
const PARENT: usize = 1;
const CHILD: usize = 2;
const GRANDCHILD: usize = 4;
const LATER: usize = 8;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(2, LENGTH))?;
    let file = fs::File::open(&path)?;
    let mut anonymous = Mapping::apart(LENGTH)?;
    anonymous.bytes_mut().copy_from_slice(&pattern(1, LENGTH));
    let memory = [anonymous, Mapping::file(&file, LENGTH, READ_WRITE, MapFlags::MAP_PRIVATE)?];
    drop(file);
    let child = cx.child(|cx| {
        change(memory, CHILD);
        let grandchild = cx.child(|cx| {
            change(memory, GRANDCHILD);
            cx.post("grandchild-ready")?;
            cx.wait_for("measured")?;
            check(memory, &[CHILD, GRANDCHILD])
        })?;
        cx.wait_for("grandchild-ready")?;
        cx.post("child-ready")?;
        // As long as they live, memory is shared with them.
        cx.wait_for("measured")?;
        check(memory, &[CHILD])?;
        grandchild.join()
    })?;
    cx.wait_for("child-ready")?;
    change(memory, PARENT);
    let [anonymous, _] = memory;
    let second = cx.child(|cx| {
        cx.post("second-ready")?;
        cx.wait_for("measured")?;
        check(memory, &[PARENT])?;
        change(memory, LATER);
        check(memory, &[PARENT, LATER])
    })?;
    cx.wait_for("second-ready")?;

    let before = anonymous.pss()?;
    cx.barrier()?;
    let after = anonymous.pss()?;
    cx.post("measured")?;
    zdtm::ensure!(after <= before, "it has {after} kB now, shared ones in proportion, and had {before}");
    check(memory, &[PARENT])?;
    // One more fork, after the restore: what either changes is its own.
    let third = cx.child(|cx| {
        change(memory, CHILD);
        cx.post("third-changed")?;
        cx.wait_for("parent-changed")?;
        check(memory, &[PARENT, CHILD])
    })?;
    cx.wait_for("third-changed")?;
    check(memory, &[PARENT])?;
    change(memory, LATER);
    cx.post("parent-changed")?;
    for child in [child, second, third] {
        child.join()?;
    }
    check(memory, &[PARENT, LATER])
}

fn change(memory: [Mapping; 2], who: usize) {
    for mapping in memory {
        for page in (0..PAGES).filter(|page| page & who != 0) {
            mapping.part(page * PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(changed(who, page), PAGE));
        }
    }
}

/// `history` is who changed the memory, the last one last.
fn check(memory: [Mapping; 2], history: &[usize]) -> Verdict {
    for (seed, mapping) in (1..).zip(memory) {
        let original = pattern(seed, LENGTH);
        for page in 0..PAGES {
            let expected = match history.iter().rev().find(|who| page & **who != 0) {
                Some(who) => pattern(changed(*who, page), PAGE),
                None => original[page * PAGE..][..PAGE].to_vec(),
            };
            let found = mapping.part(page * PAGE, PAGE);
            zdtm::ensure!(
                found.bytes() == expected,
                "page {page} of mapping {seed} after {history:?} differs"
            );
        }
    }
    Ok(())
}

fn changed(who: usize, page: usize) -> u64 {
    (who * 1000 + page) as u64
}
