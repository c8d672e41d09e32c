//! What the kernel tells about packet sockets, and getsockopt(2) does not: groups, rings, who listens where (sock_diag(7)).

use netlink_bindings::traits::{NetlinkRequest, Protocol};
use proto::messages::{PacketMclist, PacketRing};

use super::sock_diag;
use crate::error::SysError;

/// From `include/uapi/linux/sock_diag.h` and `include/uapi/linux/packet_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_DUMP: u16 = 0x300;
const SHOW_INFO: u32 = 1;
const SHOW_MCLIST: u32 = 2;
const SHOW_RING_CFG: u32 = 4;
const SHOW_FANOUT: u32 = 8;
const INFO: u16 = 0;
const MCLIST: u16 = 1;
const RX_RING: u16 = 2;
const TX_RING: u16 = 3;
const FANOUT: u16 = 4;
/// `struct packet_diag_msg`.
const MESSAGE: usize = 16;
/// `struct packet_diag_mclist`, and where the address is in it.
const GROUP: usize = 44;
const GROUP_ADDRESS: usize = 12;

/// What is known of one packet socket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PacketFacts {
    /// Which packets it gets, in the order of the machine.
    pub protocol: u16,
    /// The interface that it is bound to; 0 for all.
    pub interface: u32,
    /// From which length on packets are copied rather than put into the ring.
    pub copy_thresh: u32,
    /// What it has joined, with how often in the second place.
    pub groups: Vec<(PacketMclist, u32)>,
    /// The ring of what comes in.
    pub rx_ring: Option<PacketRing>,
    /// The ring of what goes out.
    pub tx_ring: Option<PacketRing>,
    /// Whether it shares its packets with others.
    pub has_fanout: bool,
}

/// A question about all packet sockets.
struct Question(Vec<u8>);

impl NetlinkRequest for Question {
    fn protocol(&self) -> Protocol {
        Protocol::Raw { protonum: 4, request_type: SOCK_DIAG_BY_FAMILY }
    }

    fn flags(&self) -> u16 {
        NLM_F_DUMP
    }

    fn payload(&self) -> &[u8] {
        &self.0
    }

    type ReplyType<'a> = &'a [u8];

    fn decode_reply(payload: &[u8]) -> &[u8] {
        payload
    }
}

/// The packet socket with this inode number.
pub fn find(ino: u32) -> Result<Option<PacketFacts>, SysError> {
    // `struct packet_diag_req`: family, protocol, padding, inode number, what to show, any cookie.
    let mut question = vec![libc::AF_PACKET as u8, 0, 0, 0, 0, 0, 0, 0];
    question.extend((SHOW_INFO | SHOW_MCLIST | SHOW_RING_CFG | SHOW_FANOUT).to_ne_bytes());
    question.extend([0xff; 8]);
    let mut found = None;
    sock_diag::ask(&Question(question), |payload| {
        if word(payload, 4) == ino {
            found = parse(payload);
        }
    })?;
    Ok(found)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b))
}

fn parse(payload: &[u8]) -> Option<PacketFacts> {
    let mut facts = PacketFacts { protocol: half(payload, 2), ..PacketFacts::default() };
    let mut rest = payload.get(MESSAGE..)?;
    while let Some(value) = rest.get(4..usize::from(half(rest, 0))) {
        match half(rest, 2) {
            INFO => (facts.interface, facts.copy_thresh) = (word(value, 0), word(value, 12)),
            MCLIST => facts.groups = value.as_chunks::<GROUP>().0.iter().map(|g| group(g)).collect(),
            RX_RING => facts.rx_ring = Some(ring(value)),
            TX_RING => facts.tx_ring = Some(ring(value)),
            FANOUT => facts.has_fanout = true,
            _ => {}
        }
        rest = rest.get(4 + value.len().next_multiple_of(4)..).unwrap_or_default();
    }
    Some(facts)
}

fn group(bytes: &[u8]) -> (PacketMclist, u32) {
    let len = usize::from(half(bytes, 10));
    let address = bytes.get(GROUP_ADDRESS..GROUP_ADDRESS + len).unwrap_or_default();
    let group = PacketMclist { index: word(bytes, 0), r#type: half(bytes, 8).into(), addr: address.to_vec() };
    (group, word(bytes, 4))
}

/// `struct packet_diag_ring`.
fn ring(bytes: &[u8]) -> PacketRing {
    PacketRing {
        block_size: word(bytes, 0),
        block_nr: word(bytes, 4),
        frame_size: word(bytes, 8),
        frame_nr: word(bytes, 12),
        retire_tmo: word(bytes, 16),
        sizeof_priv: word(bytes, 20),
        features: word(bytes, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        // As Linux 6.18 gave it for a socket bound to the first interface, with a ring of four blocks.
        let mut payload = vec![17, 3, 3, 0, 0xc6, 0x87, 0x19, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        payload.extend([28, 0, 0, 0]);
        payload.extend(words(&[1, 1, 0, 7, 0, 1]));
        payload.extend([4, 0, 1, 0, 32, 0, 2, 0]);
        payload.extend(words(&[4096, 4, 2048, 8, 0, 0, 0]));
        let facts = parse(&payload).unwrap();
        assert_eq!((facts.protocol, facts.interface, facts.copy_thresh), (3, 1, 7));
        assert_eq!(facts.rx_ring.unwrap().frame_nr, 8);
        assert_eq!((facts.tx_ring, facts.groups), (None, Vec::new()));
        for len in 0..payload.len() {
            parse(&payload[..len]);
        }
    }
}
