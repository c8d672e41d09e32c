//! Namespaces of its own are such again: ids, mounts, clocks, the network and the cgroup look the same from within.

use std::fs;
use std::net::{TcpListener, TcpStream};

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// What `/proc` shows of namespaces, without the numbers that the kernel gives to new ones.
fn look() -> Result<Vec<String>, Failure> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{name}"));
    let mounts = read("self/mountinfo")?;
    // Numbers of the mount, of its parent, and of its device come first.
    let mounts = mounts.lines().map(|line| line.splitn(4, ' ').last().unwrap_or_default().to_owned());
    let mut seen = vec![
        read("self/uid_map")?,
        read("self/gid_map")?,
        read("self/cgroup")?,
        read("self/timens_offsets")?.split_whitespace().step_by(3).collect(),
        read("sys/kernel/hostname")?,
        format!("{} below {}", std::process::id(), nix::unistd::getppid()),
    ];
    seen.extend(mounts);
    Ok(seen)
}

fn talk_to_ourselves() -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    ensure_eq!(listener.accept()?.1, client.local_addr()?, "who connected");
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = look()?;
    ensure!(nix::unistd::getppid().as_raw() == 1, "not below the init of a pid namespace");
    talk_to_ourselves()?;
    cx.barrier()?;
    for (was, is) in before.iter().zip(look()?) {
        ensure_eq!(is, *was, "what is seen of namespaces");
    }
    talk_to_ourselves()
}
