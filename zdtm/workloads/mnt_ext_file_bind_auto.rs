//! A file of the host that is bound to a file is found again by itself.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::file(cx, "bound")?;
    mounting::bind(&cx.path("outside/file"), &place)?;
    mounting::unmount(&cx.path("outside"))?;
    mounting::bind(
        &place,
        &mounting::file(cx, "outside/file").or_else(|_| {
            fs::create_dir_all(cx.path("outside"))?;
            mounting::file(cx, "outside/file")
        })?,
    )?;

    mounting::outside_barrier(cx)?;
    mounting::ensure_text(&place, "from outside")
}
