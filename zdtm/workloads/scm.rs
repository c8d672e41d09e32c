//! What workloads with descriptors in flight have in common.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::socket::{UnixAddr, UnixCredentials};
use zdtm::ensure_eq;
use zdtm::workload::{Failure, Verdict};

/// Sends words with descriptors.
pub(crate) fn send(socket: &OwnedFd, words: &[u8], fds: &[&OwnedFd]) -> Verdict {
    let fds: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(words)], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// Receives words, which must be these, and what came with them.
pub(crate) fn receive(
    socket: &OwnedFd,
    words: &[u8],
) -> Result<(Vec<OwnedFd>, Option<UnixCredentials>), Failure> {
    let mut buffer = [0; 256];
    let mut control = nix::cmsg_space!([RawFd; 64], UnixCredentials);
    let (mut fds, mut credentials) = (Vec::new(), None);
    let length = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        for along in message.cmsgs()? {
            match along {
                ControlMessageOwned::ScmRights(new) => {
                    // SAFETY: the kernel just made the descriptors, and nobody else knows them.
                    fds.extend(new.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
                ControlMessageOwned::ScmCredentials(sent) => credentials = Some(sent),
                _ => {}
            }
        }
        message.bytes
    };
    ensure_eq!(&buffer[..length], words, "words");
    Ok((fds, credentials))
}
