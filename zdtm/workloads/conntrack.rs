//! Firewall rules that know connections: of a port, only packets of connections that the machine has seen begin may pass.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use zdtm::ensure;
use zdtm::workload::{Failure, Verdict};

/// Rules that end with this.
#[derive(Debug)]
pub(crate) enum Rules {
    /// A table that belongs to this program, and goes with it.
    Nft(Child),
    /// Rules that are deleted one by one.
    Iptables(u16),
}

impl Rules {
    pub(crate) fn new(by: &str, port: u16) -> Result<Self, Failure> {
        if by == "nft" {
            return Ok(Self::Nft(owned_table(port)?));
        }
        let rules = Self::Iptables(port);
        change("-A", port)?;
        Ok(rules)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        match self {
            Self::Nft(child) => {
                drop(child.kill());
                drop(child.wait());
            }
            Self::Iptables(port) => drop(change("-D", *port)),
        }
    }
}

/// What comes without a connection is a SYN, or is dropped: the kernel would take any packet for the first of one
/// (`net.netfilter.nf_conntrack_tcp_loose`).
fn owned_table(port: u16) -> Result<Child, Failure> {
    let mut child = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| Failure::new("no pipe"))?;
    let table = format!("inet zdtm-{port}");
    writeln!(stdin, "add table {table} {{ flags owner; }}")?;
    for hook in ["input", "output"] {
        writeln!(stdin, "add chain {table} {hook} {{ type filter hook {hook} priority 0; }}")?;
        for end in ["sport", "dport"] {
            let rule = format!("add rule {table} {hook} tcp {end} {port}");
            writeln!(stdin, "{rule} ct state established accept")?;
            writeln!(stdin, "{rule} tcp flags & (syn | ack) == syn ct state new accept")?;
            writeln!(stdin, "{rule} counter drop")?;
        }
    }
    // The pipe stays open: at its end the program ends.
    child.stdin = Some(stdin);
    for _ in 0..500 {
        let tables = Command::new("nft")
            .args(["list", "chain", "inet", &format!("zdtm-{port}"), "output"])
            .output()?;
        if String::from_utf8_lossy(&tables.stdout).matches(" drop").count() == 2 {
            return Ok(child);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(Failure::new("nft does not make the table"))
}

/// Adds or deletes the rules.
fn change(how: &str, port: u16) -> Verdict {
    let port = port.to_string();
    for chain in ["INPUT", "OUTPUT"] {
        for end in ["--sport", "--dport"] {
            for what in [
                &["-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"][..],
                &["--syn", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"],
                &["-j", "DROP"],
            ] {
                let begin = ["-w", how, chain, "-p", "tcp", end, &port];
                let done = Command::new("iptables").args(begin).args(what).status()?;
                ensure!(done.success(), "iptables {how}: {done}");
            }
        }
    }
    Ok(())
}
