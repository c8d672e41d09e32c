use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rstest::rstest;

use super::*;

/// Repair mode needs a capability that test machines may lack.
fn may_repair() -> bool {
    let socket = socket::create(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
    Repair::start(socket.as_fd(), 0).is_ok()
}

fn connect(host: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    (client, server)
}

/// Replaces a socket by a restored one, in the middle of everything.
fn replace(stream: TcpStream) -> TcpStream {
    let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let saved = Connection::save(stream.as_fd(), 0, local, remote).unwrap();
    Repair::start(stream.as_fd(), 0).unwrap().keep();
    drop(stream);
    let family = if local.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let new = socket::create(family, libc::SOCK_STREAM, 0).unwrap();
    let restored = saved.restore(new.as_fd(), 0).unwrap();
    saved.reach_state(new.as_fd()).unwrap();
    assert_eq!(state(new.as_fd()).unwrap().0, saved.state);
    restored.release().unwrap();
    new.into()
}

#[rstest]
#[case("127.0.0.1")]
#[case("::1")]
fn a_connection_goes_on_in_another_socket(#[case] host: &str) {
    if !may_repair() {
        return;
    }
    let (mut client, mut server) = connect(host);
    client.write_all(b"unread").unwrap();
    server.write_all(b"unread too").unwrap();
    let mut client = replace(client);
    let mut bytes = [0; 10];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"unread too");
    client.write_all(b" and more").unwrap();
    let mut bytes = [0; 15];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"unread and more");
    drop(client);
    assert_eq!(server.read(&mut bytes).unwrap(), 0);
}

#[test]
fn megabytes_in_both_queues_arrive() {
    if !may_repair() {
        return;
    }
    let (mut client, server) = connect("127.0.0.1");
    client.set_nonblocking(true).unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut written = 0;
    while let Ok(n) = client.write(&bytes[written..]) {
        written += n;
        if n == 0 || written == bytes.len() {
            break;
        }
    }
    let client = replace(client);
    let mut server = replace(server);
    let reader = std::thread::spawn(move || {
        let mut heard = vec![0; written];
        server.read_exact(&mut heard).unwrap();
        heard
    });
    assert!(reader.join().unwrap() == bytes[..written]);
    drop(client);
}

#[test]
fn saving_leaves_the_socket_as_it_was() {
    if !may_repair() {
        return;
    }
    let (mut client, mut server) = connect("127.0.0.1");
    set_number(client.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
    server.write_all(b"wait").unwrap();
    for _ in 0..3 {
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let saved = Connection::save(client.as_fd(), 1, local, remote).unwrap();
        assert_eq!((saved.received.as_slice(), saved.state), (&b"wait"[..], State::Established));
    }
    assert_eq!(get_number(client.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR), Ok(1));
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).unwrap();
    client.write_all(b"back").unwrap();
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
}

#[rstest]
#[case("127.0.0.1")]
#[case("::1")]
fn half_closed_connections_are_half_closed_again(#[case] host: &str) {
    if !may_repair() {
        return;
    }
    // We have closed our direction, and the peer knows.
    let (client, mut server) = connect(host);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut client = replace(client);
    server.write_all(b"still").unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(server.read(&mut bytes).unwrap(), 0);
    // The peer has closed its direction.
    let (client, mut server) = connect(host);
    server.write_all(b"last").unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    wait_for(client.as_fd(), State::CloseWait).unwrap();
    let mut client = replace(client);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last");
    client.write_all(b"still").unwrap();
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still");
}

#[test]
fn nonsense_is_no_window() {
    assert_eq!(Window::parse(&[0; 19]), None);
    assert_eq!(Window::parse(&Window { rcv_wnd: 7, ..Window::default() }.bytes()).unwrap().rcv_wnd, 7);
}
