//! Hundreds of small mappings with different protections keep their places and contents.

use nix::sys::mman::ProtFlags;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const COUNT: usize = 600;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let whole = Mapping::anonymous(COUNT * PAGE, READ_WRITE)?;
    for number in 0..COUNT {
        let mut page = whole.part(number * PAGE, PAGE);
        page.bytes_mut().copy_from_slice(&pattern(number as u64, PAGE));
        page.protect(if number % 2 == 0 { ProtFlags::PROT_READ } else { ProtFlags::PROT_NONE })?;
    }
    cx.barrier()?;
    for number in 0..COUNT {
        let page = whole.part(number * PAGE, PAGE);
        page.protect(ProtFlags::PROT_READ)?;
        check_pattern(page.bytes(), number as u64, &format!("page {number}"))?;
    }
    Ok(())
}
