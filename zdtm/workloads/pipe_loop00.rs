//! Data goes round through a ring of pipes, or of fifos, and processes without a fault.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe};
use zdtm::workload::{Context, Failure, Verdict};

use crate::ring;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut links =
        (0..=ring::PROCESSES).map(|number| link(cx, number)).collect::<Result<Vec<_>, _>>()?.into_iter();
    let (first_out, first_in) = links.next().ok_or_else(|| Failure::new("no link"))?;
    let mut output = first_out;
    let mut relays = Vec::new();
    for (next_out, next_in) in links {
        let (from, to) = (output.try_clone()?, next_in.try_clone()?);
        relays.push(ring::relay(cx, File::from(from), File::from(to))?);
        output = next_out;
    }
    ring::drive(cx, File::from(first_in.try_clone()?), File::from(output.try_clone()?), relays)
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
