//! Network namespaces that nobody is in, but a mount keeps, as `ip netns add` makes them; and the workload's own, which has a name,
//! too.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::commands::output;

/// Gives a namespace a name.
fn name(space: &Path, name: &Path) -> Verdict {
    fs::write(name, "")?;
    Ok(mount(Some(space), name, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Runs ip(8) in a namespace.
fn ip_in(space: &Path, args: &str) -> Result<String, Failure> {
    let net = format!("--net={}", space.display());
    output("nsenter", &[&["--no-fork", &net, "ip"], &args.split(' ').collect::<Vec<_>>()[..]].concat())
}

fn ino(path: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(path)?.ino())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let spaces: [PathBuf; 3] = ["own", "named", "again"].map(|name| cx.path(name));
    let [own, named, again] = &spaces;
    let own_link = Path::new("/proc/self/ns/net");
    let home = File::open(own_link)?;
    name(own_link, own)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    name(own_link, named)?;
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    drop(home);
    name(named, again)?;
    ip_in(named, "link set lo up")?;
    ip_in(named, "link add one index 41 address 02:00:00:00:00:41 type veth peer name two")?;
    ip_in(named, "addr add 192.0.2.41/24 dev one")?;
    // One end is at home.
    ip_in(named, "link set two netns 1")?;
    let view = || -> Result<_, Failure> {
        let there = [ip_in(named, "-o -4 addr")?, ip_in(again, "-br link")?];
        Ok((there, ip_in(own, "-br link")?))
    };
    let before = view()?;
    cx.barrier()?;
    ensure_eq!(view()?, before, "what is in the namespaces");
    ensure_eq!(ino(own)?, ino(own_link)?, "the own namespace");
    ensure_eq!(ino(named)?, ino(again)?, "the other one, by two names");
    ensure!(ino(own)? != ino(named)?, "one namespace instead of two");
    let _socket = UdpSocket::bind("127.0.0.1:0")?;
    Ok(())
}
