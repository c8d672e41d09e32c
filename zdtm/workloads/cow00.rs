//! Memory inherited by a child has the right contents in both, where it was changed and where not; and what neither has
//! changed, they share.

use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE};

const PAGES: usize = 1024;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut mapping = Mapping::apart(PAGES * PAGE)?;
    mapping.bytes_mut().copy_from_slice(&pattern(1, PAGES * PAGE));
    let child = cx.child(|cx| {
        change(mapping, 3, 2);
        cx.post("child-ready")?;
        // As long as it lives, memory is shared with it.
        cx.wait_for("measured")?;
        check(mapping, 3, 2)
    })?;
    cx.wait_for("child-ready")?;
    change(mapping, 5, 3);
    let before = mapping.pss()?;
    cx.barrier()?;
    let after = mapping.pss()?;
    cx.post("measured")?;
    zdtm::ensure!(after <= before, "it has {after} kB now, shared ones in proportion, and had {before}");
    check(mapping, 5, 3)?;
    child.join()
}

fn change(mapping: Mapping, step: usize, seed: u64) {
    for page in (0..PAGES).step_by(step) {
        mapping.part(page * PAGE, PAGE).bytes_mut().copy_from_slice(&pattern(seed, PAGE));
    }
}

fn check(mapping: Mapping, step: usize, seed: u64) -> Verdict {
    let original = pattern(1, PAGES * PAGE);
    for page in 0..PAGES {
        let found = mapping.part(page * PAGE, PAGE);
        if page % step == 0 {
            check_pattern(found.bytes(), seed, &format!("changed page {page}"))?;
        } else {
            zdtm::ensure!(found.bytes() == &original[page * PAGE..][..PAGE], "inherited page {page} differs");
        }
    }
    Ok(())
}
