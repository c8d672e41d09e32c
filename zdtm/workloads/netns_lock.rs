//! A TCP connection in a network namespace of the tree, which a dump holds the packets back of: nothing of the lock comes along.

use nix::sched::{CloneFlags, unshare};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::{ip, output};
use crate::tcp;

fn rules() -> Result<String, Failure> {
    output("nft", &["list", "table", "inet", "zoo"])
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip("link set lo up")?;
    output("nft", &["add table inet zoo; add chain inet zoo own; add rule inet zoo own tcp dport 7 drop"])?;
    let before = rules()?;
    let (client, server) = tcp::connect("127.0.0.1:0")?;
    tcp::say(&client, b"to the server")?;
    cx.barrier()?;
    tcp::hear(&server, b"to the server")?;
    tcp::talk(&client, &server)?;
    ensure_eq!(rules()?, before, "rules");
    let all = output("nft", &["list", "ruleset"])?;
    ensure!(!all.contains("stasis-"), "a lock is left: {all}");
    Ok(())
}
