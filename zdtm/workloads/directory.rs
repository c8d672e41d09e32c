//! An open folder keeps its position: listing goes on where it was.

use std::collections::BTreeSet;
use std::fs::{self, ReadDir};

use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let folder = cx.path("folder");
    fs::create_dir(&folder)?;
    let names: BTreeSet<String> = (0..3000).map(|number| format!("a rather long name {number}")).collect();
    names.iter().try_for_each(|name| fs::write(folder.join(name), ""))?;
    let mut listing = fs::read_dir(&folder)?;
    let mut found = BTreeSet::new();
    take(&mut listing, 300, &mut found)?;
    cx.barrier()?;
    take(&mut listing, usize::MAX, &mut found)?;
    ensure!(found == names, "{} names were found instead of {}", found.len(), names.len());
    Ok(())
}

fn take(listing: &mut ReadDir, count: usize, found: &mut BTreeSet<String>) -> Result<(), Failure> {
    for entry in listing.take(count) {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(found.insert(name.clone()), "{name} came twice");
    }
    Ok(())
}
