//! Listening sockets, made before the shards start, and the few socket calls that do not go through a ring.
#![forbid(unsafe_code)]

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getpeername, getsockname, ipproto, listen, recv,
    send, socket_with, sockopt,
};
use std::net::SocketAddr;

/// Connections that may wait for accept in each listener. The kernel cuts it to `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Opens `count` listeners on one address (port 0: on one port that the kernel chose for the first), between which the kernel
/// spreads connections (`SO_REUSEPORT`).
pub fn listen_on(address: SocketAddr, count: usize) -> std::io::Result<(SocketAddr, Vec<OwnedFd>)> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = open_listener(address)?;
        if address.port() == 0 {
            let bound = SocketAddr::try_from(getsockname(&listener)?)?;
            address.set_port(bound.port());
        }
        listeners.push(listener);
    }
    // Only now: a listener in the group takes connections at once, and all are to take their share from the start.
    for listener in &listeners {
        listen(listener, BACKLOG)?;
    }
    Ok((address, listeners))
}

fn open_listener(address: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // A restarted node takes its port again while old connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it: an ACK does not wait for the one before it to be acknowledged by TCP.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` takes IPv4 too, whatever the host's default is.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// The other end of a connected socket, `None` where it is gone. IPv4 that came through an IPv6 socket is given as IPv4.
pub fn peer_of(socket: impl AsFd) -> Option<SocketAddr> {
    let address = SocketAddr::try_from(getpeername(socket).ok()??).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Sends what the socket takes at once; nobody waits for the rest.
pub fn send_at_once(socket: impl AsFd, bytes: &[u8]) {
    // What has come in is read first: closing a socket with unread bytes resets it, and a reset overtakes the answer.
    let mut scratch = [0; 2048];
    let _ = recv(&socket, &mut scratch, RecvFlags::DONTWAIT);
    // An error leaves nothing to be done: the connection is about to be closed.
    let _ = send(&socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn all_listeners_share_the_port_the_kernel_chose() {
        let (address, listeners) = listen_on("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        for listener in &listeners {
            let bound = SocketAddr::try_from(getsockname(listener).unwrap()).unwrap();
            assert_eq!(bound, address);
        }
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn an_address_in_use_by_another_program_is_an_error() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen_on(other.local_addr().unwrap(), 1).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ipv4_through_an_ipv6_listener_is_shown_as_ipv4() {
        let Ok((address, listeners)) = listen_on("[::]:0".parse().unwrap(), 1) else {
            return; // No IPv6 on this host: nothing to show.
        };
        let listener = TcpListener::from(listeners.into_iter().next().unwrap());
        let client = TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(peer_of(&accepted), Some(client.local_addr().unwrap()));
    }
}
