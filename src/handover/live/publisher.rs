//! Publishes messages, many at a time, and knows which of them the engine has acknowledged.
//!
//! Nothing is dropped and nothing is given up: a message that is not acknowledged is sent again.
//! The caller decides how long it waits without any progress.

#![forbid(unsafe_code)]

use super::engine::{Engine, EngineError, chain};
use super::message::{Content, LiveMessage};
use super::subject;
use crate::format::Lsn;
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Bytes that may wait for acknowledgements.
const WINDOW: usize = 8 << 20;

/// What a message without a payload counts, bytes: its subject and headers take about this much.
const MESSAGE_OVERHEAD: usize = 512;

/// Messages that may wait: the client's own limit is twice as high.
const MESSAGES_MAX: usize = 2_000;

/// First and longest wait before messages are sent again.
const RESEND_WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Publishes the messages of a shard.
#[derive(Debug)]
pub(crate) struct Publisher {
    engine: Engine,
    in_flight: VecDeque<InFlight>,
    /// Bytes of the messages in flight.
    bytes: usize,
    /// How long to go on without any acknowledgement; `None`: for ever.
    patience: Option<Duration>,
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

#[derive(Debug)]
struct InFlight {
    message: LiveMessage,
    /// `None`: it was not sent, or must be sent again.
    answer: Option<PublishAckFuture>,
}

impl Publisher {
    /// Publishes to the engine.
    pub(crate) fn new(engine: Engine, patience: Option<Duration>) -> Publisher {
        Publisher {
            engine,
            in_flight: VecDeque::new(),
            bytes: 0,
            patience,
            stats: PublishStats::default(),
        }
    }

    /// What it has done so far.
    pub(crate) fn stats(&self) -> PublishStats {
        self.stats
    }

    /// The oldest position that a message in flight needs; `None` if none is in flight.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        self.in_flight.iter().map(|one| one.message.from).min()
    }

    /// Sends a message. Waits while too many wait for acknowledgements.
    pub(crate) async fn publish(&mut self, message: LiveMessage) -> Result<(), EngineError> {
        let size = size(&message);
        while !self.in_flight.is_empty()
            && (self.bytes + size > WINDOW || self.in_flight.len() >= MESSAGES_MAX)
        {
            self.settle_oldest().await?;
        }
        let answer = self.send(&message).await.ok();
        self.bytes += size;
        self.in_flight.push_back(InFlight { message, answer });
        Ok(())
    }

    /// Waits until all messages are acknowledged.
    pub(crate) async fn settle(&mut self) -> Result<(), EngineError> {
        while !self.in_flight.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Waits until the message that was sent first is acknowledged. Sends again what must be.
    async fn settle_oldest(&mut self) -> Result<(), EngineError> {
        let began = Instant::now();
        let (mut wait, wait_max) = RESEND_WAITS;
        loop {
            let Some(oldest) = self.in_flight.front_mut() else { return Ok(()) };
            let failure = match oldest.answer.take() {
                Some(answer) => match answer.await {
                    Ok(ack) => {
                        self.stats.known += u64::from(ack.duplicate);
                        self.acknowledge();
                        return Ok(());
                    }
                    Err(error) => {
                        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                            return Err(self.too_large());
                        }
                        chain(&error)
                    }
                },
                None => "it was not sent".to_owned(),
            };
            if self.patience.is_some_and(|patience| began.elapsed() > patience) {
                return Err(EngineError(format!(
                    "the message engine has acknowledged nothing for {}: {failure}",
                    humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()))
                )));
            }
            sleep(wait).await;
            wait = (2 * wait).min(wait_max);
            self.send_again().await;
        }
    }

    /// Sends all messages in flight again: if the oldest was not acknowledged, the others probably
    /// were not, and each would wait for its own timeout.
    async fn send_again(&mut self) {
        let mut in_flight = std::mem::take(&mut self.in_flight);
        for one in &mut in_flight {
            one.answer = self.send(&one.message).await.ok();
            self.stats.resent += 1;
            if one.answer.is_none() {
                break;
            }
        }
        self.in_flight = in_flight;
    }

    /// The oldest message is acknowledged.
    fn acknowledge(&mut self) {
        if let Some(done) = self.in_flight.pop_front() {
            self.bytes -= size(&done.message);
            self.stats.messages += 1;
            self.stats.bytes += done.message.payload().len() as u64;
        }
    }

    async fn send(&self, message: &LiveMessage) -> Result<PublishAckFuture, EngineError> {
        let subject = match &message.content {
            Content::Audio(_) => subject::audio(&message.identity, self.engine.slots),
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
        self.engine
            .context
            .send_publish(subject, publish)
            .await
            .map_err(|error| EngineError(chain(&error)))
    }

    fn too_large(&self) -> EngineError {
        let size = self.in_flight.front().map_or(0, |one| one.message.payload().len());
        EngineError(format!(
            "the message engine takes no message of {size} bytes: raise its max_payload to 1 MiB"
        ))
    }
}

fn size(message: &LiveMessage) -> usize {
    message.payload().len() + MESSAGE_OVERHEAD
}
