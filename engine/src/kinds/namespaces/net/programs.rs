//! Rules of netfilter as text: what CRIU keeps, and programs write and read.
//!
//! Our own restore needs no text (`nftables.rs`, `xtables.rs`); CRIU's does. So a dump has the programs write it where there are
//! rules, and goes on with a warning if they cannot. A rule is in one text only: rules of iptables that are tables of nftables are told in
//! the words of iptables where they use extensions of it, which nft shows in words that it does not take itself.
//!
//! The programs are those of the machine, and not of the container, which need not be trusted: a dump runs them in a process that
//! has gone back to the mounts of the command, a restore before it changes mounts.
//!
//! CRIU looks at the rules while it holds back packets by some of its own, which therefore are among them: a chain `CRIU`, and jumps
//! to it. These are left out, or nothing would ever pass.

use std::io::{ErrorKind, Write as _};
use std::process::{Command, Output, Stdio};

use proto::catalogue::{IP6TABLES, IPTABLES, ImageType, NFTABLES, STASIS_LINKS};

use super::NetRefusal;
use super::nftables::Table;
use crate::error::{Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::inside::Home;
use crate::mounts::envoy;
use crate::net_lock;

/// Families of nftables, as its own words name them (`NFPROTO_*` of `include/uapi/linux/netfilter.h`).
const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];
/// Tables that iptables makes.
const BUILT_IN: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// The text of iptables of one family: where it is kept, who knows its tables of its own, and who knows those of nftables.
struct Dialect {
    number: i32,
    word: &'static str,
    image: &'static ImageType,
    what: &'static str,
    save: [&'static [&'static str]; 2],
    restore: [&'static [&'static str]; 2],
}

/// Programs that come first are those that know one sort of tables only.
const DIALECTS: [Dialect; 2] = [
    Dialect {
        number: libc::AF_INET,
        word: "ip",
        image: &IPTABLES,
        what: "tables of iptables",
        save: [&["iptables-legacy-save", "iptables-save"], &["iptables-nft-save", "iptables-save"]],
        restore: [
            &["iptables-legacy-restore", "iptables-restore"],
            &["iptables-nft-restore", "iptables-restore"],
        ],
    },
    Dialect {
        number: libc::AF_INET6,
        word: "ip6",
        image: &IP6TABLES,
        what: "tables of ip6tables",
        save: [&["ip6tables-legacy-save", "ip6tables-save"], &["ip6tables-nft-save", "ip6tables-save"]],
        restore: [
            &["ip6tables-legacy-restore", "ip6tables-restore"],
            &["ip6tables-nft-restore", "ip6tables-restore"],
        ],
    },
];
const RULE_SET: &str = "a rule set of nftables";

fn word(table: &Table) -> Option<&'static str> {
    FAMILIES.iter().find(|(number, _)| *number == table.family).map(|(_, word)| *word)
}

/// Has programs write what there is: these tables of nftables, and tables of iptables of these families.
pub(super) fn dump(
    home: Option<&Home>,
    id: u32,
    tables: &[Table],
    families: &[i32],
    images: &mut NewImages,
) -> Result<(), Problem> {
    let mut left: Vec<&Table> = tables.iter().collect();
    for dialect in &DIALECTS {
        let is_built_in =
            |table: &Table| word(table) == Some(dialect.word) && BUILT_IN.contains(&table.name.as_str());
        let is_its_own = families.contains(&dialect.number);
        let is_of_nftables = left.iter().any(|table| is_built_in(table) && table.has_extensions);
        if is_its_own || is_of_nftables {
            let [own, others] = dialect.save;
            let programs = if is_its_own { own } else { others };
            write(home, dialect.image, id, dialect.what, (programs, &[]), images, <[u8]>::to_vec)?;
        }
        if is_of_nftables && !is_its_own {
            left.retain(|table| !is_built_in(table));
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let is_left_out = |words: &&[&str]| match **words {
        ["table", family, name, "{"] => {
            !left.iter().any(|table| word(table) == Some(family) && table.name == name)
        }
        _ => false,
    };
    let only_these = |text: &[u8]| without_blocks(text, is_left_out);
    write(home, &NFTABLES, id, RULE_SET, (&["nft"], &["list", "ruleset"]), images, only_these)
}

/// Keeps that part of what the first of these programs that is there prints.
fn write(
    home: Option<&Home>,
    image: &ImageType,
    id: u32,
    what: &str,
    (programs, args): (&[&str], &[&str]),
    images: &mut NewImages,
    part: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(), Problem> {
    let ask = || {
        home.iter().try_for_each(|home| home.return_to())?;
        run(programs, args, &[])
    };
    match envoy::fork(ask) {
        Ok(text) => images.write_raw(image, id.into(), &part(&without_lock(&text))),
        Err(problem) => {
            log::warn!("{what} are not kept as text, which CRIU would read: {}", problem.cause);
            Ok(())
        }
    }
}

/// Has programs restore what text there is in images that are not ours.
pub(super) fn restore(images: &Images, id: u32) -> Result<(), Problem> {
    // We keep those of each namespace.
    if images.has(&STASIS_LINKS, id.into()) {
        return Ok(());
    }
    let read = |image: &'static ImageType| {
        if images.has(image, id.into()) { images.read_raw(image, id.into()) } else { Ok(Vec::new()) }
    };
    let mut rule_set = without_lock(&read(&NFTABLES)?);
    for dialect in &DIALECTS {
        let text = without_lock(&read(dialect.image)?);
        let shown = String::from_utf8_lossy(&text);
        // What both programs see is in both texts.
        for table in shown.lines().filter_map(|line| line.strip_prefix('*')) {
            rule_set =
                without_blocks(&rule_set, |words| *words == ["table", dialect.word, table.trim(), "{"]);
        }
        // iptables-save says who wrote it.
        let is_of_nftables = shown.lines().next().is_some_and(|first| first.contains("(nf_tables)"));
        let [own, others] = dialect.restore;
        let programs = if is_of_nftables { others } else { own };
        feed(dialect.image, id, dialect.what, programs, &["--noflush"], &text)?;
    }
    feed(&NFTABLES, id, RULE_SET, &["nft"], &["-f", "-"], &rule_set)
}

fn feed(
    image: &ImageType,
    id: u32,
    what: &'static str,
    programs: &[&'static str],
    args: &[&str],
    text: &[u8],
) -> Result<(), Problem> {
    if text.trim_ascii().is_empty() {
        return Ok(());
    }
    run(programs, args, text).map(drop).map_err(|problem| {
        log::error!("{}", problem.cause);
        let program = programs.last().copied().unwrap_or_default();
        Problem::new(NetRefusal::Program(what, program)).object(Object::Image(image.file_name(id.into())))
    })
}

/// What the first of these programs that is there prints.
fn run(programs: &[&str], args: &[&str], input: &[u8]) -> Result<Vec<u8>, Problem> {
    for program in programs {
        match call(program, args, input) {
            Ok(output) if output.status.success() => return Ok(output.stdout),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Problem::new(NetRefusal::Said((*program).to_owned(), said)));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Problem::new(SysError::io("execve")(error))),
        }
    }
    Err(Problem::new(NetRefusal::NoProgram(programs.last().copied().unwrap_or_default().to_owned())))
}

fn call(program: &str, args: &[&str], input: &[u8]) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    // Nobody else is in the namespace, and the usual file need not be ours to lock.
    command.args(args).env("XTABLES_LOCKFILE", "/dev/null").current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Those that read a text print next to nothing. A program that wants to hear no more has failed, and says so.
    let _heard = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    child.wait_with_output()
}

/// The text without the lock of whoever dumped, in the words of nft(8) and of iptables-save(8).
fn without_lock(text: &[u8]) -> Vec<u8> {
    let is_lock = |name: &str| name == "CRIU" || name.starts_with("CRIU-") || net_lock::is_ours(name);
    let text = without_blocks(text, |words| match *words {
        ["chain", name, "{"] | ["table", _, name, "{"] => is_lock(name),
        _ => false,
    });
    let mut kept = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        let words: Vec<&str> = shown.split_whitespace().collect();
        let is_jump = matches!(words[..], [.., "jump" | "-j", name] if is_lock(name));
        let is_chain = match words[..] {
            ["-A" | "-N", name, ..] => is_lock(name),
            [first, ..] => first.strip_prefix(':').is_some_and(is_lock),
            [] => false,
        };
        if !is_jump && !is_chain {
            kept.extend(line);
        }
    }
    kept
}

/// The text of nft without blocks that begin with such words.
fn without_blocks(text: &[u8], begins: impl Fn(&&[&str]) -> bool) -> Vec<u8> {
    let mut kept = Vec::new();
    // Braces that are open in what is left out.
    let mut depth = 0_u32;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        let words: Vec<&str> = shown.split_whitespace().collect();
        if depth > 0 || begins(&words.as_slice()) {
            depth += words.iter().filter(|word| **word == "{").count() as u32;
            depth = depth.saturating_sub(words.iter().filter(|word| **word == "}").count() as u32);
            continue;
        }
        kept.extend(line);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_dump_is_left_out() {
        let text = b"table ip filter {\n\tchain CRIU {\n\t\tmeta mark 0x0000c114 counter packets 0 bytes 0 accept\n\t\tcounter drop\n\
                     \t}\n\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\t\ttcp dport { 22, 80 } accept\n\
                     \t\tcounter packets 0 bytes 0 jump CRIU\n\t}\n}\ntable inet CRIU-42 {\n\tset conns {\n\t\ttype ipv4_addr\n\t}\n}\n\
                     table inet own {\n}\n";
        let kept = "table ip filter {\n\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\
                    \t\ttcp dport { 22, 80 } accept\n\t}\n}\ntable inet own {\n}\n";
        assert_eq!(String::from_utf8_lossy(&without_lock(text)), kept);
        let text = b"*filter\n:INPUT ACCEPT [0:0]\n:CRIU - [0:0]\n-A INPUT -j CRIU\n-A INPUT -j own\n\
                     -A CRIU -m mark --mark 0xc114 -j ACCEPT\n-A CRIU -j DROP\nCOMMIT\n";
        let kept = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j own\nCOMMIT\n";
        assert_eq!(String::from_utf8_lossy(&without_lock(text)), kept);
    }
}
