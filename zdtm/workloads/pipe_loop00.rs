//! Data goes round through a ring of pipes, or of fifos, and processes without a fault.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe};
use zdtm::workload::{Child, Context, Failure, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

const PROCESSES: usize = 4;
const LENGTH: usize = 3000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut links =
        (0..=PROCESSES).map(|number| link(cx, number)).collect::<Result<Vec<_>, _>>()?.into_iter();
    let (first_out, first_in) = links.next().ok_or_else(|| Failure::new("no link"))?;
    let mut output = first_out;
    let mut children = Vec::new();
    for (next_out, next_in) in links {
        let (from, to) = (output.try_clone()?, next_in.try_clone()?);
        children.push(cx.child(|_| relay(File::from(from), File::from(to)))?);
        output = next_out;
    }
    let driver_in = first_in.try_clone()?;
    let driver = cx.child(|cx| {
        let (mut to, mut from) = (File::from(driver_in), File::from(output.try_clone()?));
        let mut rounds = 0;
        while !cx.passed() {
            to.write_all(&pattern(rounds, LENGTH))?;
            let mut bytes = vec![0; LENGTH];
            from.read_exact(&mut bytes)?;
            check_pattern(&bytes, rounds, "data after a round")?;
            rounds += 1;
            if rounds == 1 {
                cx.post("looping")?;
            }
        }
        to.write_all(&[b'.'; LENGTH])?;
        let mut bytes = vec![0; LENGTH];
        from.read_exact(&mut bytes)?;
        ensure_eq!(bytes, vec![b'.'; LENGTH], "the last round");
        ensure!(rounds > 0, "no round was made");
        Ok(())
    })?;
    cx.wait_for("looping")?;
    cx.barrier()?;
    driver.join()?;
    children.into_iter().try_for_each(Child::join)
}

/// Both ends of a pipe; of a fifo, where the argument says so.
fn link(cx: &Context, number: usize) -> Result<(OwnedFd, OwnedFd), Failure> {
    if cx.args().is_empty() {
        return Ok(pipe()?);
    }
    let path = cx.path(&format!("fifo-{number}"));
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let reader = open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
    let writer = open(&path, OFlag::O_WRONLY, Mode::empty())?;
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

/// Hands on what comes, and ends after the block of full stops.
fn relay(mut from: File, mut to: File) -> Verdict {
    loop {
        let mut bytes = vec![0; LENGTH];
        from.read_exact(&mut bytes)?;
        to.write_all(&bytes)?;
        if bytes.iter().all(|byte| *byte == b'.') {
            return Ok(());
        }
    }
}
