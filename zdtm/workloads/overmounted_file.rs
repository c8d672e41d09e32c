//! Files that are open and that a mount covers, one by itself and one with its folder.

use std::fs;
use std::io::Write as _;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    fs::create_dir(place.join("in"))?;
    let mut single = fs::File::create(place.join("single"))?;
    let mut deep = fs::File::create(place.join("in/deep"))?;
    let above = mounting::file(cx, "above")?;
    mounting::bind(&above, &place.join("single"))?;
    mounting::tmpfs(&place.join("in"), "")?;
    mounting::barrier(cx)?;
    single.write_all(b"single")?;
    deep.write_all(b"deep")?;
    mounting::unmount(&place.join("single"))?;
    mounting::unmount(&place.join("in"))?;
    mounting::ensure_text(&place.join("single"), "single")?;
    mounting::ensure_text(&place.join("in/deep"), "deep")
}
