//! Namespaces that a program left its own for, without being the init of any: `unshared NAME...`.
//!
//! With `child` before the names, it is a child that left.

use nix::sched::{CloneFlags, unshare};
use nix::sys::utsname::uname;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

const HOST: &str = "unshared.example";

fn flag(name: &str) -> Result<CloneFlags, Failure> {
    Ok(match name {
        "uts" => CloneFlags::CLONE_NEWUTS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "net" => CloneFlags::CLONE_NEWNET,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        "user" => CloneFlags::CLONE_NEWUSER,
        _ => return Err(Failure::new(format!("no namespace {name}"))),
    })
}

fn leave(names: &[String]) -> Verdict {
    let flags = names.iter().map(|name| flag(name)).collect::<Result<Vec<_>, _>>()?;
    unshare(flags.into_iter().collect())?;
    if names.iter().any(|name| name == "uts") {
        nix::unistd::sethostname(HOST)?;
    }
    Ok(())
}

fn look(names: &[String]) -> Verdict {
    if names.iter().any(|name| name == "uts") {
        ensure_eq!(uname()?.nodename().to_string_lossy(), HOST, "host name");
    }
    if names.iter().any(|name| name == "net") {
        let down = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| std::net::TcpStream::connect(l.local_addr()?));
        ensure!(down.is_err(), "the loopback device of a new network namespace is up");
    }
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let names = cx.args().to_vec();
    let Some(names) = names.strip_prefix(&["child".to_owned()][..]) else {
        leave(&names)?;
        cx.barrier()?;
        return look(&names);
    };
    let child = cx.child(|cx| {
        leave(names)?;
        cx.post("left")?;
        cx.park()?;
        look(names)
    })?;
    cx.wait_for("left")?;
    cx.barrier()?;
    child.join()
}
