//! Rules of netfilter in images that are not ours: text, which the programs of whoever restores read.
//!
//! They are called before mounts are restored, so they are those of the machine, and not of the container.

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
        let text = images.read_raw(image, id.into())?;
        if !text.is_empty() && !feed(program, args, &text)? {
            let object = Object::Image(image.file_name(id.into()));
            return Err(Problem::new(NetRefusal::Program(what, program)).object(object));
        }
    }
    Ok(())
}

/// Whether a program takes a text.
fn feed(program: &'static str, args: &[&str], text: &[u8]) -> Result<bool, Problem> {
    let child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = child else { return Ok(false) };
    let sent = child.stdin.take().map(|mut stdin| stdin.write_all(text));
    let ended = child.wait().map_err(SysError::io("waitpid"))?;
    Ok(ended.success() && sent.is_some_and(|sent| sent.is_ok()))
}
