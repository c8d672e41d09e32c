//! Options that sockets of all families have (socket(7)), and their form in images.

use std::os::fd::BorrowedFd;

use proto::messages::SkOptsEntry;

use crate::error::SysError;
use crate::sys::socket::{get_number, get_option, set_number, set_option};

/// From `include/uapi/asm-generic/socket.h`.
const SO_BUF_LOCK: i32 = 72;

/// Reads all options.
pub fn read(fd: BorrowedFd<'_>) -> Result<SkOptsEntry, SysError> {
    let number = |name| get_number(fd, libc::SOL_SOCKET, name);
    let flag = |name| number(name).map(|value| Some(value != 0));
    let time = |name| -> Result<(u64, u64), SysError> {
        let mut value = [0; 16];
        get_option(fd, libc::SOL_SOCKET, name, &mut value)?;
        let (seconds, micros) = value.split_at(8);
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
        Ok((word(seconds), word(micros)))
    };
    let (so_snd_tmo_sec, so_snd_tmo_usec) = time(libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = time(libc::SO_RCVTIMEO)?;
    let mut linger = [0; 8];
    get_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger)?;
    let (on, seconds) = linger.split_at(4);
    let seconds = seconds.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
    Ok(SkOptsEntry {
        so_sndbuf: number(libc::SO_SNDBUF)? as u32,
        so_rcvbuf: number(libc::SO_RCVBUF)? as u32,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(number(libc::SO_PRIORITY)? as u32),
        so_rcvlowat: Some(number(libc::SO_RCVLOWAT)? as u32),
        so_mark: Some(number(libc::SO_MARK)? as u32).filter(|mark| *mark != 0),
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(number(libc::SO_OOBINLINE)? as u32),
        so_linger: on.iter().any(|byte| *byte != 0).then_some(seconds),
        so_buf_lock: number(SO_BUF_LOCK).ok().map(|lock| lock as u32),
        ..SkOptsEntry::default()
    })
}

/// Sets all options that differ from what a new socket has; `SO_REUSEADDR` comes after binding.
pub fn write(fd: BorrowedFd<'_>, options: &SkOptsEntry) -> Result<(), SysError> {
    let is = read(fd)?;
    let number = |name, value: u32, is: u32| {
        if value == is { Ok(()) } else { set_number(fd, libc::SOL_SOCKET, name, value as i32) }
    };
    let flag = |name, value: Option<bool>, is: Option<bool>| match value {
        Some(value) if Some(value) != is => set_number(fd, libc::SOL_SOCKET, name, i32::from(value)),
        _ => Ok(()),
    };
    // The kernel doubles what it is given, to have room for its own.
    number(libc::SO_SNDBUFFORCE, options.so_sndbuf / 2, is.so_sndbuf / 2)?;
    number(libc::SO_RCVBUFFORCE, options.so_rcvbuf / 2, is.so_rcvbuf / 2)?;
    if let Some(lock) = options.so_buf_lock {
        set_number(fd, libc::SOL_SOCKET, SO_BUF_LOCK, lock as i32)?;
    }
    let times = [
        (libc::SO_SNDTIMEO, options.so_snd_tmo_sec, options.so_snd_tmo_usec),
        (libc::SO_RCVTIMEO, options.so_rcv_tmo_sec, options.so_rcv_tmo_usec),
    ];
    for (name, seconds, micros) in
        times.into_iter().filter(|(_, seconds, micros)| (*seconds, *micros) != (0, 0))
    {
        set_option(fd, libc::SOL_SOCKET, name, &[seconds.to_ne_bytes(), micros.to_ne_bytes()].concat())?;
    }
    number(libc::SO_PRIORITY, options.so_priority.unwrap_or(0), is.so_priority.unwrap_or(0))?;
    number(libc::SO_RCVLOWAT, options.so_rcvlowat.unwrap_or(1), is.so_rcvlowat.unwrap_or(1))?;
    number(libc::SO_MARK, options.so_mark.unwrap_or(0), is.so_mark.unwrap_or(0))?;
    flag(libc::SO_DONTROUTE, options.so_dontroute, is.so_dontroute)?;
    flag(libc::SO_NO_CHECK, options.so_no_check, is.so_no_check)?;
    flag(libc::SO_REUSEPORT, options.so_reuseport, is.so_reuseport)?;
    flag(libc::SO_BROADCAST, options.so_broadcast, is.so_broadcast)?;
    flag(libc::SO_KEEPALIVE, options.so_keepalive, is.so_keepalive)?;
    number(libc::SO_OOBINLINE, options.so_oobinline.unwrap_or(0), is.so_oobinline.unwrap_or(0))?;
    if let Some(seconds) = options.so_linger {
        let linger = [1_u32.to_ne_bytes(), seconds.to_ne_bytes()].concat();
        set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
    }
    Ok(())
}
