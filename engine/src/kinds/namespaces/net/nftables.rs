//! Tables of nftables, and all that is in them, over netlink (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! What the kernel lists, it takes again: tables, chains, sets with their elements, objects, flow tables and rules are kept as
//! messages, and sent in one transaction. No program is called for that. Images of others have text instead (`programs.rs`).

use proto::catalogue::STASIS_NFTABLES;
use proto::messages::StasisNetlinkMessage;

use super::NetRefusal;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::net_lock;
use crate::netlink::{
    APPEND, CREATE, NETLINK_NETFILTER, Netlink, attribute, attributes, push, push_nested, text, without,
};

/// Messages: the subsystem is the upper byte (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `struct nfgenmsg`: family, version, and a number that bounds of transactions use.
const HEADER: usize = 4;

/// A sort of object: the number that makes one, which of its attributes are the kernel's own, and what it is called.
struct Sort {
    new: u16,
    told: &'static [u16],
    what: &'static str,
}

/// In the order in which they are made: what others refer to is there before them.
const TABLE: Sort = Sort { new: 0, told: &[3, 4, 5, 7], what: "table" };
const CHAIN: Sort = Sort { new: 3, told: &[2, 6, 9], what: "chain" };
const SET: Sort = Sort { new: 9, told: &[10, 14, 16, 19, 20], what: "set" };
const OBJECT: Sort = Sort { new: 18, told: &[5, 6, 7], what: "object" };
const FLOWTABLE: Sort = Sort { new: 22, told: &[4, 5, 6], what: "flow table" };
const ELEMENTS: Sort = Sort { new: 12, told: &[], what: "elements" };
const RULE: Sort = Sort { new: 6, told: &[3, 6, 8], what: "rule" };
const SORTS: [&Sort; 7] = [&TABLE, &CHAIN, &SET, &OBJECT, &FLOWTABLE, &ELEMENTS, &RULE];

/// Attributes.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_FLAGS: u16 = 10;
const SET_NAME: u16 = 2;
const SET_ID: u16 = 10;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
/// A table that ends with a socket of its owner; a chain that is a part of a rule.
const TABLE_OWNED: u32 = 2;
const CHAIN_BOUND: u32 = 4;

fn big_endian(value: Option<&[u8]>) -> u32 {
    value.and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// All that there is, as messages that make it again. What cannot be kept goes to `problems`.
fn list(netlink: &mut Netlink, problems: &mut Vec<Problem>) -> Result<Vec<StasisNetlinkMessage>, SysError> {
    let mut all = Vec::new();
    for sort in SORTS {
        if sort.new == ELEMENTS.new {
            all.extend(list_elements(netlink, &all)?);
            continue;
        }
        // Without nftables there are none, and with an older kernel not all sorts.
        let found = match netlink.list("NFT_MSG_GET", SUBSYSTEM | (sort.new + 1), &[0; HEADER]) {
            Err(SysError { errno: nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP, .. }) => {
                continue;
            }
            found => found?,
        };
        for message in found.into_iter().filter(|message| message.kind == SUBSYSTEM | sort.new) {
            let table = attribute(&message.payload, HEADER, TABLE_NAME).map(text).unwrap_or_default();
            if net_lock::is_ours(&table) || is_of_lock(sort, &message.payload) {
                continue;
            }
            if let Some(refusal) = refuse(sort, &message.payload) {
                let name = format!("{} of table {table}", sort.what);
                problems.push(Problem::new(refusal).object(Object::Named { kind: "nftables", name }));
            }
            let payload = without(&message.payload, HEADER, sort.told);
            all.push(StasisNetlinkMessage { r#type: sort.new.into(), payload });
        }
    }
    Ok(all)
}

/// Whether it is a chain of a lock of ours that iptables made, or a rule of one, or one that leads to one.
fn is_of_lock(sort: &Sort, payload: &[u8]) -> bool {
    /// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CHAIN`.
    const VERDICT: [u16; 3] = [2, 2, 2];
    let is_ours = |name: Option<&[u8]>| name.is_some_and(|name| net_lock::is_ours(&text(name)));
    match sort.new {
        3 => is_ours(attribute(payload, HEADER, CHAIN_NAME)),
        6 => {
            let expressions = attribute(payload, HEADER, RULE_EXPRESSIONS).unwrap_or_default();
            let jumps = attributes(expressions, 0).any(|(_, expression)| {
                let data = attribute(expression, 0, 2).unwrap_or_default();
                is_ours(VERDICT.iter().try_fold(data, |nested, kind| attribute(nested, 0, *kind)))
            });
            jumps || is_ours(attribute(payload, HEADER, RULE_CHAIN))
        }
        _ => false,
    }
}

fn refuse(sort: &Sort, payload: &[u8]) -> Option<NetRefusal> {
    let flags = |kind| big_endian(attribute(payload, HEADER, kind));
    match sort.new {
        0 if flags(TABLE_FLAGS) & TABLE_OWNED != 0 => Some(NetRefusal::OwnedTable),
        3 if flags(CHAIN_FLAGS) & CHAIN_BOUND != 0 => Some(NetRefusal::BoundChain),
        _ => None,
    }
}

/// Elements of the sets among these messages.
fn list_elements(
    netlink: &mut Netlink,
    all: &[StasisNetlinkMessage],
) -> Result<Vec<StasisNetlinkMessage>, SysError> {
    let mut found = Vec::new();
    for set in all.iter().filter(|message| message.r#type == u32::from(SET.new)) {
        let mut request = set.payload.get(..HEADER).unwrap_or_default().to_vec();
        for kind in [TABLE_NAME, SET_NAME] {
            push(&mut request, kind, attribute(&set.payload, HEADER, kind).unwrap_or_default());
        }
        for message in netlink.list("NFT_MSG_GETSETELEM", SUBSYSTEM | (ELEMENTS.new + 1), &request)? {
            if message.kind == SUBSYSTEM | ELEMENTS.new {
                found.push(StasisNetlinkMessage { r#type: ELEMENTS.new.into(), payload: message.payload });
            }
        }
    }
    Ok(found)
}

fn open_and_list(problems: &mut Vec<Problem>) -> Result<Vec<StasisNetlinkMessage>, Problem> {
    match Netlink::open(NETLINK_NETFILTER) {
        // A kernel without netfilter.
        Err(SysError { errno: nix::errno::Errno::EPROTONOSUPPORT, .. }) => Ok(Vec::new()),
        Err(e) => Err(Problem::new(e)),
        Ok(mut netlink) => list(&mut netlink, problems).while_trying_to("list tables of nftables"),
    }
}

/// Finds what cannot be dumped.
pub(super) fn look(problems: &mut Vec<Problem>) {
    if let Err(problem) = open_and_list(problems) {
        problems.push(problem);
    }
}

/// A table that was dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// `NFPROTO_*` of `include/uapi/linux/netfilter.h`.
    pub(super) family: u8,
    pub(super) name: String,
    /// Whether rules in it use extensions of iptables (`xt_*`), whose words nft does not take.
    pub(super) has_extensions: bool,
}

pub(super) fn dump(id: u32, images: &mut NewImages) -> Result<Vec<Table>, Problem> {
    let all = open_and_list(&mut Vec::new())?;
    if !all.is_empty() {
        images.write(&STASIS_NFTABLES, id.into(), &all)?;
    }
    Ok(tables(&all))
}

/// The tables among these messages.
fn tables(all: &[StasisNetlinkMessage]) -> Vec<Table> {
    let place = |message: &StasisNetlinkMessage| {
        let name = attribute(&message.payload, HEADER, TABLE_NAME).map(text).unwrap_or_default();
        (message.payload.first().copied().unwrap_or_default(), name)
    };
    let of = |sort: &'static Sort| all.iter().filter(|message| message.r#type == u32::from(sort.new));
    let extended: Vec<(u8, String)> =
        of(&RULE).filter(|rule| has_extension(&rule.payload)).map(place).collect();
    let table = |message| {
        let (family, name) = place(message);
        let has_extensions = extended.iter().any(|(of, called)| (*of, called) == (family, &name));
        Table { family, name, has_extensions }
    };
    of(&TABLE).map(table).collect()
}

/// Whether a rule has an expression that is an extension of iptables.
fn has_extension(rule: &[u8]) -> bool {
    let expressions = attribute(rule, HEADER, RULE_EXPRESSIONS).unwrap_or_default();
    attributes(expressions, 0).any(|(_, expression)| {
        matches!(attribute(expression, 0, 1).map(text).as_deref(), Some("match" | "target"))
    })
}

pub(super) fn restore(images: &Images, id: u32) -> Result<(), Problem> {
    if !images.has(&STASIS_NFTABLES, id.into()) {
        return Ok(());
    }
    let all: Vec<StasisNetlinkMessage> = images.read(&STASIS_NFTABLES, id.into())?;
    if all.iter().any(|message| SORTS.iter().all(|sort| u32::from(sort.new) != message.r#type)) {
        return Err(invalid(&STASIS_NFTABLES, id.into(), "a message makes nothing"));
    }
    let bounds = [0, 0, 0, (SUBSYSTEM >> 8) as u8].to_vec();
    let mut batch = vec![(BATCH_BEGIN, 0, bounds.clone())];
    for (set, message) in (1_u32..).zip(all) {
        let mut payload = message.payload;
        let kind = message.r#type as u16;
        if kind == SET.new {
            // By which the same transaction may refer to it.
            push(&mut payload, SET_ID, &set.to_be_bytes());
        }
        if kind == RULE.new {
            add_compat(&mut payload);
        }
        let flags = if kind == RULE.new { APPEND } else { CREATE & !(libc::NLM_F_EXCL as u16) };
        batch.push((SUBSYSTEM | kind, flags, payload));
    }
    batch.push((BATCH_END, 0, bounds));
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    netlink.transact("nftables transaction", &batch).while_trying_to("restore tables of nftables")
}

/// A rule with extensions of iptables needs to say which protocol it is for, which the kernel takes and does not tell: it is
/// what the rule itself compares the packet's protocol with.
fn add_compat(payload: &mut Vec<u8>) {
    let expressions = attribute(payload, HEADER, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
    let names: Vec<(String, &[u8])> = attributes(&expressions, 0)
        .map(|(_, expression)| {
            let name = attribute(expression, 0, 1).map(text).unwrap_or_default();
            (name, attribute(expression, 0, 2).unwrap_or_default())
        })
        .collect();
    if !has_extension(payload) {
        return;
    }
    let loads_protocol = |(name, data): &(String, &[u8])| {
        /// `NFT_META_L4PROTO`, and the place of the protocol in a header of IPv4 and of IPv6.
        const L4PROTO: u32 = 16;
        match name.as_str() {
            "meta" => big_endian(attribute(data, 0, 2)) == L4PROTO,
            "payload" => {
                let field = |kind| big_endian(attribute(data, 0, kind));
                field(2) == 1 && matches!(field(3), 6 | 9) && field(4) == 1
            }
            _ => false,
        }
    };
    // NFTA_CMP_OP 0 is NFT_CMP_EQ; NFTA_CMP_DATA holds NFTA_DATA_VALUE.
    let compared = names.windows(2).find_map(|pair| match pair {
        [load, (name, data)] if loads_protocol(load) && name == "cmp" => {
            let value = attribute(attribute(data, 0, 3)?, 0, 1)?.first()?;
            Some((*value, big_endian(attribute(data, 0, 2)) != 0))
        }
        _ => None,
    });
    let (protocol, inverted) = compared.unwrap_or_default();
    push_nested(payload, RULE_COMPAT, |compat| {
        push(compat, 1, &u32::from(protocol).to_be_bytes());
        push(compat, 2, &(u32::from(inverted) * 2).to_be_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{number, push_text};

    #[test]
    fn a_rule_of_iptables_says_which_protocol_it_is_for() {
        let mut payload = vec![2, 0, 0, 0];
        push_nested(&mut payload, RULE_EXPRESSIONS, |list| {
            push_nested(list, 1, |meta| {
                push_text(meta, 1, "meta");
                push_nested(meta, 2, |data| push(data, 2, &16_u32.to_be_bytes()));
            });
            push_nested(list, 1, |compare| {
                push_text(compare, 1, "cmp");
                push_nested(compare, 2, |data| {
                    push(data, 2, &0_u32.to_be_bytes());
                    push_nested(data, 3, |value| push(value, 1, &[6]));
                });
            });
            push_nested(list, 1, |extension| push_text(extension, 1, "match"));
        });
        add_compat(&mut payload);
        let compat = attribute(&payload, HEADER, RULE_COMPAT).unwrap();
        assert_eq!(big_endian(attribute(compat, 0, 1)), 6);
    }

    #[test]
    fn a_table_that_belongs_to_a_program_is_refused() {
        let mut payload = vec![1, 0, 0, 0];
        push(&mut payload, TABLE_FLAGS, &TABLE_OWNED.to_be_bytes());
        assert!(matches!(refuse(&TABLE, &payload), Some(NetRefusal::OwnedTable)));
        assert_eq!(number(&payload, 0), Some(1));
    }
}
