//! Reads `/status.json` of a node. One small request of HTTP/1.0 each time, so that the answer ends
//! with the connection. (Rejected: an HTTP library. A dozen crates for one request to one server.)

#![forbid(unsafe_code)]

use crate::control::admin::document::{FORMAT, StatusDocument};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATH: &str = "/status.json";

/// A node that serves calls answers well within this.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Longest answer that is read, bytes: several times the document of a large node.
const ANSWER_SIZE_MAX: u64 = 8 << 20;

/// Why there is no document.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The address is none.
    Address(io::Error),
    /// Nothing answers there.
    Unreachable(io::Error),
    /// It answers with another status than 200.
    Status(String),
    /// It answers with something else.
    Strange,
    /// The document has another version.
    Format(u32),
}

/// The admin listener of a node.
#[derive(Clone, Debug)]
pub(super) struct AdminAddress(String);

impl AdminAddress {
    /// From `HOST:PORT`, or from a URL of the listener.
    pub(super) fn parse(text: &str) -> Result<AdminAddress, String> {
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.split('/').next().unwrap_or_default();
        let is_good = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        match is_good && !address.contains(|c: char| c.is_whitespace() || c.is_control()) {
            true => Ok(AdminAddress(address.to_owned())),
            false => Err("give HOST:PORT, as the node's --admin has it".into()),
        }
    }

    /// Asks the node for its status, and waits for the answer.
    pub(super) fn fetch(&self) -> Result<StatusDocument, FetchError> {
        let answer = self.get()?;
        let (head, body) = split(&answer).ok_or(FetchError::Strange)?;
        let status = head.lines().next().and_then(|line| line.split_once(' ')).map(|line| line.1);
        match status {
            Some(status) if status.starts_with("200") => {}
            Some(status) => return Err(FetchError::Status(status.to_owned())),
            None => return Err(FetchError::Strange),
        }
        let document: StatusDocument =
            serde_json::from_slice(body).map_err(|_| FetchError::Strange)?;
        match document.format {
            FORMAT => Ok(document),
            format => Err(FetchError::Format(format)),
        }
    }

    fn get(&self) -> Result<Vec<u8>, FetchError> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in self.0.to_socket_addrs().map_err(FetchError::Address)? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => return self.ask(stream).map_err(FetchError::Unreachable),
                Err(error) => last = error,
            }
        }
        Err(FetchError::Unreachable(last))
    }

    fn ask(&self, mut stream: TcpStream) -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let request = format!("GET {PATH} HTTP/1.0\r\nHost: {}\r\n\r\n", self.0);
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_SIZE_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    head.starts_with("HTTP/1.").then_some((head, &answer[end + 4..]))
}

impl FetchError {
    /// A sentence for people.
    pub(super) fn sentence(&self, address: &AdminAddress) -> String {
        const HINT: &str = "give the address that the node's --admin has";
        match self {
            FetchError::Address(error) => format!("{address} is no address ({error}): {HINT}"),
            FetchError::Unreachable(error) => {
                let why = match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer".into(),
                    io::ErrorKind::ConnectionRefused => "connection refused".into(),
                    _ => error.to_string(),
                };
                format!("cannot read the status of the node at {address} ({why}): {HINT}")
            }
            FetchError::Status(status) if status.starts_with("404") => format!(
                "{address} has no {PATH}: it is a node of an older version, or its ingest port; \
                 {HINT}"
            ),
            FetchError::Status(status) => format!("{address} answers {status}: {HINT}"),
            FetchError::Strange => {
                format!("{address} does not answer as a node does: {HINT}")
            }
            FetchError::Format(format) => format!(
                "the node at {address} has a status document of format {format}, and this program \
                 reads format {FORMAT}: use the exo-ingest of that node"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_is_a_host_and_a_port_with_or_without_the_rest_of_a_url() {
        for (text, address) in [
            ("127.0.0.1:9464", "127.0.0.1:9464"),
            ("http://node-1:9464/", "node-1:9464"),
            ("http://[::1]:9464/ready", "[::1]:9464"),
        ] {
            assert_eq!(AdminAddress::parse(text).unwrap().to_string(), address);
        }
        for text in ["", "off", ":9464", "node", "node:0", "node:99999", "a b:1", "https://a:1"] {
            assert!(AdminAddress::parse(text).is_err(), "{text}");
        }
    }

    /// What a fetch says of a server that answers this.
    fn fetched(answer: &'static [u8]) -> Result<StatusDocument, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = AdminAddress(listener.local_addr().unwrap().to_string());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let size = stream.read(&mut request).unwrap();
            assert!(request[..size].starts_with(b"GET /status.json HTTP/1.0\r\n"));
            stream.write_all(answer).unwrap();
        });
        let outcome = address.fetch().map_err(|error| error.sentence(&address));
        server.join().unwrap();
        outcome
    }

    #[test]
    fn answers_that_are_no_document_say_what_to_do() {
        for (answer, part) in [
            (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], "older version"),
            (b"HTTP/1.1 503 Busy\r\n\r\n", "answers 503 Busy"),
            (b"HTTP/1.1 200 OK\r\n\r\n{}", "does not answer as a node"),
            (b"SSH-2.0-x\r\n", "does not answer as a node"),
            (b"", "does not answer as a node"),
        ] {
            let said = fetched(answer).unwrap_err();
            assert!(said.contains(part) && said.contains("--admin"), "{said}");
        }
        let newer = StatusDocument { format: 7, ..StatusDocument::default() };
        let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", serde_json::to_string(&newer).unwrap());
        let said = fetched(answer.leak().as_bytes()).unwrap_err();
        assert!(said.contains("format 7"), "{said}");
    }
}
