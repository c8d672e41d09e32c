//! Connections from a network namespace of a tree to somebody outside, who talks on while nobody is there: packets that come in
//! before the sockets are there again must not be answered.
#![cfg(test)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{STASIS, alone, has_root_and_python};

mod targets;

/// Connects as often as it is told, and sends back what it hears.
const ECHO: &str = r#"
import select, socket, sys
connections = [socket.create_connection(("192.0.2.1", 7000)) for _ in range(int(sys.argv[1]))]
while True:
    for connection in select.select(connections, [], [])[0]:
        data = connection.recv(4096)
        if data:
            connection.sendall(data)
        else:
            connections.remove(connection)
"#;
const CONNECTIONS: usize = 40;

fn run(words: &str) {
    let mut words = words.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A process in a network namespace of its own, with a device that leads to a bridge here.
fn start() -> (Child, Vec<TcpStream>) {
    run("ip link add outside type bridge");
    run("ip addr add 192.0.2.1/24 dev outside");
    run("ip link set outside up");
    let listener = TcpListener::bind("192.0.2.1:7000").unwrap();
    let script = "until ip link show in >&2; do sleep 0.01; done; ip addr add 192.0.2.2/24 dev in; ip link set in up; \
                  exec python3 -c \"$0\" \"$1\"";
    let count = CONNECTIONS.to_string();
    let mut command = Command::new("unshare");
    let child = alone(command.args(["--net", "sh", "-c", script, ECHO, &count])).spawn().unwrap();
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|theirs| theirs == own) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    run(&format!("ip link add out type veth peer name in netns {}", child.id()));
    run("ip link set out master outside");
    run("ip link set out up");
    let accept = || {
        let connection = listener.accept().unwrap().0;
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.set_nodelay(true).unwrap();
        connection
    };
    (child, (0..CONNECTIONS).map(|_| accept()).collect())
}

#[track_caller]
fn ask(mut connection: &TcpStream, byte: u8) {
    connection.write_all(&[byte]).unwrap();
}

#[track_caller]
fn hear(mut connection: &TcpStream, byte: u8) {
    let mut answer = [0];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [byte]);
}

#[test]
fn whoever_talks_on_is_not_rejected_by_a_namespace_in_the_making() {
    let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    if !has_root_and_python() || !has_ip {
        return;
    }
    // Of this thread, and what it starts.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let (mut child, connections) = start();
    for connection in &connections {
        ask(connection, 1);
        hear(connection, 1);
    }
    let dir = tempfile::tempdir().unwrap();
    let stasis = |verb: &str, args: &[&str]| {
        let mut command = Command::new(STASIS);
        command.args([verb, "--tcp-established", "-D"]).arg(dir.path()).args(args);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{verb}");
    };
    stasis("dump", &["-t", &child.id().to_string()]);
    child.wait().unwrap();
    // They say it again and again, each at moments of its own.
    for connection in &connections {
        ask(connection, 2);
        std::thread::sleep(Duration::from_millis(4));
    }
    stasis("restore", &["-d", "--pidfile", "pid", "--external", "veth[in]:out@outside"]);
    for connection in &connections {
        hear(connection, 2);
        ask(connection, 3);
        hear(connection, 3);
    }
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}
