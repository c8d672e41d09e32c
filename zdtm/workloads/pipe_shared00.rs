//! Several processes write into one pipe, several read from it, and no byte is lost.

use std::fs::File;
use std::io::{Read as _, Write as _};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use zdtm::ensure;
use zdtm::workload::{Child, Context, Verdict};

const WRITERS: u8 = 3;
const READERS: u8 = 2;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
    let (reports_out, reports_in) = pipe2(OFlag::O_CLOEXEC)?;
    let mut children = Vec::new();
    for number in 0..WRITERS {
        let (mut to, mut report) = (File::from(input.try_clone()?), File::from(reports_in.try_clone()?));
        children.push(cx.child(|cx| {
            let mut written = 0_u64;
            while !cx.passed() {
                to.write_all(&[number; 100])?;
                written += 100;
                if written == 100 {
                    cx.post(&format!("writing-{number}"))?;
                }
            }
            Ok(report.write_all(&[&b"w"[..], &written.to_le_bytes()].concat())?)
        })?);
    }
    let mut writing_end = Some(input);
    for _ in 0..READERS {
        let (mut from, mut report) = (File::from(output.try_clone()?), File::from(reports_in.try_clone()?));
        children.push(cx.child(|_| {
            // The end of the data is only seen when no reader could write.
            drop(writing_end.take());
            let count = count(&mut from)?;
            Ok(report.write_all(&[&b"r"[..], &count.to_le_bytes()].concat())?)
        })?);
    }
    (0..WRITERS).try_for_each(|number| cx.wait_for(&format!("writing-{number}")))?;
    cx.barrier()?;
    drop((writing_end, output, reports_in));
    children.into_iter().try_for_each(Child::join)?;
    let mut reports = Vec::new();
    File::from(reports_out).read_to_end(&mut reports)?;
    let sum = |kind: u8| -> u64 {
        let own = reports.chunks_exact(9).filter(|report| report[0] == kind);
        own.filter_map(|report| report[1..].try_into().ok()).map(u64::from_le_bytes).sum()
    };
    ensure!(sum(b'w') > 0 && sum(b'w') == sum(b'r'), "{} bytes written, {} read", sum(b'w'), sum(b'r'));
    Ok(())
}

fn count(from: &mut File) -> Result<u64, std::io::Error> {
    let mut bytes = [0; 512];
    let mut count = 0;
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(count),
            more => count += more as u64,
        }
    }
}
