//! A mount that covers another, both on a mount with a peer.

use std::fs;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (one, other) = (mounting::new_tmpfs(cx, "one")?, mounting::folder(cx, "other")?);
    fs::create_dir(one.join("place"))?;
    mounting::change(&one, MsFlags::MS_SHARED)?;
    mounting::bind(&one, &other)?;
    let place = one.join("place");
    for text in ["lower", "upper"] {
        mounting::tmpfs(&place, "")?;
        fs::write(place.join("file"), text)?;
    }
    mounting::barrier(cx)?;
    mounting::ensure_text(&other.join("place/file"), "upper")?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("file"), "lower")?;
    mounting::ensure_text(&other.join("place/file"), "lower")
}
