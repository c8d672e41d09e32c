//! Huge pages of which little was touched, part was given up or part has another protection hold what they held, while
//! more are touched.

use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

const HUGE: usize = 2 << 20;
const COUNT: usize = 8;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let area = huge(COUNT)?;
    ensure!(area.bytes()[0] == 0, "new memory is not empty");
    // Each huge page has one small one written, at another place.
    for number in 0..COUNT {
        written(area, number).bytes_mut().copy_from_slice(&pattern(number as u64, PAGE));
    }
    let mut full = huge(2)?;
    full.bytes_mut().copy_from_slice(&pattern(1, 2 * HUGE));
    let hole = full.part(HUGE / 2, HUGE / 4);
    // SAFETY: nobody expects the contents to stay.
    Errno::result(unsafe { libc::madvise(hole.start.as_ptr(), hole.length, libc::MADV_DONTNEED) })?;
    full.part(HUGE + HUGE / 2, PAGE).protect(ProtFlags::PROT_NONE)?;
    let toucher = cx.child(|cx| {
        let mut touched = 0;
        let more = huge(COUNT)?;
        while !cx.passed() {
            let number = touched % (COUNT * HUGE / PAGE);
            // Steps of an odd number of pages come to every page in the end.
            let mut page = more.part(number * 77 * PAGE % (COUNT * HUGE), PAGE);
            let round = (touched / (COUNT * HUGE / PAGE)) as u8;
            ensure_eq!(
                [page.bytes()[0], page.bytes()[PAGE - 1]],
                [round; 2],
                format!("page of touch {touched}")
            );
            page.bytes_mut().fill(round.wrapping_add(1));
            touched += 1;
            if touched == 10 {
                cx.post("touching")?;
            }
        }
        check(area, full)
    })?;
    cx.wait_for("touching")?;

    cx.barrier()?;
    check(area, full)?;
    toucher.join()
}

fn check(area: Mapping, full: Mapping) -> Verdict {
    for number in 0..COUNT {
        let written = written(area, number);
        check_pattern(written.bytes(), number as u64, &format!("the touched part of huge page {number}"))?;
        let set = area.part(number * HUGE, HUGE).bytes().iter().filter(|byte| **byte != 0).count();
        let expected = written.bytes().iter().filter(|byte| **byte != 0).count();
        ensure_eq!(set, expected, format!("bytes of huge page {number} that are not zeros"));
    }
    full.protect(READ_WRITE)?;
    let mut expected = pattern(1, 2 * HUGE);
    expected[HUGE / 2..][..HUGE / 4].fill(0);
    ensure!(full.bytes() == expected, "huge pages with a hole and a protected part differ");
    Ok(())
}

fn written(area: Mapping, number: usize) -> Mapping {
    area.part(number * HUGE + number * 61 * PAGE, PAGE)
}

/// So many huge pages, at their boundary.
fn huge(count: usize) -> Result<Mapping, Failure> {
    let whole = Mapping::anonymous((count + 1) * HUGE, READ_WRITE)?;
    let area = whole.part(whole.address().next_multiple_of(HUGE) - whole.address(), count * HUGE);
    // SAFETY: the advice does not change contents.
    Errno::result(unsafe { libc::madvise(area.start.as_ptr(), area.length, libc::MADV_HUGEPAGE) })?;
    Ok(area)
}
