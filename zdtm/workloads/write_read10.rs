//! Several processes keep what they wrote into private memory and into parts of one file.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use zdtm::workload::{Child, Context, Verdict, check_pattern, pattern};

const PROCESSES: u64 = 4;
const LENGTH: usize = 200_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let place = number * LENGTH as u64;
        children.push(cx.child(|cx| {
            let own = pattern(number, LENGTH);
            file.write_all_at(&own, place)?;
            cx.post(&format!("written-{number}"))?;
            cx.park()?;
            check_pattern(&own, number, "memory")?;
            let mut bytes = vec![0; LENGTH];
            file.read_exact_at(&mut bytes, place)?;
            check_pattern(&bytes, number, "file")
        })?);
    }
    (0..PROCESSES).try_for_each(|number| cx.wait_for(&format!("written-{number}")))?;
    cx.barrier()?;
    children.into_iter().try_for_each(Child::join)
}
