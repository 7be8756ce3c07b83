//! What each kind of hostile peer does on one connection, from the first byte to the end.

#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

use super::bytes;
use super::ear::Ear;
use super::ending::Ending;
use super::kind::Kind;
use super::peer::{Node, Options, Peer, patience};
use crate::event;
use crate::identities::CallIds;

/// Longest time for a valid call to come up, before it turns hostile.
const SETUP_WAIT: Duration = Duration::from_secs(10);

/// How long a flood goes on after the node's Close. A flood that stopped at it would be too easy.
const AFTER_CLOSE: Duration = Duration::from_secs(1);

/// Messages of a flood, at most.
const FLOOD_MAX: usize = 1_000_000;

/// Fragments of one message.
const FRAGMENTS: usize = 1_000_000;

/// Approximate bytes of one write of a flood.
const CHUNK_SIZE: usize = 32 * 1024;

/// Time between two bytes of a slow head.
const SLOW_BYTE: Duration = Duration::from_secs(1);

/// How often a peer that never reads asks for more answers.
const MORE_ANSWERS: Duration = Duration::from_millis(500);

/// Most new keys on one connection.
const KEYS_MAX: usize = 100_000;

/// One connection of one peer.
#[derive(Clone, Copy)]
pub struct Play<'a> {
    /// What it does.
    pub kind: Kind,
    /// The node.
    pub node: Node<'a>,
    /// Its ids and token.
    pub ids: &'a CallIds,
    /// Number of the connection.
    pub number: u64,
    /// Hz, of calls.
    pub sample_rate: u32,
    /// Time in which the node must end it.
    pub limit: Duration,
}

/// How one connection went.
pub struct Played {
    /// Its end.
    pub ending: Ending,
    /// Time from when the node had reason to end it.
    pub after: Duration,
    /// Bytes sent.
    pub sent: u64,
}

impl Play<'_> {
    /// Plays it.
    pub async fn play(self) -> Played {
        let mut begin = Instant::now();
        let options = Options { is_tiny: self.kind == Kind::ZeroWindow };
        // This kind sends its half ClientHello instead of a handshake.
        let node = Node { tls: self.node.tls.filter(|_| self.kind != Kind::HalfTls), ..self.node };
        let mut peer = match node.connect(options).await {
            Ok(peer) => peer,
            Err(ending) => return Played { ending, after: begin.elapsed(), sent: 0 },
        };
        begin = Instant::now();
        let ending = match self.kind {
            Kind::Slowloris => self.send_head_slowly(&mut peer, begin).await,
            Kind::HalfTls => {
                self.send_once(&mut peer, &bytes::half_hello(), Ear::raw(), begin).await
            }
            Kind::BadTokens => self.ask_with_bad_token(&mut peer, begin).await,
            Kind::Resets => return self.reset_midway(peer, begin).await,
            Kind::ZeroWindow => self.never_read(&mut peer, begin).await,
            Kind::Fragments | Kind::EmptyFrames | Kind::Pings => {
                self.flood(&mut peer, &mut begin).await
            }
            Kind::Renegotiate => self.change_keys(&mut peer, &mut begin).await,
        };
        Played { ending, after: begin.elapsed(), sent: peer.drop_now() }
    }

    async fn send_once(
        &self,
        peer: &mut Peer,
        bytes: &[u8],
        mut ear: Ear,
        begin: Instant,
    ) -> Ending {
        match peer.write(bytes).await {
            Ok(()) => peer.listen(&mut ear, begin + patience(self.limit)).await,
            Err(ending) => ending,
        }
    }

    async fn send_head_slowly(&self, peer: &mut Peer, begin: Instant) -> Ending {
        let head = bytes::slow_head(&self.node.target.host);
        let mut ear = Ear::raw();
        for (index, byte) in head.iter().cycle().enumerate() {
            if let Err(ending) = peer.write(&[*byte]).await {
                // The node's last message may still be unread.
                let heard = peer.listen(&mut ear, Instant::now()).await;
                return if heard == Ending::NotClosed { ending } else { heard };
            }
            let next = begin + SLOW_BYTE * (index as u32 + 1);
            let ending = peer.listen(&mut ear, next.min(begin + patience(self.limit))).await;
            if ending != Ending::NotClosed || next > begin + patience(self.limit) {
                return ending;
            }
        }
        Ending::NotClosed
    }

    async fn ask_with_bad_token(&self, peer: &mut Peer, begin: Instant) -> Ending {
        let token = bytes::bad_token(&self.ids.token, self.number);
        match Ear::upgrading(self.node.target, &token) {
            Ok((ear, request)) => self.send_once(peer, &request, ear, begin).await,
            Err(ending) => ending,
        }
    }

    /// The request and the start of a valid call.
    fn call(&self) -> Result<(Ear, Vec<u8>), Ending> {
        let (ear, mut bytes) = Ear::upgrading(self.node.target, &self.ids.token)?;
        bytes.extend(self.start());
        Ok((ear, bytes))
    }

    fn start(&self) -> Vec<u8> {
        bytes::text(&event::start(&self.ids.interaction, &self.ids.tenant, self.sample_rate))
    }

    async fn be_a_call(&self, peer: &mut Peer) -> Result<Ear, Ending> {
        let (mut ear, bytes) = self.call()?;
        peer.write(&bytes).await?;
        peer.await_that(&mut ear, SETUP_WAIT, |ear| ear.is_started).await?;
        Ok(ear)
    }

    /// Sends the same bytes over and over, until the node ends the call, and for a while after.
    async fn flood(&self, peer: &mut Peer, begin: &mut Instant) -> Ending {
        let mut ear = match self.be_a_call(peer).await {
            Ok(ear) => ear,
            Err(ending) => return ending,
        };
        *begin = Instant::now();
        let (first, message, count) = match self.kind {
            Kind::Fragments => (bytes::first_fragment(), bytes::two_fragments(), FRAGMENTS / 2),
            Kind::EmptyFrames => (Vec::new(), bytes::frame(bytes::BINARY, &[]), FLOOD_MAX),
            _ => (Vec::new(), bytes::frame(bytes::PING, b"ping"), FLOOD_MAX),
        };
        let per_chunk = CHUNK_SIZE / message.len();
        let chunk = message.repeat(per_chunk);
        let mut chunks = count.div_ceil(per_chunk);
        let mut first = Some(first);
        let mut closed = None;
        let mut plain = Vec::new();
        let mut deadline = *begin + patience(self.limit);
        loop {
            let writes = chunks > 0 || !peer.is_flushed();
            match tokio::time::timeout_at(deadline, peer.ready(writes)).await {
                Err(_) => break,
                Ok(ready) => {
                    let done = ready.and_then(|()| {
                        if writes && peer.try_flush()? && chunks > 0 {
                            chunks -= 1;
                            peer.try_write(&first.take().unwrap_or_default())?;
                            peer.try_write(&chunk)?;
                        }
                        peer.try_read(&mut plain)
                    });
                    if let Err(error) = done
                        && !peer.drain(&mut plain)
                        && plain.is_empty()
                    {
                        return settle(closed, begin).unwrap_or_else(|| Ending::of_io(&error));
                    }
                }
            }
            if let (None, Some(ending)) = (&closed, ear.handle_bytes(&plain)) {
                let now = Instant::now();
                closed = Some((ending, now));
                deadline = now + AFTER_CLOSE;
            }
            plain.clear();
        }
        settle(closed, begin).unwrap_or(Ending::NotClosed)
    }

    /// Makes the node answer, and does not read the answers.
    async fn never_read(&self, peer: &mut Peer, begin: Instant) -> Ending {
        let mut all = match self.call() {
            Ok((_, bytes)) => bytes,
            Err(ending) => return ending,
        };
        all.extend(bytes::many_answers(&self.start()));
        let more = bytes::more_answers();
        let mut written = peer.try_write(&all);
        let mut next = Instant::now() + MORE_ANSWERS;
        loop {
            if let Err(error) = written {
                return Ending::of_io(&error);
            }
            if next > begin + patience(self.limit) {
                return Ending::NotClosed;
            }
            if peer.is_flushed() {
                tokio::time::sleep_until(next).await;
            } else {
                // A node that has ended the call reads no more. Only a reset tells the peer so.
                let _ = tokio::time::timeout_at(next, peer.writable()).await;
            }
            written = if Instant::now() >= next {
                next += MORE_ANSWERS;
                if peer.is_flushed() { peer.try_write(&more) } else { peer.try_flush() }
            } else {
                peer.try_flush()
            };
        }
    }

    /// Ends by RST, at one of four points.
    async fn reset_midway(&self, mut peer: Peer, begin: Instant) -> Played {
        let done = self.come_to_a_point(&mut peer).await;
        let sent = peer.sent;
        peer.reset();
        let ending = done.err().unwrap_or(Ending::OwnReset);
        Played { ending, after: begin.elapsed(), sent }
    }

    async fn come_to_a_point(&self, peer: &mut Peer) -> Result<(), Ending> {
        let (mut ear, call) = self.call()?;
        match self.number % 4 {
            0 => Ok(()),
            1 => peer.write(&call[..call.len() / 2]).await,
            2 => {
                let (mut ear, request) = Ear::upgrading(self.node.target, &self.ids.token)?;
                peer.write(&request).await?;
                peer.await_that(&mut ear, SETUP_WAIT, Ear::is_open).await
            }
            _ => {
                peer.write(&call).await?;
                peer.await_that(&mut ear, SETUP_WAIT, |ear| ear.is_started).await?;
                peer.write(&bytes::frames_and_a_half()).await
            }
        }
    }

    async fn change_keys(&self, peer: &mut Peer, begin: &mut Instant) -> Ending {
        let mut ear = match self.be_a_call(peer).await {
            Ok(ear) => ear,
            Err(ending) => return ending,
        };
        *begin = Instant::now();
        for _ in 0..KEYS_MAX {
            let Some(tls) = peer.tls() else { return Ending::Odd("no TLS".to_owned()) };
            if let Err(error) = tls.refresh_traffic_keys() {
                return Ending::Odd(error.to_string());
            }
            if let Err(ending) = peer.write(&[]).await {
                let heard = peer.listen(&mut ear, Instant::now()).await;
                return if heard == Ending::NotClosed { ending } else { heard };
            }
            if *begin + patience(self.limit) <= Instant::now() {
                break;
            }
            let ending = peer.listen(&mut ear, Instant::now()).await;
            if ending != Ending::NotClosed {
                return ending;
            }
        }
        peer.listen(&mut ear, *begin + patience(self.limit)).await
    }
}

/// The ending that came during the flood, with the time at which it came.
fn settle(closed: Option<(Ending, Instant)>, begin: &mut Instant) -> Option<Ending> {
    let (ending, at) = closed?;
    // `after` is measured when the peer ends. The node had ended the call at `at`.
    *begin += at.elapsed();
    Some(ending)
}
