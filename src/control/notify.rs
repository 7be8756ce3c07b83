#![forbid(unsafe_code)]
//! Tells a supervisor that the node serves, reloads, or stops. It writes to the descriptor of
//! `--ready-fd` and to systemd's notification socket (sd_notify(3)).

use rustix::time::{ClockId, clock_gettime};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr as NodeAddress;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The supervisors that wait for the node.
#[derive(Debug)]
pub(crate) struct Notifier {
    ready: Option<File>,
    socket: Option<OsString>,
}

impl Notifier {
    /// A notifier for the descriptor of `--ready-fd`, if it was given, and for `NOTIFY_SOCKET`, if
    /// it is set.
    pub(crate) fn new(ready: Option<File>) -> Notifier {
        Notifier {
            ready,
            socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
        }
    }

    /// The node serves on `address`. A supervisor that cannot be reached is logged, and the node
    /// continues.
    pub(crate) fn ready(&mut self, address: NodeAddress) {
        if let Some(mut file) = self.ready.take()
            && let Err(error) = file.write_all(format!("listening on {address}\n").as_bytes())
        {
            tracing::warn!("cannot write to the descriptor of --ready-fd: {error}");
        }
        self.tell(&format!("READY=1\nSTATUS=listening on {address}\n"));
    }

    /// The node begins to read its files again on request. The time tells systemd that this reload
    /// came after its request.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=reading keys, certificates and settings\n"
        ));
    }

    /// Files were read: on request, which ends the reload, or because one has changed.
    pub(crate) fn files_read(&self, is_asked: bool, address: NodeAddress, what: &str) {
        let ready = if is_asked { "READY=1\n" } else { "" };
        // A file's name may hold any character, and a line break would begin another assignment.
        let what = what.replace(char::is_control, " ");
        self.tell(&format!("{ready}STATUS=listening on {address}; {what}\n"));
    }

    /// The node begins to drain.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining\n");
    }

    fn tell(&self, message: &str) {
        if let Some(name) = &self.socket
            && let Err(error) = send(name, message)
        {
            tracing::warn!("cannot notify {}: {error}", name.display());
        }
    }
}

/// A name that starts with `@` is abstract: it is not in a directory.
fn send(name: &OsStr, message: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "NOTIFY_SOCKET is neither a path nor an abstract address",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not read must not block the node.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let size = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn systemd_is_told_through_a_path_and_through_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("exo-ingest-test-{}", std::process::id());
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut notifier = Notifier { ready: None, socket: Some(path.into()) };
        notifier.ready("127.0.0.1:8443".parse().unwrap());
        assert_eq!(received(&by_path), "READY=1\nSTATUS=listening on 127.0.0.1:8443\n");
        let notifier = Notifier { ready: None, socket: Some(format!("@{name}").into()) };
        notifier.stopping();
        assert_eq!(received(&by_name), "STOPPING=1\nSTATUS=draining\n");
    }

    #[test]
    fn a_reload_has_a_start_and_an_end_and_a_status_has_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { ready: None, socket: Some(path.into()) };
        let address = "127.0.0.1:8443".parse().unwrap();
        let before = clock_gettime(ClockId::Monotonic);
        notifier.reloading();
        let message = received(&socket);
        let now_us = message
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|rest| rest.split_once('\n'))
            .unwrap()
            .0;
        assert!(
            now_us.parse::<i64>().unwrap() >= before.tv_sec * 1_000_000 + before.tv_nsec / 1_000,
            "{message}"
        );
        notifier.files_read(true, address, "keys not reloaded: the key file a\nREADY=1 is refused");
        let status = "STATUS=listening on 127.0.0.1:8443; keys not reloaded: the key file a \
                      READY=1 is refused\n";
        assert_eq!(received(&socket), format!("READY=1\n{status}"));
        notifier.files_read(false, address, "keys reloaded");
        assert_eq!(received(&socket), "STATUS=listening on 127.0.0.1:8443; keys reloaded\n");
    }

    #[test]
    fn a_supervisor_that_has_gone_does_not_stop_the_node() {
        let mut notifier = Notifier { ready: None, socket: Some("/nonexistent/notify".into()) };
        notifier.ready("127.0.0.1:8443".parse().unwrap());
        assert!(send(OsStr::new("vsock:2:1"), "READY=1").is_err());
    }

    #[test]
    fn the_ready_descriptor_gets_one_line_and_is_closed() {
        let mut file = tempfile::tempfile().unwrap();
        let mut notifier = Notifier { ready: Some(file.try_clone().unwrap()), socket: None };
        notifier.ready("[::1]:9".parse().unwrap());
        notifier.ready("[::1]:9".parse().unwrap());
        assert!(notifier.ready.is_none());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "listening on [::1]:9\n");
    }
}
