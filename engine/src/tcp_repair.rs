//! Saving and restoring TCP connections with the kernel's repair mode (`TCP_REPAIR`, since Linux 3.5).
//!
//! This module knows sockets and nothing of processes, images or trees: give it a descriptor.
//!
//! In repair mode a socket's queues can be looked at and filled, its sequence numbers and what was negotiated can be read and
//! set, and `connect`, `shutdown` and `close` change its state without a packet. Whoever saves a connection must see to it
//! that no packet reaches it meanwhile, and that the kernel answers none while it does not exist ([`crate::net_lock`]).
//!
//! - [`Connection::save`] turns the mode on for as short as it can be, and off again: the socket is as before.
//! - [`Repair::keep`] leaves it on: such a socket can be closed, with its process, without a packet to the peer.
//! - [`Connection::restore`] makes a new socket into the connection; it stays in repair mode until [`Restored::release`].
//!   [`Connection::reach_state`] comes in between, for connections that are half closed.
//!
//! States that a packet of the peer leads to (its FIN, or its acknowledgement of ours) are reached by just that packet, made
//! here and sent over the loopback device ([`packet`]).

pub mod packet;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;
use crate::sys::socket::{self, Along, get_number, get_option, set_number, set_option};
use packet::{Flags, Segment};

/// From `include/uapi/linux/tcp.h`.
const TCP: i32 = libc::IPPROTO_TCP;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const REPAIR_ON: i32 = 1;
/// Off, without the probe that plain 0 sends.
const REPAIR_OFF_QUIETLY: i32 = -1;
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
/// Bits of `tcpi_options`.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const WINDOW_SCALE: u8 = 4;
/// Option codes of `TCP_REPAIR_OPTIONS`, those of the protocol.
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMP: u32 = 8;
/// Largest piece that is queued at once: the kernel wants one stretch of memory for it.
const PIECE: usize = 32 << 10;

/// States of `include/net/tcp_states.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Data flows both ways.
    Established,
    /// We are asking for a connection.
    SynSent,
    /// We are answering.
    SynReceived,
    /// We have closed our direction, and the peer has not acknowledged that.
    FinWait1,
    /// The peer has acknowledged it.
    FinWait2,
    /// The peer knows that both are closed, we wait for stray packets.
    TimeWait,
    /// No connection, or no more.
    Close,
    /// The peer has closed its direction.
    CloseWait,
    /// So have we, and the peer has not acknowledged that.
    LastAck,
    /// Waits for connections.
    Listen,
    /// Both closed at once, and the peer has not acknowledged it.
    Closing,
}

impl State {
    const ALL: [(u32, Self, &'static str); 11] = [
        (1, Self::Established, "ESTABLISHED"),
        (2, Self::SynSent, "SYN_SENT"),
        (3, Self::SynReceived, "SYN_RECV"),
        (4, Self::FinWait1, "FIN_WAIT1"),
        (5, Self::FinWait2, "FIN_WAIT2"),
        (6, Self::TimeWait, "TIME_WAIT"),
        (7, Self::Close, "CLOSE"),
        (8, Self::CloseWait, "CLOSE_WAIT"),
        (9, Self::LastAck, "LAST_ACK"),
        (10, Self::Listen, "LISTEN"),
        (11, Self::Closing, "CLOSING"),
    ];

    /// From the kernel's number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().find(|(known, ..)| *known == number).map(|(_, state, _)| *state)
    }

    fn entry(self) -> (u32, &'static str) {
        let entry = Self::ALL.iter().find(|(_, state, _)| *state == self);
        entry.map_or((0, "?"), |(number, _, name)| (*number, name))
    }

    /// The kernel's number.
    pub fn number(self) -> u32 {
        self.entry().0
    }

    /// The kernel's word.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// Whether our direction is closed: a FIN is the last in our sequence.
    pub fn sent_fin(self) -> bool {
        matches!(self, Self::FinWait1 | Self::FinWait2 | Self::LastAck | Self::Closing)
    }

    /// Whether the peer has acknowledged our FIN.
    fn fin_is_acknowledged(self) -> bool {
        self == Self::FinWait2
    }

    /// Whether the peer's direction is closed: a FIN is the last in its sequence.
    pub fn got_fin(self) -> bool {
        matches!(self, Self::CloseWait | Self::LastAck | Self::Closing)
    }

    /// Whether a connection with sequence numbers and queues stands behind it.
    pub fn is_connected(self) -> bool {
        self == Self::Established || self.sent_fin() || self.got_fin()
    }
}

/// The state of a TCP socket, and for one that listens, how many connections wait and how many may.
pub fn state(fd: BorrowedFd<'_>) -> Result<(State, u32, u32), SysError> {
    let info = Info::read(fd)?;
    let unknown = SysError { call: "getsockopt(TCP_INFO)", errno: Errno::EBADMSG };
    let state = State::from_number(info.state.into()).ok_or(unknown)?;
    Ok((state, info.waiting, info.backlog))
}

/// The part of `struct tcp_info` that matters.
struct Info {
    state: u8,
    options: u8,
    send_scale: u8,
    receive_scale: u8,
    waiting: u32,
    backlog: u32,
}

impl Info {
    fn read(fd: BorrowedFd<'_>) -> Result<Self, SysError> {
        let mut info = [0_u8; 104];
        get_option(fd, TCP, libc::TCP_INFO, &mut info)?;
        let byte = |at: usize| info.get(at).copied().unwrap_or(0);
        let word =
            |at: usize| info.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
        Ok(Self {
            state: byte(0),
            options: byte(5),
            send_scale: byte(6) & 15,
            receive_scale: byte(6) >> 4,
            // tcpi_unacked and tcpi_sacked, which mean this while a socket listens.
            waiting: word(24),
            backlog: word(28),
        })
    }
}

/// What both ends agreed on at the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Largest segment.
    pub mss: u32,
    /// Shifts of the send and the receive window.
    pub scale: Option<(u8, u8)>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Time stamps, and what our clock for them showed.
    pub timestamp: Option<u32>,
}

/// `struct tcp_repair_window`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Sequence number of the last window update.
    pub snd_wl1: u32,
    /// What the peer lets us send.
    pub snd_wnd: u32,
    /// The largest that it ever let us.
    pub max_window: u32,
    /// What we let the peer send.
    pub rcv_wnd: u32,
    /// Where that window began.
    pub rcv_wup: u32,
}

impl Window {
    fn bytes(self) -> Vec<u8> {
        let words = [self.snd_wl1, self.snd_wnd, self.max_window, self.rcv_wnd, self.rcv_wup];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks() else { return None };
        let mut words = words.iter().map(|word| u32::from_ne_bytes(*word));
        Some(Self {
            snd_wl1: words.next()?,
            snd_wnd: words.next()?,
            max_window: words.next()?,
            rcv_wnd: words.next()?,
            rcv_wup: words.next()?,
        })
    }
}

/// A connection, apart from the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Our address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Its state, one with a connection behind it.
    pub state: State,
    /// What was received and not yet read.
    pub received: Vec<u8>,
    /// The next sequence number that is expected of the peer; a FIN counts.
    pub receive_seq: u32,
    /// What was written and not yet acknowledged.
    pub written: Vec<u8>,
    /// How much of that, at its end, was never sent.
    pub unsent: u32,
    /// The next sequence number that will be written; a FIN counts.
    pub send_seq: u32,
    /// What was agreed on.
    pub negotiated: Negotiated,
    /// The windows; none where the kernel does not tell (before 4.8).
    pub window: Option<Window>,
}

/// A socket in repair mode, until this is dropped.
///
/// The mode overwrites `SO_REUSEADDR`, which is put back.
#[derive(Debug)]
pub struct Repair<'fd> {
    fd: BorrowedFd<'fd>,
    reuse: i32,
    stays: bool,
}

impl<'fd> Repair<'fd> {
    /// Turns the mode on; `reuse` is the socket's `SO_REUSEADDR` (needs `CAP_NET_ADMIN` in the socket's network namespace).
    pub fn start(fd: BorrowedFd<'fd>, reuse: i32) -> Result<Self, SysError> {
        set_number(fd, TCP, TCP_REPAIR, REPAIR_ON)?;
        Ok(Self { fd, reuse, stays: false })
    }

    /// Leaves the mode on: the socket can be closed without a word to its peer.
    pub fn keep(mut self) {
        self.stays = true;
    }

    fn queue(&self, queue: i32) -> Result<(), SysError> {
        set_number(self.fd, TCP, TCP_REPAIR_QUEUE, queue)
    }
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        if !self.stays
            && let Err(e) = end(self.fd, self.reuse)
        {
            log::error!("a TCP socket stays in repair mode: {e}");
        }
    }
}

/// Turns the mode off, and puts back what it overwrote.
pub fn end(fd: BorrowedFd<'_>, reuse: i32) -> Result<(), SysError> {
    set_number(fd, TCP, TCP_REPAIR, REPAIR_OFF_QUIETLY)?;
    set_number(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, reuse)
}

impl Connection {
    /// Copies the connection; the socket is as before when this returns.
    pub fn save(
        fd: BorrowedFd<'_>,
        reuse: i32,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Self, SysError> {
        let repair = Repair::start(fd, reuse)?;
        let info = Info::read(fd)?;
        let unknown = SysError { call: "getsockopt(TCP_INFO)", errno: Errno::EBADMSG };
        let state = State::from_number(info.state.into()).ok_or(unknown)?;
        repair.queue(RECEIVE_QUEUE)?;
        let receive_seq = get_number(fd, TCP, TCP_QUEUE_SEQ)? as u32;
        let received = peek(fd, socket::queued(fd)? as usize)?;
        repair.queue(SEND_QUEUE)?;
        let send_seq = get_number(fd, TCP, TCP_QUEUE_SEQ)? as u32;
        let fin = u32::from(state.sent_fin() && !state.fin_is_acknowledged());
        let written = peek(fd, (socket::unsent(fd)? as usize).saturating_sub(fin as usize))?;
        let unsent = (socket::never_sent(fd)? as u32).min(written.len() as u32);
        let has = |bit| info.options & bit != 0;
        let timestamp = if has(TIMESTAMPS) { Some(get_number(fd, TCP, TCP_TIMESTAMP)? as u32) } else { None };
        let negotiated = Negotiated {
            mss: get_number(fd, TCP, libc::TCP_MAXSEG)? as u32,
            scale: has(WINDOW_SCALE).then_some((info.send_scale, info.receive_scale)),
            sack: has(SACK),
            timestamp,
        };
        let mut window = [0; 20];
        let window = match get_option(fd, TCP, TCP_REPAIR_WINDOW, &mut window) {
            Ok(len) => window.get(..len).and_then(Window::parse),
            Err(SysError { errno: Errno::ENOPROTOOPT, .. }) => None,
            Err(e) => return Err(e),
        };
        drop(repair);
        Ok(Self {
            local,
            remote,
            state,
            received,
            receive_seq,
            written,
            unsent,
            send_seq,
            negotiated,
            window,
        })
    }

    /// Makes a fresh socket into this connection, without a packet to the peer.
    ///
    /// Its buffers are as large as the queues need, and stay so: whoever wants their sizes back sets them afterwards.
    pub fn restore(&self, fd: BorrowedFd<'_>, reuse: i32) -> Result<Restored, SysError> {
        self.make_room(fd)?;
        let repair = Repair::start(fd, reuse)?;
        let start =
            |seq: u32, len: usize, fin: bool| seq.wrapping_sub(len as u32).wrapping_sub(u32::from(fin));
        socket::bind(fd, &packet::sockaddr(self.local))?;
        let send_start = start(self.send_seq, self.written.len(), self.state.sent_fin());
        let receive_start = start(self.receive_seq, self.received.len(), self.state.got_fin());
        repair.queue(SEND_QUEUE)?;
        set_number(fd, TCP, TCP_QUEUE_SEQ, send_start as i32)?;
        repair.queue(RECEIVE_QUEUE)?;
        set_number(fd, TCP, TCP_QUEUE_SEQ, receive_start as i32)?;
        socket::connect(fd, &packet::sockaddr(self.remote))?;
        self.restore_negotiated(fd)?;
        write(fd, &self.received)?;
        repair.queue(SEND_QUEUE)?;
        let sent = self.written.len().saturating_sub(self.unsent as usize);
        let (sent, unsent) = self.written.split_at_checked(sent).unwrap_or((&self.written, &[]));
        write(fd, sent)?;
        if let Some(window) = self.window {
            set_option(fd, TCP, TCP_REPAIR_WINDOW, &self.plausible(window).bytes())?;
        }
        let mut unsent = unsent.to_vec();
        if self.state.sent_fin() {
            // What is behind the FIN must be ahead of it in the queue, as if it was sent.
            write(fd, &std::mem::take(&mut unsent))?;
        }
        repair.keep();
        let fd = fd.try_clone_to_owned().map_err(SysError::io("dup"))?;
        Ok(Restored { fd, reuse, unsent })
    }

    fn make_room(&self, fd: BorrowedFd<'_>) -> Result<(), SysError> {
        let room = |bytes: usize| (bytes.saturating_mul(2).min(1 << 29) + (1 << 16)) as i32;
        for (force, plain, bytes) in [
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, self.written.len()),
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, self.received.len()),
        ] {
            if bytes != 0 && get_number(fd, libc::SOL_SOCKET, plain)? < room(bytes) {
                set_number(fd, libc::SOL_SOCKET, force, room(bytes))?;
            }
        }
        Ok(())
    }

    /// The kernel refuses windows that lie about what was received.
    fn plausible(&self, window: Window) -> Window {
        let received = self.receive_seq.wrapping_sub(u32::from(self.state.got_fin()));
        let behind = |seq: u32| (received.wrapping_sub(seq) as i32) < 0;
        Window { rcv_wup: if behind(window.rcv_wup) { received } else { window.rcv_wup }, ..window }
    }

    fn restore_negotiated(&self, fd: BorrowedFd<'_>) -> Result<(), SysError> {
        let Negotiated { mss, scale, sack, timestamp } = self.negotiated;
        let mut options: Vec<u32> = vec![OPTION_MSS, mss];
        if let Some((send, receive)) = scale {
            options.extend([OPTION_WINDOW, u32::from(send) | u32::from(receive) << 16]);
        }
        if sack {
            options.extend([OPTION_SACK, 0]);
        }
        if timestamp.is_some() {
            options.extend([OPTION_TIMESTAMP, 0]);
        }
        let bytes: Vec<u8> = options.iter().flat_map(|word| word.to_ne_bytes()).collect();
        set_option(fd, TCP, TCP_REPAIR_OPTIONS, &bytes)?;
        if let Some(clock) = timestamp {
            set_number(fd, TCP, TCP_TIMESTAMP, clock as i32)?;
        }
        Ok(())
    }

    /// Takes the restored, established connection to its state, the way the protocol would.
    ///
    /// The socket may answer a packet, and the answer must not meet a machine that knows nothing of the connection: restore
    /// all connections whose other ends are here, too, before this.
    pub fn reach_state(&self, fd: BorrowedFd<'_>) -> Result<(), SysError> {
        let shut = || {
            use std::os::fd::AsRawFd as _;
            nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Write)
                .map_err(SysError::of("shutdown"))
        };
        let inject = |flags| {
            let is_fin = u32::from(flags == Flags::FinAck);
            let first_unacknowledged = self
                .send_seq
                .wrapping_sub(u32::from(self.state.sent_fin()))
                .wrapping_sub(self.written.len() as u32);
            let segment = Segment {
                from: self.remote,
                to: self.local,
                seq: self.receive_seq.wrapping_sub(is_fin),
                ack: if self.state.fin_is_acknowledged() { self.send_seq } else { first_unacknowledged },
                window: self.window.map_or(u32::from(u16::MAX), |w| w.snd_wnd),
                scale: self.negotiated.scale.map_or(0, |(send, _)| send),
                flags,
            };
            segment.inject()
        };
        match self.state {
            State::FinWait1 => shut(),
            State::FinWait2 => {
                shut()?;
                inject(Flags::Ack)?;
                wait_for(fd, State::FinWait2)
            }
            State::CloseWait => {
                inject(Flags::FinAck)?;
                wait_for(fd, State::CloseWait)
            }
            State::LastAck => {
                inject(Flags::FinAck)?;
                wait_for(fd, State::CloseWait)?;
                shut()
            }
            State::Closing => {
                shut()?;
                inject(Flags::FinAck)?;
                wait_for(fd, State::Closing)
            }
            _ => Ok(()),
        }
    }
}

/// A restored connection, still in repair mode.
#[derive(Debug)]
pub struct Restored {
    fd: OwnedFd,
    reuse: i32,
    unsent: Vec<u8>,
}

impl Restored {
    /// Lets it talk to its peer.
    pub fn release(self) -> Result<(), SysError> {
        let fd = self.fd.as_fd();
        // With the probe, which makes the peer send again what it could not.
        set_number(fd, TCP, TCP_REPAIR, 0)?;
        set_number(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, self.reuse)?;
        write(fd, &self.unsent)
    }
}

/// Copies that many bytes of the queue that was chosen.
fn peek(fd: BorrowedFd<'_>, len: usize) -> Result<Vec<u8>, SysError> {
    let mut bytes = vec![0; len];
    if len == 0 {
        return Ok(bytes);
    }
    let received = socket::receive(fd, &mut bytes, libc::MSG_PEEK | libc::MSG_DONTWAIT)?;
    if received.len != len {
        return Err(SysError { call: "recvmsg(MSG_PEEK) (short)", errno: Errno::EIO });
    }
    Ok(bytes)
}

/// Queues all bytes.
fn write(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), SysError> {
    while !bytes.is_empty() {
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        let sent = socket::send(fd, piece, &Along::default(), libc::MSG_DONTWAIT)?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Packets over the loopback device arrive at once, as a rule.
fn wait_for(fd: BorrowedFd<'_>, wanted: State) -> Result<(), SysError> {
    for _ in 0..200 {
        if state(fd)?.0 == wanted {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(SysError { call: "reach the state of the TCP connection", errno: Errno::ETIMEDOUT })
}

#[cfg(test)]
mod tests;
