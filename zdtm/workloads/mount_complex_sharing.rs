//! Groups, slaves of groups, groups of slaves, and their slaves.

use std::fs;

use nix::mount::MsFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let top = mounting::new_tmpfs(cx, "m0")?;
    fs::create_dir(top.join("place"))?;
    mounting::change(&top, MsFlags::MS_SHARED)?;
    // Each is bound from an older one, and then changed.
    let steps: [(usize, &[MsFlags]); 7] = [
        (0, &[]),
        (1, &[MsFlags::MS_SLAVE]),
        (2, &[MsFlags::MS_SHARED]),
        (3, &[MsFlags::MS_SLAVE, MsFlags::MS_SHARED]),
        (3, &[MsFlags::MS_SLAVE]),
        (4, &[MsFlags::MS_PRIVATE]),
        (0, &[MsFlags::MS_SLAVE, MsFlags::MS_SHARED]),
    ];
    let at = |number: usize| cx.path(&format!("m{number}"));
    for (number, (from, changes)) in (1..).zip(steps) {
        fs::create_dir(at(number))?;
        mounting::bind(&at(from), &at(number))?;
        for flags in changes {
            mounting::change(&at(number), *flags)?;
        }
    }
    let places: Vec<_> = (0..=7).map(|number| at(number).join("place")).collect();
    mounting::barrier(cx)?;
    mounting::tmpfs(&places[0], "")?;
    for (number, place) in places.iter().enumerate() {
        ensure_eq!(mounting::is_mounted(place)?, number != 6, format!("a mount on m0 is on m{number}"));
    }
    mounting::unmount(&places[0])?;
    mounting::tmpfs(&places[3], "")?;
    for (number, place) in places.iter().enumerate() {
        let is_expected = [3, 4, 5].contains(&number);
        ensure_eq!(mounting::is_mounted(place)?, is_expected, format!("a mount on m3 is on m{number}"));
    }
    Ok(())
}
