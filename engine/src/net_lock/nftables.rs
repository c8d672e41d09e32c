//! Locks by nftables, over netlink.
//!
//! A lock is a table of our own: two chains, in front of all others at the way in and out, drop packets whose addresses are in
//! a set. Packets that we make ourselves carry a mark and pass. The table of a lock that ends with us belongs to our netlink
//! socket (`NFT_TABLE_F_OWNER`), so the kernel removes it when we end, however we end. The note is the table's user data.

use std::ffi::{CStr, CString};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use netlink_bindings::nftables::{Chained, Nfgenmsg, PushDataAttrs, PushExprListAttrs};
use netlink_bindings::traits::Pusher;
use nix::errno::Errno;

use super::{Ends, is_ours};
use crate::error::SysError;
use crate::netlink::{NETLINK_NETFILTER, Netlink, attribute, text};
use crate::sys::socket;
use crate::tcp_repair::packet;

/// From `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_INET: u8 = 1;
const TABLE_OWNER: u32 = 2;
const GETTABLE: u16 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
/// Hooks of `include/uapi/linux/netfilter.h`: what is for us, and what is from us.
const HOOKS: [(&CStr, u32); 2] = [(c"in", 1), (c"out", 3)];
/// In front of everything but connection tracking.
const PRIORITY: i32 = -150;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
/// Registers: one of 16 bytes, and the first of those of 4.
const REGISTER: u32 = 1;
const FIRST_WORD: u32 = 8;
const META_MARK: u32 = 3;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// The number of the first message of a transaction.
const FIRST: u32 = 1;
/// Elements in one message: nested attributes end at 64 KiB.
const AT_ONCE: usize = 400;
/// Messages of one write: the kernel wants a transaction in one piece, and its default for a piece is some 200 KiB.
const ROOM: i32 = 32 << 20;
/// A family of addresses, as packets have them.
struct Family {
    set: &'static CStr,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    number: u8,
    /// Where source and destination are in the header, and how long they are.
    source: u32,
    destination: u32,
    len: u32,
}

const FAMILIES: [Family; 2] = [
    Family { set: c"ipv4", number: 2, source: 12, destination: 16, len: 4 },
    Family { set: c"ipv6", number: 10, source: 8, destination: 24, len: 16 },
];

/// A table that ends with us.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "closing it removes the table")] Netlink);

impl Held {
    /// Holds packets of these connections back until this is dropped.
    pub fn new(name: &str, note: &[u8], connections: &[Ends]) -> Result<Self, SysError> {
        let socket = open()?;
        let (bytes, last) = finish(build(&table_name(name)?, note, TABLE_OWNER, connections));
        transact(&socket, &bytes, last)?;
        Ok(Self(socket))
    }
}

/// A lock that can be made by a single write.
#[derive(Debug)]
pub struct Prepared {
    socket: Netlink,
    bytes: Vec<u8>,
    last: u32,
}

impl Prepared {
    /// A lock that lasts until [`remove`].
    pub fn new(name: &str, note: &[u8], connections: &[Ends]) -> Result<Self, SysError> {
        let socket = open()?;
        let (bytes, last) = finish(build(&table_name(name)?, note, 0, connections));
        Ok(Self { socket, bytes, last })
    }

    /// Makes it.
    pub fn persist(&self) -> Result<(), SysError> {
        transact(&self.socket, &self.bytes, self.last)
    }

    /// The socket, and what is written to it, for whoever can do no more than that.
    pub fn parts(&self) -> (RawFd, &[u8]) {
        (self.socket.as_fd().as_raw_fd(), &self.bytes)
    }
}

/// Lets packets pass again; no table of that name is as good.
pub fn remove(name: &str) -> Result<(), SysError> {
    let socket = open()?;
    let name = table_name(name)?;
    let mut batch = begin();
    batch.request().op_deltable_do(&header()).encode().push_name(&name);
    let (bytes, last) = finish(batch);
    match transact(&socket, &bytes, last) {
        Err(SysError { errno: Errno::ENOENT, .. }) => Ok(()),
        done => done,
    }
}

/// Names and notes of our tables.
pub fn list() -> Result<Vec<(String, Vec<u8>)>, SysError> {
    let tables =
        open()?.list("NFT_MSG_GETTABLE", NFNL_SUBSYS_NFTABLES << 8 | GETTABLE, header().as_slice())?;
    let named = tables.iter().map(|table| {
        let value = |kind| attribute(&table.payload, Nfgenmsg::len(), kind).unwrap_or_default();
        (text(value(TABLE_NAME)), value(TABLE_USERDATA).to_vec())
    });
    Ok(named.filter(|(name, _)| is_ours(name)).collect())
}

fn open() -> Result<Netlink, SysError> {
    let socket = socket::create(libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_NETFILTER)?;
    socket::set_number(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, ROOM)?;
    // An end of file for a kernel that answers less than it was asked.
    let patience = [5_u64.to_ne_bytes(), 0_u64.to_ne_bytes()].concat();
    socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    Ok(Netlink::over(socket))
}

fn table_name(name: &str) -> Result<CString, SysError> {
    CString::new(name).map_err(|_zero_byte| SysError { call: "name of a table", errno: Errno::EINVAL })
}

fn header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = NFPROTO_INET;
    header
}

/// Header of the messages that begin and end a transaction.
fn bounds() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header._res_id_be = NFNL_SUBSYS_NFTABLES.to_be();
    header
}

fn begin() -> Chained<'static> {
    let mut batch = Chained::new(FIRST);
    batch.request().op_batch_begin_do(&bounds());
    batch
}

/// A whole lock: table, chains, sets and what is in them.
fn build(table: &CStr, note: &[u8], flags: u32, connections: &[Ends]) -> Chained<'static> {
    let mut batch = begin();
    let connections = without_mirrors(connections);
    let mut request = batch.request().set_create().op_newtable_do(&header());
    request.encode().push_name(table).push_flags(flags).push_userdata(note);
    drop(request);
    for (number, family) in FAMILIES.iter().enumerate() {
        batch
            .request()
            .set_create()
            .op_newset_do(&header())
            .encode()
            .push_table(table)
            .push_name(family.set)
            .push_flags(0)
            .push_key_type(0)
            .push_key_len(key_len(family))
            .push_id(number as u32 + 1);
        let keys: Vec<Vec<u8>> = connections.iter().flat_map(|ends| keys(family, *ends)).collect();
        for keys in keys.chunks(AT_ONCE) {
            let mut request = batch.request().set_create().op_newsetelem_do(&header());
            let mut elements = request.encode().push_table(table).push_set(family.set).nested_elements();
            for key in keys {
                elements = elements.nested_elem().nested_key().push_value(key).end_nested().end_nested();
            }
        }
    }
    for (chain, hook) in HOOKS {
        batch
            .request()
            .set_create()
            .op_newchain_do(&header())
            .encode()
            .push_table(table)
            .push_name(chain)
            .nested_hook()
            .push_num(hook)
            .push_priority(PRIORITY)
            .end_nested()
            .push_policy(ACCEPT)
            .push_type(c"filter");
        let mut rule = batch.request().set_create().set_append().op_newrule_do(&header());
        let list = rule.encode().push_table(table).push_chain(chain).nested_expressions();
        let list = compare(meta(list, META_MARK), &packet::MARK.to_ne_bytes());
        drop(verdict(list, ACCEPT));
        drop(rule);
        for family in &FAMILIES {
            let mut rule = batch.request().set_create().set_append().op_newrule_do(&header());
            let list = rule.encode().push_table(table).push_chain(chain).nested_expressions();
            let list = compare(meta(list, META_FAMILY), &[family.number]);
            let list = compare(meta(list, META_PROTOCOL), &[libc::IPPROTO_TCP as u8]);
            let words = family.len / 4;
            let list = load(list, FIRST_WORD, NETWORK_HEADER, family.source, family.len);
            let list = load(list, FIRST_WORD + words, TRANSPORT_HEADER, 0, 2);
            let list = load(list, FIRST_WORD + words + 1, NETWORK_HEADER, family.destination, family.len);
            let list = load(list, FIRST_WORD + 2 * words + 1, TRANSPORT_HEADER, 2, 2);
            drop(verdict(look_up(list, family.set), DROP));
        }
    }
    batch
}

/// Connections, each once, though both of its ends may be among them.
fn without_mirrors(connections: &[Ends]) -> Vec<Ends> {
    let mut once: Vec<Ends> = connections.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect();
    once.sort_unstable();
    once.dedup();
    once
}

fn key_len(family: &Family) -> u32 {
    2 * (family.len + 4)
}

/// The keys of a connection, for packets of each direction; none if it is of the other family.
fn keys(family: &Family, (local, remote): Ends) -> Vec<Vec<u8>> {
    let octets = |address: SocketAddr| match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let key = |from: SocketAddr, to: SocketAddr| {
        let mut key = Vec::with_capacity(40);
        for end in [from, to] {
            key.extend(octets(end));
            key.extend(end.port().to_be_bytes());
            // A register is filled up.
            key.extend([0; 2]);
        }
        key
    };
    let keys = vec![key(local, remote), key(remote, local)];
    keys.into_iter().filter(|key| key.len() == key_len(family) as usize).collect()
}

fn meta<P: Pusher>(list: PushExprListAttrs<P>, key: u32) -> PushExprListAttrs<P> {
    list.nested_elem().nested_data_meta().push_key(key).push_dreg(REGISTER).end_nested().end_nested()
}

fn compare<P: Pusher>(list: PushExprListAttrs<P>, value: &[u8]) -> PushExprListAttrs<P> {
    let compare = list.nested_elem().nested_data_cmp().push_sreg(REGISTER).push_op(0);
    compare.nested_data().push_value(value).end_nested().end_nested().end_nested()
}

fn load<P: Pusher>(
    list: PushExprListAttrs<P>,
    register: u32,
    base: u32,
    offset: u32,
    len: u32,
) -> PushExprListAttrs<P> {
    let load = list.nested_elem().nested_data_payload().push_dreg(register).push_base(base);
    load.push_offset(offset).push_len(len).end_nested().end_nested()
}

/// Compares what was loaded with the elements of a set.
fn look_up<P: Pusher>(list: PushExprListAttrs<P>, set: &CStr) -> PushExprListAttrs<P> {
    let mut lookup = list.nested_elem().nested_data_lookup().push_set(set);
    // NFTA_LOOKUP_SREG is 2 in the kernel's header; netlink-bindings 0.3 writes 3, which is the destination.
    let bytes = lookup.as_vec_mut();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend(FIRST_WORD.to_be_bytes());
    lookup.end_nested().end_nested()
}

fn verdict<P: Pusher>(list: PushExprListAttrs<P>, code: u32) -> PushExprListAttrs<P> {
    let data: PushDataAttrs<_> = list.nested_elem().nested_data_immediate().push_dreg(0).nested_data();
    data.nested_verdict().push_code(code).end_nested().end_nested().end_nested().end_nested()
}

/// The bytes of a transaction, and the number of the message that is acknowledged.
fn finish(mut batch: Chained<'static>) -> (Vec<u8>, u32) {
    batch.request().op_batch_end_do(&bounds());
    let mut bytes = batch.finalize().buf().clone();
    let last = acknowledge_last_only(&mut bytes);
    (bytes, last)
}

/// Has the kernel do all or nothing.
fn transact(socket: &Netlink, bytes: &[u8], last: u32) -> Result<(), SysError> {
    socket.transact_prepared("nftables transaction", bytes, FIRST..=last)
}

/// Only the message before the last, which ends the transaction, is to be acknowledged; errors come anyway. Its number.
fn acknowledge_last_only(bytes: &mut [u8]) -> u32 {
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(length) = bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_ne_bytes(*b)) {
        starts.push(at);
        at += (length.max(16) as usize).next_multiple_of(4);
    }
    let chosen = starts.len().checked_sub(2).and_then(|n| starts.get(n)).copied().unwrap_or(0);
    for start in starts {
        if let Some(flags) = bytes.get_mut(start + 6..).and_then(<[u8]>::first_chunk_mut::<2>) {
            let ack = if start == chosen { libc::NLM_F_ACK as u16 } else { 0 };
            *flags = (u16::from_ne_bytes(*flags) & !(libc::NLM_F_ACK as u16) | ack).to_ne_bytes();
        }
    }
    bytes.get(chosen + 8..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn connect(host: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((host, 0)).ok()?;
        let client = TcpStream::connect(listener.local_addr().ok()?).ok()?;
        Some((client, listener.accept().ok()?.0))
    }

    fn ends(stream: &TcpStream) -> Ends {
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    #[test]
    fn packets_are_held_back_until_the_lock_ends() {
        for host in ["127.0.0.1", "::1"] {
            let Some((mut client, mut server)) = connect(host) else { continue };
            let name = crate::net_lock::new_name(3);
            let Ok(lock) = Held::new(&name, b"", &[ends(&client)]) else { return };
            let (mut free, mut other) = connect(host).unwrap();
            client.write_all(b"held").unwrap();
            free.write_all(b"free").unwrap();
            let mut bytes = [0; 4];
            other.read_exact(&mut bytes).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(server.read(&mut bytes).is_err(), "the lock lets packets pass");
            drop(lock);
            server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            server.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"held");
        }
    }

    #[test]
    fn a_lasting_lock_is_found_and_removed() {
        let name = format!("{}test-{}", crate::net_lock::PREFIX, std::process::id());
        let ends: Vec<Ends> = (1..2000_u16)
            .map(|port| (SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([192, 0, 2, 2], 80))))
            .collect();
        if Prepared::new(&name, b"note", &ends).and_then(|lock| lock.persist()).is_err() {
            assert!(!nix::unistd::geteuid().is_root(), "root cannot lock");
            return;
        }
        let noted = (name.clone(), b"note".to_vec());
        assert!(list().unwrap().contains(&noted));
        remove(&name).unwrap();
        assert!(!list().unwrap().contains(&noted));
        remove(&name).unwrap();
    }
}
