//! Data that goes round through processes, whatever links them.

use std::io::{Read, Write};

use zdtm::workload::{Child, Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

/// Processes that hand data on.
pub(crate) const PROCESSES: usize = 4;

const LENGTH: usize = 3000;

/// A process that hands on what comes, and ends after the block of full stops.
pub(crate) fn relay(cx: &mut Context, mut from: impl Read, mut to: impl Write) -> Result<Child, Failure> {
    cx.child(|_| {
        loop {
            let mut bytes = vec![0; LENGTH];
            from.read_exact(&mut bytes)?;
            to.write_all(&bytes)?;
            if bytes.iter().all(|byte| *byte == b'.') {
                return Ok(());
            }
        }
    })
}

/// Sends data round until the barrier has been passed, and looks whether it comes back; then all processes end.
pub(crate) fn drive(
    cx: &mut Context,
    mut first: impl Write,
    mut last: impl Read,
    relays: Vec<Child>,
) -> Verdict {
    let driver = cx.child(|cx| {
        let mut rounds = 0;
        while !cx.passed() || rounds == 0 {
            first.write_all(&pattern(rounds, LENGTH))?;
            let mut bytes = vec![0; LENGTH];
            last.read_exact(&mut bytes)?;
            check_pattern(&bytes, rounds, "data after a round")?;
            rounds += 1;
            if rounds == 1 {
                cx.post("looping")?;
            }
        }
        first.write_all(&[b'.'; LENGTH])?;
        let mut bytes = vec![0; LENGTH];
        last.read_exact(&mut bytes)?;
        ensure_eq!(bytes, vec![b'.'; LENGTH], "the last round");
        ensure!(rounds > 0, "no round was made");
        Ok(())
    })?;
    cx.wait_for("looping")?;
    cx.barrier()?;
    driver.join()?;
    relays.into_iter().try_for_each(Child::join)
}
