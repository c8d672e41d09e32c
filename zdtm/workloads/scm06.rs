//! Both ends of a pseudo-terminal are in flight, and nobody has them open any more; what was written waits in them.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{scm, terminal, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    let (c, d) = unix::pair(unix::kind(cx))?;
    let (master, slave) = terminal::open_pair()?;
    terminal::make_raw(&slave)?;
    terminal::set_window(&slave, [12, 34, 56, 78])?;
    let name = terminal::slave_name(&master)?;
    scm::send(&a, b"slave", &[&slave])?;
    scm::send(&c, b"master", &[&master])?;
    // The slave twice, in queues of two sockets.
    scm::send(&c, b"slave", &[&slave])?;
    nix::unistd::write(&master, b"typed")?;
    terminal::wait_readable(&slave)?;
    drop((master, slave));
    cx.barrier()?;
    let (slaves, _) = scm::receive(&b, b"slave")?;
    let (masters, _) = scm::receive(&d, b"master")?;
    let (again, _) = scm::receive(&d, b"slave")?;
    ensure_eq!([slaves.len(), masters.len(), again.len()], [1, 1, 1], "descriptors");
    ensure_eq!(terminal::slave_name(&masters[0])?, name, "name");
    ensure_eq!(terminal::window(&again[0])?, [12, 34, 56, 78], "window");
    ensure_eq!(terminal::read_exactly(&slaves[0], 5)?, b"typed", "what waited");
    nix::unistd::write(&again[0], b"printed")?;
    ensure_eq!(terminal::read_exactly(&masters[0], 7)?, b"printed", "what was printed");
    Ok(())
}
