//! Data goes round through a ring of connections and processes without a fault.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use zdtm::workload::{Child, Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const PROCESSES: usize = 4;
const LENGTH: usize = 3000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (mut first, mut last) = UnixStream::pair()?;
    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        let (here, there) = UnixStream::pair()?;
        let from = last;
        children.push(cx.child(|_| relay(&from, &here))?);
        last = there;
    }
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
    children.into_iter().try_for_each(Child::join)
}

/// Hands on what comes, and ends after the block of full stops.
fn relay(mut from: &UnixStream, mut to: &UnixStream) -> Verdict {
    loop {
        let mut bytes = vec![0; LENGTH];
        from.read_exact(&mut bytes)?;
        to.write_all(&bytes)?;
        if bytes.iter().all(|byte| *byte == b'.') {
            return Ok(());
        }
    }
}
