//! Listening sockets, which are made before the shards start, and the few socket calls that do not
//! use a ring.
#![forbid(unsafe_code)]

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getpeername, getsockname,
    ipproto, listen, recv, send, socket_with, sockopt,
};
use std::net::SocketAddr;

/// Connections that may wait for accept in each listener. The kernel limits it to
/// `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Opens `count` listeners on one address. With port 0, the kernel chooses a port for the first
/// one, and all use it. The kernel spreads connections over them (`SO_REUSEPORT`).
pub(crate) fn listen_on(
    address: SocketAddr,
    count: usize,
) -> std::io::Result<(SocketAddr, Vec<OwnedFd>)> {
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
    // Only now, because a listener in the group gets connections at once, and all should get their
    // share from the start.
    for listener in &listeners {
        listen(listener, BACKLOG)?;
    }
    Ok((address, listeners))
}

/// Whether it is possible to listen on `address`; nothing stays bound.
pub(crate) fn try_address(address: SocketAddr) -> std::io::Result<()> {
    open_listener(address).map(drop)
}

/// Whether another process listens on `address`. Our own listeners can share it, so they do not
/// notice.
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = || {
        let socket =
            socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        // Old connections in TIME_WAIT do not count.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)
    };
    address.port() != 0 && bound() == Err(rustix::io::Errno::ADDRINUSE)
}

/// `count` descriptors of a listening socket that another process has passed, and its address. They
/// share one queue of connections; the kernel gives each connection to one waiting descriptor.
pub(crate) fn share_listener(
    passed: &OwnedFd,
    count: usize,
) -> std::io::Result<(SocketAddr, Vec<OwnedFd>)> {
    let invalid = |reason: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
    if sockopt::socket_type(passed)? != SocketType::STREAM {
        return Err(invalid("it is not a stream socket"));
    }
    let address = SocketAddr::try_from(getsockname(passed)?)
        .map_err(|_| invalid("it is not a TCP socket"))?;
    // As with our own listener: accepted sockets inherit it.
    sockopt::set_tcp_nodelay(passed, true)?;
    // A socket that already listens gets our backlog; one that is only bound begins to listen.
    listen(passed, BACKLOG)?;
    // The lowest number for a descriptor after the standard streams.
    let copies = (0..count).map(|_| rustix::io::fcntl_dupfd_cloexec(passed, 3));
    Ok((address, copies.collect::<Result<_, _>>()?))
}

fn open_listener(address: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // A restarted node can take its port while old connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted sockets inherit it: an ACK must not wait until TCP has acknowledged the one before.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` accepts IPv4 too, whatever the default of the host is.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// The other end of a connected socket; `None` if it is gone. An IPv4 peer of an IPv6 socket is
/// returned as IPv4.
pub(crate) fn peer_of(socket: impl AsFd) -> Option<SocketAddr> {
    let address = SocketAddr::try_from(getpeername(socket).ok()??).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Sends what the socket accepts at once; the rest is dropped.
pub(crate) fn send_at_once(socket: impl AsFd, bytes: &[u8]) {
    // Reads first what has arrived: closing a socket with unread bytes resets it, and the reset
    // overtakes the answer.
    let mut scratch = [0; 2048];
    let _ = recv(&socket, &mut scratch, RecvFlags::DONTWAIT);
    // An error needs no handling: the connection is about to be closed.
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
        // It can be shared, and that is noticed.
        assert!(is_taken(address));
        listen_on(address, 1).unwrap();
        drop(listeners);
        assert!(!is_taken(address) && !is_taken("127.0.0.1:0".parse().unwrap()));
    }

    #[test]
    fn all_copies_of_a_passed_listener_accept_from_one_queue() {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        let (shared, copies) = share_listener(&OwnedFd::from(passed), 3).unwrap();
        assert_eq!((shared, copies.len()), (address, 3));
        for copy in copies {
            let client = TcpStream::connect(address).unwrap();
            let (accepted, peer) = TcpListener::from(copy).accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert!(accepted.nodelay().unwrap(), "an ACK does not wait");
        }
    }

    #[test]
    fn other_sockets_than_tcp_listeners_are_refused() {
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap()
        };
        let file = tempfile::tempfile().unwrap();
        for passed in [OwnedFd::from(datagram), OwnedFd::from(client), OwnedFd::from(file)] {
            assert!(share_listener(&passed, 1).is_err(), "{passed:?}");
        }
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
            return; // No IPv6 on this host: nothing to test.
        };
        let listener = TcpListener::from(listeners.into_iter().next().unwrap());
        let client = TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(peer_of(&accepted), Some(client.local_addr().unwrap()));
    }
}
