//! Publishes messages, many at a time, and knows which of them the engine has acknowledged.
//!
//! ```text
//! push ──► unsent ──► on the way ──► acknowledged
//!            ▲            │
//!            └── failed ◄─┘           after a pause that grows
//! ```
//! Nothing is dropped and nothing is given up: a message that is not acknowledged is sent again.
//! Answers count in any order, so that a stream without a leader does not hide the answers of the
//! others. The caller decides how long it waits without any progress.

#![forbid(unsafe_code)]

use super::engine::{Engine, EngineError, chain};
use super::message::{Content, LiveMessage};
use super::subject;
use crate::format::Lsn;
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Bytes that may wait for acknowledgements.
const WINDOW: usize = 8 << 20;

/// What a message without a payload counts, bytes: its subject and headers take about this much.
const MESSAGE_OVERHEAD: usize = 512;

/// Messages that may wait: the client's own limit is twice as high.
const MESSAGES_MAX: usize = 2_000;

/// First and longest wait before messages are sent again.
const RESEND_WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The engine's answer to a message, by its number.
type Answer = Pin<Box<dyn Future<Output = (u64, Result<PublishAck, PublishError>)> + Send>>;

/// Publishes the messages of a shard.
#[derive(Debug)]
pub(crate) struct Publisher {
    engine: Engine,
    /// All messages that are not acknowledged, by their numbers.
    messages: BTreeMap<u64, LiveMessage>,
    /// Those that were not sent, or must be sent again.
    unsent: BTreeSet<u64>,
    /// Of the others.
    answers: FuturesUnordered<Answer>,
    next_number: u64,
    /// Bytes of all messages here.
    bytes: usize,
    /// When to send again, and how long the next wait is.
    resend_at: Option<Instant>,
    wait: Duration,
    stats: PublishStats,
}

/// What a publisher has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishStats {
    /// Acknowledged messages.
    pub(crate) messages: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Of these, messages that the engine had already.
    pub(crate) known: u64,
    /// Messages that were sent again, each time counted.
    pub(crate) resent: u64,
}

/// What has become of a message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The engine has it. The number is that of [`Publisher::next_number`].
    Acknowledged(u64, LiveMessage),
    /// It will be sent again.
    Failed {
        /// The stream that it is for.
        stream: String,
        /// Why.
        told: String,
        /// The engine will never take it as it is set up now.
        is_lasting: bool,
    },
}

impl Publisher {
    /// Publishes to the engine.
    pub(crate) fn new(engine: Engine) -> Publisher {
        Publisher {
            engine,
            messages: BTreeMap::new(),
            unsent: BTreeSet::new(),
            answers: FuturesUnordered::new(),
            next_number: 0,
            bytes: 0,
            resend_at: None,
            wait: RESEND_WAITS.0,
            stats: PublishStats::default(),
        }
    }

    /// What it has done so far.
    pub(crate) fn stats(&self) -> PublishStats {
        self.stats
    }

    /// The name of the stream that a message is for.
    pub(crate) fn stream_of(&self, message: &LiveMessage) -> String {
        self.engine.stream_of(message)
    }

    /// The oldest position that a message here needs; `None` if there is none.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        self.messages.values().map(|message| message.from).min()
    }

    /// Messages that the engine has not acknowledged, and about how many bytes they have.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }

    /// Whether the engine has acknowledged everything.
    pub(crate) fn is_idle(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether it may take more messages.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < WINDOW && self.messages.len() < MESSAGES_MAX
    }

    /// The number that the next message gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Takes a message. [`Publisher::next`] sends it.
    pub(crate) fn push(&mut self, message: LiveMessage) {
        self.bytes += size(&message);
        self.messages.insert(self.next_number, message);
        self.unsent.insert(self.next_number);
        self.next_number += 1;
    }

    /// Sends what waits, and returns the next outcome. Waits for ever if there is nothing to send
    /// and nothing on the way. It may be dropped at any moment: then the next call goes on.
    pub(crate) async fn next(&mut self) -> Outcome {
        loop {
            let (number, answer) = tokio::select! {
                biased;
                Some(answered) = self.answers.next() => answered,
                // While the engine is away, a send waits, and answers fail meanwhile.
                sent = send_first(&self.engine, &self.messages, &self.unsent, self.resend_at) => {
                    let (number, sent) = sent;
                    match sent {
                        Ok(answer) => {
                            self.unsent.remove(&number);
                            self.answers.push(answer);
                            continue;
                        }
                        Err(error) => (number, Err(error)),
                    }
                }
            };
            match answer {
                Ok(ack) => {
                    let Some(message) = self.messages.remove(&number) else { continue };
                    self.bytes -= size(&message);
                    self.stats.known += u64::from(ack.duplicate);
                    self.stats.messages += 1;
                    self.stats.bytes += message.payload().len() as u64;
                    self.wait = RESEND_WAITS.0;
                    return Outcome::Acknowledged(number, message);
                }
                Err(error) => return self.fail(number, &error),
            }
        }
    }

    fn fail(&mut self, number: u64, error: &PublishError) -> Outcome {
        self.unsent.insert(number);
        self.stats.resent += 1;
        let now = Instant::now();
        // Many fail together: they share a pause.
        if self.resend_at.is_none_or(|at| at <= now) {
            self.resend_at = Some(now + self.wait);
            self.wait = (2 * self.wait).min(RESEND_WAITS.1);
        }
        let message = self.messages.get(&number);
        let stream = message.map(|message| self.engine.stream_of(message)).unwrap_or_default();
        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
            let size = message.map_or(0, |message| message.payload().len());
            let told = format!(
                "the message engine takes no message of {size} bytes: raise its max_payload to \
                 1 MiB"
            );
            return Outcome::Failed { stream, told, is_lasting: true };
        }
        Outcome::Failed { stream, told: chain(error), is_lasting: false }
    }

    /// Sends what waits. Waits until there is room for more messages, or with `wants_all` until all
    /// are acknowledged. Fails if nothing was acknowledged for the time `patience`.
    pub(crate) async fn settle(
        &mut self,
        wants_all: bool,
        patience: Duration,
    ) -> Result<(), EngineError> {
        let (mut began, mut failure) = (Instant::now(), "there is no answer".to_owned());
        loop {
            let may_go_on = if wants_all { self.is_idle() } else { self.has_room() };
            let outcome = match may_go_on {
                true => self.next().now_or_never().map(Ok),
                false => Some(timeout_at(began + patience, self.next()).await),
            };
            match outcome {
                None => return Ok(()),
                Some(Ok(Outcome::Acknowledged(..))) => began = Instant::now(),
                Some(Ok(Outcome::Failed { told, is_lasting: true, .. })) => {
                    return Err(EngineError(told));
                }
                Some(Ok(Outcome::Failed { told, .. })) => failure = told,
                Some(Err(_)) => {
                    return Err(EngineError(format!(
                        "the message engine has acknowledged nothing for {}: {failure}",
                        humantime::format_duration(Duration::from_secs(patience.as_secs()))
                    )));
                }
            }
        }
    }
}

/// Sends the first of the messages that were not sent, once it is time. Returns its number.
async fn send_first(
    engine: &Engine,
    messages: &BTreeMap<u64, LiveMessage>,
    unsent: &BTreeSet<u64>,
    resend_at: Option<Instant>,
) -> (u64, Result<Answer, PublishError>) {
    let first = unsent.first().and_then(|number| Some((*number, messages.get(number)?)));
    let Some((number, message)) = first else { return std::future::pending().await };
    if let Some(at) = resend_at {
        sleep_until(at).await;
    }
    let sent = send(engine, message).await;
    (number, sent.map(|answer| Box::pin(async move { (number, answer.await) }) as Answer))
}

async fn send(
    engine: &Engine,
    message: &LiveMessage,
) -> Result<async_nats::jetstream::context::PublishAckFuture, PublishError> {
    let subject = match &message.content {
        Content::Audio(_) => subject::audio(&message.identity, engine.slots),
        Content::Event { .. } => subject::events(&message.identity),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in message.headers() {
        headers.insert(name, value.as_str());
    }
    let publish = PublishMessage::build()
        .payload(message.payload())
        .headers(headers)
        .message_id(message.id());
    engine.context.send_publish(subject, publish).await
}

fn size(message: &LiveMessage) -> usize {
    message.payload().len() + MESSAGE_OVERHEAD
}
