//! Locks by the programs of iptables, for machines whose firewall is made of its rules.
//!
//! A lock is a chain of our own in the table `filter`, of each family that has connections to be held back; the chains for
//! what comes in and what goes out jump there first. Its first rule lets our own packets pass, and bears the note.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::{Ends, LockError, PREFIX};
use crate::tcp_repair::packet;

/// The programs of a family: one that lists, and one that takes a whole set of changes.
struct Family {
    list: &'static str,
    change: &'static str,
    is_v6: bool,
}

const FAMILIES: [Family; 2] = [
    Family { list: "iptables", change: "iptables-restore", is_v6: false },
    Family { list: "ip6tables", change: "ip6tables-restore", is_v6: true },
];

/// Chains that are taken away when this is dropped.
#[derive(Debug)]
pub struct Held(String);

impl Held {
    /// Holds packets back.
    pub fn new(name: &str, note: &[u8], connections: &[Ends]) -> Result<Self, LockError> {
        let held = Self(name.to_owned());
        persist(name, note, connections)?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.0) {
            log::error!("packets are still held back by {}: {e}; `stasis cleanup` removes it", self.0);
        }
    }
}

/// Holds packets back until [`remove`].
pub fn persist(name: &str, note: &[u8], connections: &[Ends]) -> Result<(), LockError> {
    for family in &FAMILIES {
        let rules: Vec<String> = connections.iter().filter_map(|ends| rules(family, name, *ends)).collect();
        if rules.is_empty() {
            continue;
        }
        let note = String::from_utf8_lossy(note);
        let mark = packet::MARK;
        let begin = format!(
            "*filter\n:{name} - [0:0]\n-A {name} -m mark --mark {mark:#x} -m comment --comment \"{note}\" -j RETURN\n"
        );
        let jumps = format!("-I INPUT -j {name}\n-I OUTPUT -j {name}\nCOMMIT\n");
        if let Err(e) = run(family.change, &["-w", "--noflush"], &[begin, rules.concat(), jumps].concat()) {
            // What was made of the other family must not stay.
            remove(name)?;
            return Err(e);
        }
    }
    Ok(())
}

/// The rules for a connection, one for each direction; none if it is of the other family.
fn rules(family: &Family, name: &str, (local, remote): Ends) -> Option<String> {
    let (here, there) = (local.ip().to_canonical(), remote.ip().to_canonical());
    if matches!(here, IpAddr::V6(_)) != family.is_v6 {
        return None;
    }
    let rule = |from: IpAddr, from_port: u16, to: IpAddr, to_port: u16| {
        format!("-A {name} -p tcp -s {from} --sport {from_port} -d {to} --dport {to_port} -j DROP\n")
    };
    let (out, back) =
        (rule(here, local.port(), there, remote.port()), rule(there, remote.port(), here, local.port()));
    Some(out + &back)
}

/// Lets packets pass again; no lock of that name is as good.
pub fn remove(name: &str) -> Result<(), LockError> {
    for family in &FAMILIES {
        let is_there = || run(family.list, &["-w", "-S", name], "").is_ok();
        if !is_there() {
            continue;
        }
        let changes =
            format!("*filter\n-D INPUT -j {name}\n-D OUTPUT -j {name}\n-F {name}\n-X {name}\nCOMMIT\n");
        match run(family.change, &["-w", "--noflush"], &changes) {
            // Somebody else, who removes what nobody needs any more, was faster.
            Err(_) if !is_there() => {}
            changed => changed.map(drop)?,
        }
    }
    Ok(())
}

/// Names and notes of our locks; none where there are no such programs.
pub fn list() -> Result<Vec<(String, Vec<u8>)>, LockError> {
    let mut found = Vec::new();
    for family in &FAMILIES {
        let text = match run(family.list, &["-w", "-S"], "") {
            Ok(text) => text,
            Err(LockError::NoProgram(..)) => continue,
            Err(e) => return Err(e),
        };
        found.extend(parse(&text).into_iter().filter(|lock| !found.contains(lock)).collect::<Vec<_>>());
    }
    Ok(found)
}

/// Our chains, in rules as `iptables -S` shows them.
fn parse(text: &str) -> Vec<(String, Vec<u8>)> {
    let names =
        text.lines().filter_map(|line| line.strip_prefix("-N ")).filter(|name| name.starts_with(PREFIX));
    let note = |name: &str| {
        let rules = format!("-A {name} ");
        let noted = text.lines().find(|line| line.starts_with(&rules) && line.contains("--comment"))?;
        let note = noted.split_once("--comment ")?.1.rsplit_once(" -j ")?.0;
        Some(note.trim_matches('"').as_bytes().to_vec())
    };
    names.map(|name| (name.to_owned(), note(name).unwrap_or_default())).collect()
}

/// Runs a program; what it printed.
fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, LockError> {
    let no_program = |e: std::io::Error| LockError::NoProgram(program, e.to_string());
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(no_program)?;
    let mut stdin = child.stdin.take();
    let input = input.to_owned();
    // It may speak before it has heard all.
    let writer = std::thread::spawn(move || stdin.as_mut().map(|stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().map_err(no_program)?;
    drop(writer.join());
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LockError::Program(program, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_found() {
        let text = "-P INPUT ACCEPT\n-N other\n-N stasis-7-a\n-N stasis-8-b\n-A INPUT -j stasis-7-a\n\
            -A stasis-7-a -m mark --mark 0x53746173 -m comment --comment \"12 34 /a b\" -j RETURN\n\
            -A stasis-7-a -s 10.0.0.1/32 -p tcp -j DROP\n";
        let expected =
            [("stasis-7-a".to_owned(), b"12 34 /a b".to_vec()), ("stasis-8-b".to_owned(), Vec::new())];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn each_family_has_its_rules() {
        let v4: Ends = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:6".parse().unwrap());
        let mapped: Ends = ("[::ffff:10.0.0.1]:5".parse().unwrap(), "[::ffff:10.0.0.2]:6".parse().unwrap());
        let [first, second] = &FAMILIES;
        let expected = "-A c -p tcp -s 10.0.0.1 --sport 5 -d 10.0.0.2 --dport 6 -j DROP\n\
            -A c -p tcp -s 10.0.0.2 --sport 6 -d 10.0.0.1 --dport 5 -j DROP\n";
        assert_eq!(rules(first, "c", v4).unwrap(), expected);
        assert_eq!(rules(first, "c", mapped).unwrap(), expected);
        assert_eq!(rules(second, "c", v4), None);
    }
}
