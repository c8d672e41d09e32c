//! Rules of netfilter in images that are not ours: text, which the programs of whoever restores read.
//!
//! They are called before mounts are restored, so they are those of the machine, and not of the container.
//!
//! CRIU looks at the rules while it holds back packets by some of its own, which therefore are among them: a chain `CRIU`, and jumps
//! to it. These are left out, or nothing would ever pass.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proto::catalogue::{IP6TABLES, IPTABLES, ImageType, NFTABLES};

use super::{NetRefusal, nftables};
use crate::error::{Object, Problem, SysError};
use crate::image::Images;

/// Images, what their text is, and who takes it.
const TEXTS: [(&ImageType, &str, &str, &[&str]); 3] = [
    (&NFTABLES, "a rule set of nftables", "nft", &["-f", "-"]),
    (&IPTABLES, "tables of iptables", "iptables-restore", &["--noflush"]),
    (&IP6TABLES, "tables of ip6tables", "ip6tables-restore", &["--noflush"]),
];

/// Has programs restore what text there is, unless the same is in an image of ours.
pub(super) fn restore(images: &Images, id: u32) -> Result<(), Problem> {
    if nftables::are_ours(images, id) {
        return Ok(());
    }
    for (image, what, program, args) in TEXTS {
        if !images.has(image, id.into()) {
            continue;
        }
        let text = without_lock(&images.read_raw(image, id.into())?);
        if !text.is_empty() && !feed(program, args, &text)? {
            let object = Object::Image(image.file_name(id.into()));
            return Err(Problem::new(NetRefusal::Program(what, program)).object(object));
        }
    }
    Ok(())
}

/// The text without the lock of whoever dumped, in the words of nft(8) and of iptables-save(8).
fn without_lock(text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    // Braces that are open in what is left out.
    let mut depth = 0_u32;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        let words: Vec<&str> = shown.split_whitespace().collect();
        let begins = matches!(words[..], ["chain", "CRIU", "{"])
            || matches!(words[..], ["table", _, name, "{"] if name.starts_with("CRIU-"));
        if depth > 0 || begins {
            depth += words.iter().filter(|word| **word == "{").count() as u32;
            depth = depth.saturating_sub(words.iter().filter(|word| **word == "}").count() as u32);
            continue;
        }
        let is_jump = matches!(words[..], [.., "jump" | "-j", "CRIU"]);
        let is_chain = matches!(words[..], [":CRIU", ..] | ["-A" | "-N", "CRIU", ..]);
        if !is_jump && !is_chain {
            kept.extend(line);
        }
    }
    kept
}

/// Whether a program takes a text.
fn feed(program: &'static str, args: &[&str], text: &[u8]) -> Result<bool, Problem> {
    let child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = child else { return Ok(false) };
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(text));
    let ended = child.wait().map_err(SysError::io("waitpid"))?;
    Ok(ended.success() && sent.is_some_and(|sent| sent.is_ok()))
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
