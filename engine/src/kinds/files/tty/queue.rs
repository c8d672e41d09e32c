//! What has been written into one side of a pseudo-terminal and was not read from the other yet.
//!
//! The kernel has no way to look at it: it is read, and put back at once. Reading takes lines while the slave is in canonical
//! mode, for only there ends of file that were typed between them show; then the mode is turned off for what was typed of the
//! next line. It is put back as if typed ([`tty::type_byte`]), under settings that do nothing to it: no echo, no signals.
//! What the line discipline has no room for is written to the other side, where the kernel had it before.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::termios::FlowArg;

use crate::error::SysError;
use crate::sys::tty::{self, Number, Switch, Termios};

/// Bytes that a line discipline holds (`N_TTY_BUF_SIZE` in `drivers/tty/n_tty.c`, less one).
const ROOM: usize = 4095;
/// Bytes that a queue may hold in all; the kernel allows some 15,000.
const MOST: usize = 1 << 18;

/// Bytes that wait to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Places among them where an end of file was typed, in ascending order.
    pub ends: Vec<usize>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.ends.is_empty()
    }

    /// Bytes and ends of file in their order.
    fn items(&self) -> Vec<Option<u8>> {
        let mut ends = self.ends.iter().copied().peekable();
        let mut items = Vec::new();
        for (at, byte) in self.bytes.iter().enumerate() {
            while ends.next_if(|end| *end <= at).is_some() {
                items.push(None);
            }
            items.push(Some(*byte));
        }
        items.extend(ends.map(|_| None));
        items
    }
}

/// What waits on both sides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queues {
    /// What can be read from the master.
    pub to_master: Queue,
    /// What can be read from the slave.
    pub to_slave: Queue,
    /// The slave's output is stopped, as by Ctrl-S.
    pub stopped: bool,
}

/// Copies what waits on both sides; without a slave, on the master only.
pub(super) fn copy(master: BorrowedFd<'_>, slave: Option<BorrowedFd<'_>>) -> Result<Queues, SysError> {
    let packets = tty::number(master, Number::PacketMode)? != 0;
    let termios = tty::termios(master)?;
    if packets {
        tty::turn(master, Switch::PacketMode, false)?;
    }
    let taken = slave.map_or_else(|| Ok(Queue::default()), |slave| take_from_slave(master, slave, &termios));
    let back = taken.and_then(|to_slave| {
        let to_master = take_from_master(master);
        // Now that there is room, only a stop keeps the slave from being written to.
        let stopped =
            slave.map_or(Ok(false), |slave| is_ready(slave, PollFlags::POLLOUT).map(|ready| !ready))?;
        let queues = Queues { to_master: to_master.clone().unwrap_or_default(), to_slave, stopped };
        put(master, slave, &queues, &termios)?;
        to_master.map(|_| queues)
    });
    if packets {
        tty::turn(master, Switch::PacketMode, true)?;
    }
    back
}

/// Puts everything where it waits to be read; the settings are `termios` then. Packet mode must be off.
pub(super) fn put(
    master: BorrowedFd<'_>,
    slave: Option<BorrowedFd<'_>>,
    queues: &Queues,
    termios: &Termios,
) -> Result<(), SysError> {
    put_to_master(master, slave, queues, termios)?;
    match slave {
        Some(slave) if !queues.to_slave.is_empty() => put_to_slave(master, slave, &queues.to_slave, termios),
        _ => Ok(()),
    }
}

/// Settings under which nothing is done to what is typed. Output stays stopped if it is, since `IXON` is kept.
fn quiet(termios: &Termios, end_of_file: u8) -> Termios {
    let flags = (libc::ICANON | libc::IEXTEN) | EXTPROC;
    let mut c_cc = [0; 19];
    for kept in [libc::VEOL, libc::VEOL2] {
        if let (Some(slot), Some(byte)) = (c_cc.get_mut(kept), termios.c_cc.get(kept)) {
            *slot = *byte;
        }
    }
    if let Some(slot) = c_cc.get_mut(libc::VEOF) {
        *slot = end_of_file;
    }
    let (c_iflag, c_lflag) = (termios.c_iflag & libc::IXON, termios.c_lflag & flags);
    Termios { c_iflag, c_lflag, c_cc, ..*termios }
}

/// From `include/uapi/asm-generic/termbits.h`.
const EXTPROC: u32 = 0o200_000;

fn is_canonical(termios: &Termios) -> bool {
    termios.c_lflag & (libc::ICANON | EXTPROC) == libc::ICANON
}

fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> Result<bool, SysError> {
    let mut polled = [PollFd::new(fd, events)];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(SysError::of("poll"))?;
    let [polled] = polled;
    Ok(polled.revents().is_some_and(|events_now| events_now.intersects(events)))
}

/// Reads once from a descriptor that is ready.
fn read(fd: BorrowedFd<'_>) -> Result<Vec<u8>, SysError> {
    let mut buffer = [0; 2 * (ROOM + 1)];
    match nix::unistd::read(fd, &mut buffer) {
        Ok(len) => Ok(buffer.get(..len).unwrap_or_default().to_vec()),
        // The end of what a slave wrote that has been closed since.
        Err(Errno::EAGAIN | Errno::EIO) => Ok(Vec::new()),
        Err(errno) => Err(SysError { call: "read", errno }),
    }
}

fn take_from_master(master: BorrowedFd<'_>) -> Result<Queue, SysError> {
    let mut queue = Queue::default();
    while queue.bytes.len() < MOST && is_ready(master, PollFlags::POLLIN)? {
        let bytes = read(master)?;
        if bytes.is_empty() {
            break;
        }
        queue.bytes.extend(bytes);
    }
    Ok(queue)
}

/// Takes what waits on the slave. In canonical mode, what was typed of a line shows only when the mode is turned off, and
/// turning it off makes the lines before it one; so they are taken first.
fn take_from_slave(
    master: BorrowedFd<'_>,
    slave: BorrowedFd<'_>,
    termios: &Termios,
) -> Result<Queue, SysError> {
    let mut queue = Queue::default();
    let canonical = is_canonical(termios);
    if !canonical && !is_ready(slave, PollFlags::POLLIN)? && tty::number(slave, Number::Readable)? == 0 {
        return Ok(queue);
    }
    let mut raw = quiet(termios, 0);
    if canonical {
        tty::set_termios(master, &raw)?;
        let taken = take_lines(slave, termios, &mut queue);
        if taken.is_err() {
            put_to_slave(master, slave, &queue, termios)?;
        }
        taken?;
        raw.c_lflag &= !libc::ICANON;
    }
    tty::set_termios(master, &raw)?;
    while queue.bytes.len() < MOST && tty::number(slave, Number::Readable)? != 0 {
        let bytes = read(slave)?;
        if bytes.is_empty() {
            break;
        }
        queue.bytes.extend(bytes);
    }
    if queue.is_empty() {
        tty::set_termios(master, termios)?;
    }
    Ok(queue)
}

fn take_lines(slave: BorrowedFd<'_>, termios: &Termios, queue: &mut Queue) -> Result<(), SysError> {
    let others = [libc::VEOL, libc::VEOL2].map(|at| termios.c_cc.get(at).copied().unwrap_or(0));
    while queue.bytes.len() < MOST && is_ready(slave, PollFlags::POLLIN)? {
        let line = read(slave)?;
        let ends_as_line =
            line.last().is_some_and(|last| *last == b'\n' || (*last != 0 && others.contains(last)));
        queue.bytes.extend(line);
        if !ends_as_line {
            queue.ends.push(queue.bytes.len());
        }
    }
    Ok(())
}

fn put_to_slave(
    master: BorrowedFd<'_>,
    slave: BorrowedFd<'_>,
    queue: &Queue,
    termios: &Termios,
) -> Result<(), SysError> {
    let unused = (1..=u8::MAX).rev().find(|byte| !queue.bytes.contains(byte));
    // With all of 255 characters in its lines no end of file can be typed; none has been seen that does it.
    let end_of_file = unused.unwrap_or(0);
    tty::set_termios(master, &quiet(termios, end_of_file))?;
    let items = queue.items();
    let (first, rest) = items.split_at(items.len().min(ROOM));
    for item in first {
        tty::type_byte(slave, item.unwrap_or(end_of_file))?;
    }
    tty::set_termios(master, termios)?;
    let end_of_file = termios.c_cc.get(libc::VEOF).copied().unwrap_or(0);
    let rest: Vec<u8> = rest.iter().map(|item| item.unwrap_or(end_of_file)).collect();
    write(master, &rest)
}

fn put_to_master(
    master: BorrowedFd<'_>,
    slave: Option<BorrowedFd<'_>>,
    queues: &Queues,
    termios: &Termios,
) -> Result<(), SysError> {
    let bytes = &queues.to_master.bytes;
    let (first, rest) = bytes.split_at(bytes.len().min(ROOM));
    for byte in first {
        tty::type_byte(master, *byte)?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let own;
    let slave = if let Some(slave) = slave {
        slave
    } else {
        own = tty::open_slave(master, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)?;
        own.as_fd()
    };
    // Output starts again when IXON is turned off, or when it was stopped by a call, by another call.
    let unprocessed = Termios {
        c_iflag: termios.c_iflag & !(libc::IXON),
        c_oflag: termios.c_oflag & !libc::OPOST,
        ..*termios
    };
    tty::set_termios(master, &unprocessed)?;
    nix::sys::termios::tcflow(slave, FlowArg::TCOON).map_err(SysError::of("tcflow"))?;
    let written = write(slave, rest);
    tty::set_termios(master, termios)?;
    if queues.stopped {
        stop(slave, termios)?;
    }
    written
}

/// Stops the output of a slave, as its settings would have it stopped: by a key, or by a call.
pub(super) fn stop(slave: BorrowedFd<'_>, termios: &Termios) -> Result<(), SysError> {
    let key = termios.c_cc.get(libc::VSTOP).copied().unwrap_or(0);
    if termios.c_iflag & libc::IXON != 0 && key != 0 {
        return tty::type_byte(slave, key);
    }
    nix::sys::termios::tcflow(slave, FlowArg::TCOOFF).map_err(SysError::of("tcflow"))
}

/// Writes little by little, since a write that finds no room would wait for a reader.
fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), SysError> {
    const AT_ONCE: usize = 256;
    for piece in bytes.chunks(AT_ONCE) {
        if !is_ready(fd, PollFlags::POLLOUT)? {
            return Err(SysError { call: "write (to a terminal)", errno: Errno::EAGAIN });
        }
        nix::unistd::write(fd, piece).map_err(SysError::of("write (to a terminal)"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rstest::rstest;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_CLOEXEC;
        let master = nix::fcntl::open("/dev/ptmx", flags, nix::sys::stat::Mode::empty()).unwrap();
        tty::turn(master.as_fd(), Switch::Locked, false).unwrap();
        let slave = tty::open_slave(master.as_fd(), flags.bits()).unwrap();
        (master, slave)
    }

    fn write_all(fd: &OwnedFd, bytes: &[u8]) {
        assert_eq!(nix::unistd::write(fd, bytes), Ok(bytes.len()));
        // The kernel passes it on in its own time.
        while !is_ready(fd.as_fd(), PollFlags::POLLOUT).unwrap() {}
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    #[rstest]
    #[case::nothing(b"", b"", &[])]
    #[case::lines(b"one\ntwo\n", b"one\ntwo\n", &[])]
    #[case::a_part(b"one\ntw", b"one\ntw", &[])]
    #[case::only_a_part(b"tw", b"tw", &[])]
    #[case::ends(b"one\n\x04tw\x04\x04o", b"one\ntwo", &[4, 6, 6])]
    fn canonical_input_is_copied_and_stays(
        #[case] typed: &[u8],
        #[case] bytes: &[u8],
        #[case] ends: &[usize],
    ) {
        let (master, slave) = pair();
        let before = tty::termios(master.as_fd()).unwrap();
        let silent = Termios { c_lflag: before.c_lflag & !libc::ECHO, ..before };
        tty::set_termios(master.as_fd(), &silent).unwrap();
        write_all(&master, typed);
        let expected = Queue { bytes: bytes.to_vec(), ends: ends.to_vec() };
        for _ in 0..3 {
            let queues = copy(master.as_fd(), Some(slave.as_fd())).unwrap();
            assert_eq!(queues.to_slave, expected);
            assert_eq!((queues.to_master, queues.stopped), (Queue::default(), false));
            assert_eq!(tty::termios(master.as_fd()), Ok(silent));
        }
        // A part of a line can still be erased.
        if typed == b"tw" {
            write_all(&master, b"\x7fa\n");
            assert_eq!(read(slave.as_fd()), Ok(b"ta\n".to_vec()));
        }
    }

    #[test]
    fn echo_and_output_are_copied_and_stay() {
        let (master, slave) = pair();
        write_all(&master, b"\x01hi\n");
        write_all(&slave, b"out\n");
        for _ in 0..2 {
            let queues = copy(master.as_fd(), Some(slave.as_fd())).unwrap();
            assert_eq!(queues.to_master.bytes, b"^Ahi\r\nout\r\n");
            assert_eq!(queues.to_slave.bytes, b"\x01hi\n");
        }
    }

    #[test]
    fn more_than_a_line_discipline_holds_is_copied_and_stays() {
        let (master, slave) = pair();
        let output: Vec<u8> = (0..9000).map(|i| b'a' + (i % 26) as u8).collect();
        for piece in output.chunks(500) {
            write_all(&slave, piece);
        }
        for _ in 0..2 {
            let queues = copy(master.as_fd(), Some(slave.as_fd())).unwrap();
            assert!(queues.to_master.bytes == output, "{} bytes", queues.to_master.bytes.len());
        }
    }

    #[test]
    fn stopped_output_stays_stopped() {
        let (master, slave) = pair();
        for piece in [[b'x'; 500]; 12] {
            write_all(&slave, &piece);
        }
        nix::unistd::write(&master, b"\x13").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        for _ in 0..2 {
            let queues = copy(master.as_fd(), Some(slave.as_fd())).unwrap();
            assert_eq!((queues.to_master.bytes.len(), queues.stopped), (6000, true));
            assert_eq!(is_ready(slave.as_fd(), PollFlags::POLLOUT), Ok(false));
        }
        nix::unistd::write(&master, b"\x11").unwrap();
        while !take_from_master(master.as_fd()).unwrap().bytes.is_empty() {}
        assert_eq!(is_ready(slave.as_fd(), PollFlags::POLLOUT), Ok(true));
    }

    #[test]
    fn packet_mode_stays() {
        let (master, slave) = pair();
        tty::turn(master.as_fd(), Switch::PacketMode, true).unwrap();
        write_all(&slave, b"out");
        assert_eq!(copy(master.as_fd(), Some(slave.as_fd())).unwrap().to_master.bytes, b"out");
        assert_eq!(read(master.as_fd()), Ok(b"\0out".to_vec()));
    }
}
