//! Routes of all tables, and the rules that choose between tables, over rtnetlink(7).
//!
//! Images hold the messages that list them, as `ip route save` and `ip rule save` write them. What the kernel makes by itself
//! with addresses and devices is there before; so a restore adds what is missing, and takes away what is too much.

use std::time::Duration;

use proto::catalogue::{ImageType, ROUTE, ROUTE6, RULE, STASIS_RULES6};
use proto::messages::StasisNetlinkMessage;

use super::saved;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::netlink::{APPEND, CHANGE, CREATE, Message, Netlink, attribute, number, push, without};

/// Messages and attributes of `include/uapi/linux/{rtnetlink,fib_rules}.h`.
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
/// `struct rtmsg` and `struct fib_rule_hdr`.
const HEADER: usize = 12;
const DST: u16 = 1;
const OIF: u16 = 4;
const GATEWAY: u16 = 5;
const MULTIPATH: u16 = 9;
const CACHEINFO: u16 = 12;
const TABLE: u16 = 15;
const VIA: u16 = 18;
const ENCAP_TYPE: u16 = 21;
const ENCAP: u16 = 22;
const EXPIRES: u16 = 23;
const NH_ID: u16 = 30;
/// Where flags are in `struct rtmsg`, and what they say of a moment: dead, or link down, or offloaded; or a copy of a route.
const FLAGS_AT: usize = 8;
const MOMENTARY: u32 = 0x1 | 0x8 | 0x10 | 0x20 | 0x40 | 0x4000 | 0x8000 | 0x2000_0000;
const CLONED: u32 = 0x200;
/// First words of images.
const ROUTE_MAGIC: u32 = 0x4531_1224;
const RULE_MAGIC: u32 = 0x7170_6986;

fn list(netlink: &mut Netlink, family: i32) -> Result<Vec<Message>, SysError> {
    let mut request = [0; HEADER];
    request[0] = family as u8;
    let found = netlink.list("RTM_GETROUTE", GETROUTE, &request)?;
    let is_real = |message: &Message| {
        message.kind == NEWROUTE
            && number(&message.payload, FLAGS_AT).is_some_and(|flags| flags & CLONED == 0)
    };
    Ok(found.into_iter().filter(is_real).collect())
}

fn list_rules(netlink: &mut Netlink, family: i32) -> Result<Vec<Message>, SysError> {
    let mut request = [0; HEADER];
    request[0] = family as u8;
    let found = netlink.list("RTM_GETRULE", GETRULE, &request)?;
    Ok(found.into_iter().filter(|message| message.kind == NEWRULE).collect())
}

/// Families, and the images of their routes.
const FAMILIES: [(i32, &ImageType); 2] = [(libc::AF_INET, &ROUTE), (libc::AF_INET6, &ROUTE6)];

pub(super) fn dump(netlink: &mut Netlink, id: u32, images: &mut NewImages) -> Result<(), Problem> {
    for (family, image) in FAMILIES {
        let routes = list(netlink, family).while_trying_to("list routes")?;
        images.write_raw(image, id.into(), &saved::write(ROUTE_MAGIC, &routes))?;
    }
    let rules = list_rules(netlink, libc::AF_INET).while_trying_to("list rules")?;
    images.write_raw(&RULE, id.into(), &saved::write(RULE_MAGIC, &rules))?;
    // The format's image is of IPv4 alone.
    let rules: Vec<_> = list_rules(netlink, libc::AF_INET6)
        .while_trying_to("list rules")?
        .into_iter()
        .map(|rule| StasisNetlinkMessage { r#type: rule.kind.into(), payload: rule.payload })
        .collect();
    images.write(&STASIS_RULES6, id.into(), &rules)
}

pub(super) fn restore(netlink: &mut Netlink, images: &Images, id: u32) -> Result<(), Problem> {
    for (family, image) in FAMILIES {
        if images.has(image, id.into()) {
            let wanted = saved::read(images, image, id, ROUTE_MAGIC)?;
            restore_routes(netlink, family, wanted)?;
        }
    }
    if images.has(&RULE, id.into()) {
        let wanted = saved::read(images, &RULE, id, RULE_MAGIC)?;
        restore_rules(netlink, libc::AF_INET, wanted.into_iter().map(|rule| rule.payload).collect())?;
    }
    if images.has(&STASIS_RULES6, id.into()) {
        let wanted: Vec<StasisNetlinkMessage> = images.read(&STASIS_RULES6, id.into())?;
        restore_rules(netlink, libc::AF_INET6, wanted.into_iter().map(|rule| rule.payload).collect())?;
    }
    Ok(())
}

fn restore_routes(netlink: &mut Netlink, family: i32, wanted: Vec<Message>) -> Result<(), Problem> {
    let step = "restore routes";
    let wanted: Vec<Vec<u8>> = wanted.into_iter().map(|message| message.payload).collect();
    let keys: Vec<Vec<u8>> = wanted.iter().map(|payload| key(payload)).collect();
    let here = list(netlink, family).while_trying_to(step)?;
    let mut there: Vec<Vec<u8>> = Vec::new();
    for route in here {
        let key = key(&route.payload);
        if keys.contains(&key) {
            there.push(key);
        } else {
            let gone = netlink.request("RTM_DELROUTE", DELROUTE, CHANGE, &route.payload);
            gone.about(|| object(&route.payload)).while_trying_to(step)?;
        }
    }
    // A gateway must be reached by another route, which therefore comes before.
    let (indirect, direct): (Vec<_>, Vec<_>) =
        wanted.iter().zip(&keys).partition(|(route, _)| has_gateway(route));
    for (route, key) in direct.into_iter().chain(indirect) {
        if there.contains(key) || comes_by_itself(route) {
            continue;
        }
        let added = netlink.request("RTM_NEWROUTE", NEWROUTE, APPEND, &for_adding(route));
        added.about(|| object(route)).while_trying_to(step)?;
    }
    let made: Vec<Vec<u8>> =
        wanted.iter().zip(keys).filter(|(route, _)| comes_by_itself(route)).map(|(_, key)| key).collect();
    if made.is_empty() { Ok(()) } else { wait_for(netlink, &made).while_trying_to(step) }
}

/// What makes a route the one that it is: everything but its age and the moment's flags.
fn key(payload: &[u8]) -> Vec<u8> {
    let mut key = without(payload, HEADER, &[CACHEINFO, EXPIRES]);
    let flags = number(&key, FLAGS_AT).unwrap_or_default() & !MOMENTARY;
    if let Some(place) = key.get_mut(FLAGS_AT..FLAGS_AT + 4) {
        place.copy_from_slice(&flags.to_ne_bytes());
    }
    key
}

/// A message that is taken: without what the kernel found out, with the time that is left.
fn for_adding(payload: &[u8]) -> Vec<u8> {
    /// `rta_expires` of `struct rta_cacheinfo`, in clock ticks of user space.
    const EXPIRES_AT: usize = 8;
    const TICKS: i32 = 100;
    let mut route = key(payload);
    if attribute(&route, HEADER, NH_ID).is_some() {
        // What it stands for is told, too, and not taken.
        route = without(&route, HEADER, &[OIF, GATEWAY, MULTIPATH, VIA, ENCAP_TYPE, ENCAP]);
    }
    let left = attribute(payload, HEADER, CACHEINFO).and_then(|value| number(value, EXPIRES_AT));
    let left = left.map_or(0, |ticks| ticks as i32 / TICKS);
    if left > 0 {
        push(&mut route, EXPIRES, &left.to_ne_bytes());
    }
    route
}

fn has_gateway(payload: &[u8]) -> bool {
    [GATEWAY, VIA, MULTIPATH].iter().any(|kind| attribute(payload, HEADER, *kind).is_some())
}

/// Whether the kernel makes it for an address of IPv6, which it does a moment later.
fn comes_by_itself(payload: &[u8]) -> bool {
    /// `RT_TABLE_LOCAL`, `RTPROT_KERNEL`, and their places in `struct rtmsg`.
    const LOCAL: (usize, u8) = (4, 255);
    const KERNEL: (usize, u8) = (5, 2);
    let is = |(at, value): (usize, u8)| payload.get(at) == Some(&value);
    payload.first() == Some(&(libc::AF_INET6 as u8)) && is(LOCAL) && is(KERNEL)
}

/// Waits for routes that the kernel makes for addresses a moment later, so that nobody finds addresses without. Some may never
/// come: those of a device that has no carrier yet.
fn wait_for(netlink: &mut Netlink, wanted: &[Vec<u8>]) -> Result<(), SysError> {
    const STEP: Duration = Duration::from_millis(2);
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        let there: Vec<Vec<u8>> =
            list(netlink, libc::AF_INET6)?.iter().map(|route| key(&route.payload)).collect();
        if wanted.iter().all(|route| there.contains(route)) {
            break;
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn restore_rules(netlink: &mut Netlink, family: i32, wanted: Vec<Vec<u8>>) -> Result<(), Problem> {
    let step = "restore rules of routing";
    let mut there = Vec::new();
    for rule in list_rules(netlink, family).while_trying_to(step)? {
        if wanted.contains(&rule.payload) {
            there.push(rule.payload);
        } else {
            let gone = netlink.request("RTM_DELRULE", DELRULE, CHANGE, &rule.payload);
            gone.about(|| rule_object(&rule.payload)).while_trying_to(step)?;
        }
    }
    for rule in wanted.iter().filter(|rule| !there.contains(rule)) {
        let added = netlink.request("RTM_NEWRULE", NEWRULE, CREATE, rule);
        added.about(|| rule_object(rule)).while_trying_to(step)?;
    }
    Ok(())
}

fn object(payload: &[u8]) -> Object {
    let value = |kind| attribute(payload, HEADER, kind);
    let prefix = payload.get(1).copied().unwrap_or_default();
    let to =
        value(DST).map_or_else(|| "default".to_owned(), |dst| format!("{}/{prefix}", super::address(dst)));
    let number_of = |kind| value(kind).and_then(|value| number(value, 0)).unwrap_or_default();
    let name = format!("to {to} by device {}, table {}", number_of(OIF), number_of(TABLE));
    Object::Named { kind: "route", name }
}

fn rule_object(payload: &[u8]) -> Object {
    const PRIORITY: u16 = 6;
    let priority =
        attribute(payload, HEADER, PRIORITY).and_then(|value| number(value, 0)).unwrap_or_default();
    Object::Named { kind: "routing rule", name: format!("of priority {priority}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(flags: u32, expires: i32) -> Vec<u8> {
        let mut payload = vec![libc::AF_INET6 as u8, 64, 0, 0, 254, 2, 0, 1];
        payload.extend(flags.to_ne_bytes());
        push(&mut payload, DST, &[0xfd; 16]);
        let mut cache = [0; 32];
        cache[8..12].copy_from_slice(&expires.to_ne_bytes());
        push(&mut payload, CACHEINFO, &cache);
        payload
    }

    #[test]
    fn a_route_is_the_same_when_it_is_older() {
        assert_eq!(key(&route(0, 500)), key(&route(0x10, 200)));
        assert_ne!(key(&route(0, 0)), key(&route(4, 0)));
    }

    #[test]
    fn a_route_keeps_the_time_that_it_has_left() {
        let left = |expires| {
            attribute(&for_adding(&route(0, expires)), HEADER, EXPIRES).and_then(|value| number(value, 0))
        };
        assert_eq!(left(500), Some(5));
        assert_eq!(left(0), None);
    }
}
