//! What a network namespace holds is what it held: devices, addresses, routes, rules, tunables.
//!
//! Each scene is a list of commands that set something up, and a list of those that show it; what they show must be the same
//! after the restore, down to indices, order and counters of rules.

use std::process::Command;
use std::time::{Duration, Instant};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// Something to set up and to look at.
struct Scene {
    name: &'static str,
    setup: &'static [&'static str],
    look: &'static [&'static str],
}

/// Some packets that nobody takes.
const TRAFFIC: &str = "traffic";
/// A request for a file, whose answer comes from a port that nobody knows yet.
const REQUEST: &str = "request";
/// Connections that the kernel expects, without the time that each is expected still.
const EXPECTED: &str = "sed 's/^[0-9 ]*//' /proc/net/nf_conntrack_expect | grep tftp";
/// Connections that the kernel tracks, one of which goes elsewhere than it was sent to.
const TRACKED: &str = "cat /proc/net/nf_conntrack";
const LINKS: &str = "ip -o link";
const ADDRESSES: &str = "ip -o addr";
const ROUTES: [&str; 2] = ["ip -4 route show table all", "ip -6 route show table all"];

const SCENES: &[Scene] = &[
    Scene {
        name: "netns",
        setup: &[
            "ip link add first index 40 mtu 1400 address 02:00:00:00:00:01 type veth peer name second index 7",
            "ip link set second alias spare group 5 txqueuelen 500",
            "ip link property add dev second altname another",
            "ip addr add 192.0.2.1/24 dev first label first:a",
            "ip addr add 192.0.2.2/24 dev first",
            "ip addr add 198.51.100.1/32 peer 198.51.100.2 dev first valid_lft 50000 preferred_lft 40000",
            "ip addr add 127.0.0.9/32 dev lo",
            "ip addr del 127.0.0.1/8 dev lo",
            "ip addr add fd00::1/64 dev first nodad",
            "ip addr add fd00::2/64 dev first nodad",
            "ip addr add 2001:db8::1/128 dev lo",
            "ip link set first up",
            "ip link set second up",
            "ip route add 203.0.113.0/24 via 192.0.2.9 src 192.0.2.2 metric 7",
            "ip route add default via 192.0.2.8",
            "ip route add unreachable 203.0.113.128/25",
            "ip route add 203.0.113.64/26 table 77 nexthop via 192.0.2.9 weight 2 nexthop via 192.0.2.8",
            "ip -6 route add fd01::/64 via fd00::9 mtu 1300",
            "ip -6 route add blackhole fd02::/64",
            "ip rule add from 192.0.2.2 table 77 priority 100",
            "ip rule add fwmark 3 lookup main priority 101",
            "ip -6 rule add iif lo to fd01::/16 table 78 priority 102",
            "ip rule del priority 32767",
            "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev first nud permanent",
            "ip neigh add proxy 192.0.2.77 dev first",
        ],
        look: &[
            "ip -o -d link",
            "ip -o addr show dev lo",
            "ip -o addr show dev second",
            "ip -o -6 addr show dev first",
            "ip -o -4 addr show permanent dev first",
            "ip -o -4 addr show dynamic dev first label first",
            ROUTES[0],
            ROUTES[1],
            "ip rule",
            "ip -6 rule",
            "ip neigh show nud permanent",
            "ip neigh show proxy",
        ],
    },
    Scene {
        name: "netns-dev",
        setup: &[
            "ip link add first type veth peer name second",
            "sysctl net.ipv4.conf.all.forwarding=1 net.ipv4.conf.default.rp_filter=2 net.ipv6.conf.all.hop_limit=33",
            "sysctl net.ipv4.conf.first.proxy_arp=1 net.ipv4.conf.first.tag=7 net.ipv4.conf.first.forwarding=0",
            "sysctl net.ipv6.conf.second.disable_ipv6=1 net.ipv6.conf.first.accept_ra=2",
            "sysctl net.ipv6.conf.first.stable_secret=fd00::5 net.ipv6.conf.lo.dad_transmits=4",
            "sysctl net.ipv4.neigh.first.gc_stale_time=99 net.unix.max_dgram_qlen=77",
            "sysctl net.ipv4.ping_group_range=0\\ 7 net.core.somaxconn=99 net.ipv4.ip_local_port_range=4000\\ 5000",
            "ip link set first up",
        ],
        look: &["sysctl net -e", LINKS],
    },
    Scene {
        name: "bridge",
        setup: &[
            "ip link add outer address 02:00:00:00:00:02 type bridge ageing_time 5000 priority 77",
            "ip link add port type veth peer name end",
            "ip link set port master outer",
            "bridge link set dev port hairpin on learning off",
            "bridge fdb add 02:00:00:00:00:77 dev port master static",
            "ip addr add 192.0.2.1/24 dev outer",
            "ip addr add fd00::7/64 dev outer nodad",
            "ip link set end up",
            "ip link set port up",
            "ip link set outer up",
        ],
        look: &[
            "ip -o -d link show dev outer",
            "ip -o link show master outer",
            "bridge -d link",
            "bridge fdb show dev port",
            ADDRESSES,
            ROUTES[0],
        ],
    },
    Scene {
        name: "macvlan",
        setup: &[
            "ip link add low type veth peer name end",
            "ip link add high link low address 02:00:00:00:00:03 type macvlan mode bridge",
            "ip link add third link low type macvlan mode vepa",
            "ip addr add 192.0.2.3/24 dev high",
            "ip link set low up",
            "ip link set end up",
            "ip link set high up",
        ],
        look: &["ip -o -d link", "ip -o -4 addr", ROUTES[0]],
    },
    Scene {
        name: "sit",
        setup: &[
            "ip link add tunnel type sit local 127.0.0.1 remote 127.0.0.2 ttl 5",
            "ip addr add fd00::1/64 dev tunnel",
            "ip link set tunnel up",
        ],
        look: &["ip -o -d link", ADDRESSES, ROUTES[1]],
    },
    Scene {
        name: "ipip",
        setup: &[
            "ip link add tunnel type ipip local 127.0.0.1 remote 127.0.0.2 ttl 5",
            "ip addr add 192.0.2.1/24 dev tunnel",
            "ip link set tunnel up",
        ],
        look: &["ip -o -d link", "ip -o -4 addr", ROUTES[0]],
    },
    Scene {
        name: "gre",
        setup: &[
            "ip link add tunnel type gre local 127.0.0.1 remote 127.0.0.2 ttl 5 key 77",
            "ip link add wire address 02:00:00:00:00:06 type gretap local 127.0.0.1 remote 127.0.0.3",
            "ip addr add 192.0.2.1/24 dev tunnel",
            "ip link set tunnel up",
            "ip link set wire up",
        ],
        look: &["ip -o -d link", "ip -o -4 addr", ROUTES[0]],
    },
    Scene {
        name: "vlan",
        setup: &[
            "ip link add low type veth peer name end",
            "ip link add link low name low.5 type vlan id 5 reorder_hdr off ingress-qos-map 1:2 egress-qos-map 3:4",
            "ip link add link low name outer type vlan id 6 protocol 802.1ad",
            "ip addr add 192.0.2.3/24 dev low.5",
            "ip link set low up",
            "ip link set end up",
            "ip link set low.5 up",
        ],
        look: &["ip -o -d link", "ip -o -4 addr", ROUTES[0]],
    },
    Scene {
        name: "vxlan",
        setup: &[
            "ip link add low type veth peer name end",
            "ip addr add 192.0.2.1/24 dev low",
            "ip link set low up",
            "ip link set end up",
            "ip link add far address 02:00:00:00:00:05 type vxlan id 77 local 192.0.2.1 remote 192.0.2.9 dev low dstport 4789 ttl 7 nolearning",
            "ip link add many address 02:00:00:00:00:07 type vxlan id 78 local 192.0.2.1 dstport 4790 srcport 5000 6000",
            "bridge fdb append 00:00:00:00:00:00 dev many dst 192.0.2.7",
            "bridge fdb append 00:00:00:00:00:00 dev many dst 192.0.2.8",
            "bridge fdb add 02:00:00:00:00:77 dev many dst 192.0.2.9 vni 5",
            "ip addr add 198.51.100.1/24 dev far",
            "ip link set far up",
            "ip link set many up",
        ],
        look: &[
            "ip -o -d link",
            "ip -o -4 addr",
            "bridge fdb show dev far",
            "bridge fdb show dev many",
            ROUTES[0],
        ],
    },
    Scene {
        name: "ifb",
        setup: &[
            "ip link add in address 02:00:00:00:00:08 numtxqueues 2 numrxqueues 2 type ifb",
            "ip link set in up",
        ],
        look: &["ip -o -d link"],
    },
    Scene {
        name: "netns-nf",
        setup: &[
            "iptables-legacy -A INPUT -p tcp --dport 7 -m comment --comment seven -j ACCEPT",
            "iptables-legacy -A INPUT -i lo -j ACCEPT",
            "iptables-legacy -N own",
            "iptables-legacy -A own -m conntrack --ctstate ESTABLISHED -j RETURN",
            "iptables-legacy -A OUTPUT -d 192.0.2.0/24 -j own",
            "iptables-legacy -P FORWARD DROP",
            "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
            "ip6tables-legacy -A INPUT -s fd00::/16 -p udp -m multiport --dports 1,2,3 -j REJECT",
            "iptables-legacy -t nat -A OUTPUT -p udp --dport 9 -j REDIRECT --to-ports 10",
            TRAFFIC,
        ],
        look: &["iptables-legacy-save -c", "ip6tables-legacy-save -c", TRACKED],
    },
    // Text as CRIU keeps it has no counters of rules.
    Scene {
        name: "netns-nf-text",
        setup: &[
            "iptables-legacy -A INPUT -p tcp --dport 7 -m comment --comment seven -j ACCEPT",
            "iptables-legacy -N own",
            "iptables-legacy -A own -m conntrack --ctstate ESTABLISHED -j RETURN",
            "iptables-legacy -P FORWARD DROP",
            "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
            "ip6tables-legacy -A INPUT -s fd00::/16 -p udp -m multiport --dports 1,2,3 -j REJECT",
        ],
        // In the order in which they were made, tables are not.
        look: &["iptables-legacy-save -t filter", "iptables-legacy-save -t nat", "ip6tables-legacy-save"],
    },
    Scene {
        name: "netns-expect",
        setup: &["iptables-legacy -t raw -A OUTPUT -p udp --dport 69 -j CT --helper tftp", REQUEST],
        look: &[EXPECTED],
    },
    Scene {
        name: "netns-nft",
        setup: &[
            "nft add table inet zoo",
            "nft add chain inet zoo in { type filter hook input priority 5 ; policy accept ; }",
            "nft add chain inet zoo own",
            "nft add set inet zoo hosts { type ipv4_addr ; flags interval ; }",
            "nft add element inet zoo hosts { 192.0.2.0/28, 198.51.100.7 }",
            "nft add map inet zoo where { type inet_service : verdict ; }",
            "nft add element inet zoo where { 22 : jump own, 23 : drop }",
            "nft add set inet zoo seen { type ipv4_addr ; flags dynamic,timeout ; timeout 1h ; size 100 ; }",
            "nft add counter inet zoo total",
            "nft add rule inet zoo in ip saddr @hosts counter name total drop comment \"hosts\"",
            "nft add rule inet zoo in tcp dport vmap @where",
            "nft add rule inet zoo in tcp dport { 80, 443 } counter accept",
            "nft add rule inet zoo in iifname lo meta l4proto icmp counter",
            "nft add rule inet zoo own limit rate 5/minute log prefix \"zoo\" accept",
            "nft add table ip6 more { flags dormant ; }",
            "nft add chain ip6 more out { type nat hook postrouting priority 100 ; }",
            "nft add rule ip6 more out oifname lo masquerade random",
            TRAFFIC,
        ],
        look: &["nft -n list ruleset"],
    },
    Scene {
        name: "netns-nft-ipt",
        setup: &[
            "iptables-nft -A INPUT -p tcp --dport 7 -m comment --comment seven -j ACCEPT",
            "iptables-nft -A INPUT -p udp -m multiport --dports 5,6 -j REJECT",
            "iptables-nft -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
            "iptables-nft -A OUTPUT -m conntrack --ctstate INVALID -j DROP",
            "ip6tables-nft -P FORWARD DROP",
        ],
        look: &["iptables-nft-save", "ip6tables-nft-save"],
    },
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let name = cx.args().first().cloned().unwrap_or_default();
    let scene = SCENES.iter().find(|scene| scene.name == name);
    let scene = scene.ok_or_else(|| Failure::new(format!("there is no scene {name}")))?;
    for command in scene.setup {
        match *command {
            TRAFFIC => traffic()?,
            REQUEST => request()?,
            command => drop(shell(command)?),
        }
    }
    let before = settled(scene)?;
    cx.barrier()?;
    // Links notice a moment later that there is somebody at the other end.
    let limit = Instant::now() + Duration::from_secs(8);
    let mut after = view(scene)?;
    while after != before && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(100));
        after = view(scene)?;
    }
    for ((command, before), after) in scene.look.iter().zip(&before).zip(&after) {
        let of = |all: &[String], others: &[String]| -> Vec<String> {
            all.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        ensure_eq!(of(after, before), of(before, after), command);
        ensure_eq!(after, before, command);
    }
    Ok(())
}

fn traffic() -> Verdict {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..3 {
        socket.send_to(b"anybody?", "127.0.0.1:7")?;
        socket.send_to(b"anybody?", "127.0.0.1:9")?;
    }
    Ok(())
}

/// RFC 1350: a read request, of which the kernel knows that another connection follows.
fn request() -> Verdict {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    socket.send_to(b"\0\x01file\0octet\0", "127.0.0.1:69")?;
    Ok(())
}

/// What is to be seen, when it has stayed the same for a while.
fn settled(scene: &Scene) -> Result<Vec<Vec<String>>, Failure> {
    let limit = Instant::now() + Duration::from_secs(10);
    let mut last = view(scene)?;
    loop {
        std::thread::sleep(Duration::from_millis(600));
        // An address ceases to be tentative at any moment: it must have done so before it is looked at.
        let is_steady = shell("ip -6 addr show tentative")?.is_empty();
        let now = view(scene)?;
        if now == last && is_steady {
            return Ok(now);
        }
        ensure!(Instant::now() < limit, "what was set up does not settle: {now:?}");
        last = now;
    }
}

fn view(scene: &Scene) -> Result<Vec<Vec<String>>, Failure> {
    let look = |command: &&str| {
        let mut lines = lines(&shell(command)?);
        // Routes of several devices to the same place are in the order in which the devices came up, addresses in that of hashes.
        if command.starts_with("ip -6 route") || command.starts_with("bridge fdb") {
            lines.sort();
        }
        if *command == TRACKED {
            // In no order, and the fifth word is how long it is still to be tracked.
            let words = |line: &String| {
                line.split(' ')
                    .enumerate()
                    .filter(|(at, _)| *at != 4)
                    .map(|(_, word)| word.to_owned())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            lines = lines.iter().map(words).collect();
            lines.sort();
        }
        Ok(lines)
    };
    scene.look.iter().map(look).collect()
}

/// Lines, without what changes by itself: timers, and the time when something was written.
fn lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = Vec::new();
        let mut all = line.split_whitespace();
        while let Some(word) = all.next() {
            let moves = word.ends_with("_timer") || matches!(word, "expires" | "valid_lft" | "preferred_lft");
            if moves && all.next() == Some("forever") {
                words.push("forever");
            }
            if !moves {
                words.push(word);
            }
        }
        found.push(words.join(" "));
    }
    found
}

/// Runs a command and returns what it prints.
fn shell(command: &str) -> Result<String, Failure> {
    // The usual lock of iptables belongs to the host's root.
    let mut shell = Command::new("sh");
    let output = shell.arg("-c").arg(quoted(command)).env("XTABLES_LOCKFILE", "/dev/shm/lock").output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Words of nft are words of its own.
fn quoted(command: &str) -> String {
    match command.strip_prefix("nft add ") {
        Some(rest) => format!("nft 'add {rest}'"),
        None => command.to_owned(),
    }
}
