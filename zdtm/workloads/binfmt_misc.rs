//! Interpreters, one told by what a file begins with, one by its name and switched off.

use std::fs;

use nix::mount::{MsFlags, mount};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::folder(cx, "place")?;
    mount(Some("zdtm"), &place, Some("binfmt_misc"), MsFlags::empty(), None::<&str>)?;
    // Where there is no user namespace, they are the machine's.
    let names =
        ["magic", "extension"].map(|what| format!("zdtm-{what}-{}", cx.path("").display()).replace('/', "-"));
    fs::write(
        place.join("register"),
        format!(":{}:M:2:\\x01zdtm:\\xff\\xff\\xff\\x00\\xff:/bin/true:OC", names[0]),
    )?;
    fs::write(place.join("register"), format!(":{}:E::zdtm-{}::/bin/false:", names[1], std::process::id()))?;
    fs::write(place.join(&names[1]), "0")?;
    let texts =
        || names.iter().map(|name| fs::read_to_string(place.join(name))).collect::<Result<Vec<_>, _>>();
    let before = texts()?;
    mounting::barrier(cx)?;
    let after = texts()?;
    for name in &names {
        fs::write(place.join(name), "-1")?;
    }
    ensure_eq!(after, before, "entries");
    Ok(())
}
