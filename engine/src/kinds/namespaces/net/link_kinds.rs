//! Kinds of network devices that are made by request, and which of their attributes a request takes.
//!
//! Names are those of `IFLA_INFO_KIND`, numbers those of `include/uapi/linux/{if_link,if_tunnel}.h`.

/// How a device of a kind is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// By `RTM_NEWLINK`, with the attributes that the kernel lists.
    Netlink,
    /// By `RTM_NEWLINK`; it has its attributes from the start, and those that were other ones are changed.
    Bare,
    /// Two at once.
    Pair,
    /// By `TUNSETIFF`.
    Tun,
}

/// A kind of device.
#[derive(Debug)]
pub(super) struct LinkKind {
    name: &'static str,
    pub made: Made,
    /// Attributes that tell of the device and are not for setting.
    told: &'static [u16],
    /// Attributes that stand for state that is not saved, if they are not zero.
    lost: &'static [u16],
    /// Attributes that are told as a byte, and taken as one that is there or is not (`NLA_FLAG`).
    flags: &'static [u16],
    /// Attributes that are told if they are zero, too, and must not be there then.
    set: &'static [u16],
}

const fn kind(name: &'static str) -> LinkKind {
    LinkKind { name, made: Made::Netlink, told: &[], lost: &[], flags: &[], set: &[] }
}

/// State of bridges: their spanning tree, timers, group address, queriers, learned
/// addresses.
const BRIDGE_TOLD: &[u16] = &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 40, 47, 48];
/// `IFLA_BR_VLAN_FILTERING`: with it come tables of VLANs.
const BRIDGE_LOST: &[u16] = &[7];

/// Attributes of ports of bridges that can be set (`IFLA_BRPORT_*`).
pub(super) const BRIDGE_PORT: &[u16] =
    &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 25, 27, 28, 30, 31, 32, 33, 37, 39, 40, 43];

static KINDS: &[LinkKind] = &[
    kind("dummy"),
    kind("ifb"),
    kind("nlmon"),
    LinkKind { name: "veth", made: Made::Pair, ..kind("") },
    LinkKind { name: "tun", made: Made::Tun, ..kind("") },
    LinkKind { name: "bridge", made: Made::Bare, told: BRIDGE_TOLD, lost: BRIDGE_LOST, ..kind("") },
    // The number of addresses, and the longest queue of a lower device's macvlans; addresses come with a mode of their own.
    LinkKind { name: "macvlan", told: &[6, 8], lost: &[6], ..kind("") },
    kind("ipvlan"),
    kind("vlan"),
    kind("vrf"),
    kind("ipip"),
    kind("sit"),
    kind("gre"),
    kind("gretap"),
    kind("ip6tnl"),
    kind("ip6gre"),
    kind("ip6gretap"),
    // IFLA_VXLAN_TTL_INHERIT; IFLA_VXLAN_REMCSUM_RX, by which bits count as used, whatever it says (`vxlan_nl2conf` of
    // drivers/net/vxlan/vxlan_core.c).
    LinkKind { name: "vxlan", flags: &[28], set: &[22], ..kind("") },
];

/// The kind of this name, if devices of it can be made again.
pub(super) fn find(name: &str) -> Option<&'static LinkKind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl LinkKind {
    /// Whether a device has state that would be lost.
    pub(super) fn unsupported(&self, data: &[(u16, Vec<u8>)]) -> bool {
        data.iter().any(|(kind, value)| self.lost.contains(kind) && value.iter().any(|byte| *byte != 0))
    }

    /// Whether a request takes an attribute.
    pub(super) fn takes(&self, attribute: u16) -> bool {
        !self.told.contains(&attribute)
    }

    /// What a request takes of an attribute that was told, if anything.
    pub(super) fn asked<'a>(&self, attribute: u16, value: &'a [u8]) -> Option<&'a [u8]> {
        let is_flag = self.flags.contains(&attribute);
        let may_be_zero = !is_flag && !self.set.contains(&attribute);
        let is_asked = self.takes(attribute) && (may_be_zero || value.iter().any(|byte| *byte != 0));
        is_asked.then_some(if is_flag { &[] } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for kind in KINDS {
            assert_eq!(KINDS.iter().filter(|other| other.name == kind.name).count(), 1, "{}", kind.name);
        }
    }

    #[test]
    fn a_bridge_that_filters_is_not_supported() {
        let bridge = find("bridge").unwrap();
        assert!(bridge.unsupported(&[(7, vec![1])]) && !bridge.unsupported(&[(7, vec![0])]));
        assert!(bridge.takes(1) && !bridge.takes(10));
    }

    #[test]
    fn a_flag_is_there_or_is_not() {
        let vxlan = find("vxlan").unwrap();
        assert_eq!(vxlan.asked(28, &[0]), None);
        assert_eq!(vxlan.asked(28, &[1]), Some(&[][..]));
        assert_eq!(vxlan.asked(1, &[0]), Some(&[0][..]));
    }
}
