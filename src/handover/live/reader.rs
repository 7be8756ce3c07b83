//! Reads a call out of the engine, by the consumer's rule.

#![forbid(unsafe_code)]

use super::engine::{Engine, EngineError, chain, patiently};
use super::message::{Chunk, EpochName};
use super::subject;
use crate::call::CallIdentity;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// How long to wait for a message that a stream should have.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What a reader gets of a call.
#[derive(Debug)]
pub(crate) enum Received {
    /// Frames of an epoch.
    Audio(EpochName, Chunk),
    /// The epoch has started.
    Started(EpochName),
    /// The epoch has ended, and this was its last frame, if that is known.
    Ended(EpochName, Option<u64>),
    /// The audio of the epoch was deleted on demand.
    Erased(EpochName),
}

/// The part of an event that the reader needs.
#[derive(Debug, Deserialize)]
struct EventHead {
    event: String,
    #[serde(default)]
    last_seq: Option<u64>,
}

impl Engine {
    /// Gives everything that the engine has of a call to `take`, in the order of the engine: first
    /// the events, then audio. Returns how many messages were not ours.
    pub(crate) async fn read_call(
        &self,
        identity: &CallIdentity,
        mut take: impl FnMut(Received) -> io::Result<()>,
    ) -> Result<u64, EngineError> {
        let mut foreign = 0;
        let events = [(self.events_stream_name().to_owned(), subject::events(identity))];
        let audio =
            self.audio_stream_names().map(|stream| (stream, subject::audio_in_any_slot(identity)));
        for (stream, subject) in events.into_iter().chain(audio) {
            self.read_stream(&stream, &subject, false, |message| match received(&message) {
                Some(received) => take(received),
                None => {
                    foreign += 1;
                    Ok(())
                }
            })
            .await?;
        }
        Ok(foreign)
    }

    /// Reads the messages that a stream has of a subject now, or their headers.
    pub(super) async fn read_stream(
        &self,
        name: &str,
        subject: &str,
        headers_only: bool,
        mut take: impl FnMut(Message) -> io::Result<()>,
    ) -> Result<(), EngineError> {
        let fail = |error: String| EngineError(format!("cannot read the stream {name}: {error}"));
        let mut deliver_policy = DeliverPolicy::All;
        loop {
            let config = OrderedConfig {
                filter_subject: subject.to_owned(),
                deliver_policy,
                headers_only,
                ..OrderedConfig::default()
            };
            let consumer =
                patiently(|| self.context.create_consumer_on_stream(config.clone(), name)).await;
            let consumer: Consumer<OrderedConfig> =
                consumer.map_err(|error| fail(chain(&error)))?;
            if consumer.cached_info().num_pending == 0 {
                return Ok(());
            }
            let mut messages = consumer.messages().await.map_err(|error| fail(chain(&error)))?;
            // The rest may have been deleted since it was counted. Then nothing comes, and the
            // next consumer counts again.
            while let Ok(message) = timeout(SILENCE_MAX, messages.next()).await {
                let Some(message) = message else { return Ok(()) };
                let message = message.map_err(|error| fail(chain(&error)))?;
                let info = message.info().map_err(|error| fail(error.to_string()))?;
                let pending = info.pending;
                let start_sequence = info.stream_sequence + 1;
                deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
                take(message).map_err(|error| {
                    EngineError(format!("cannot keep the call's audio on this machine: {error}"))
                })?;
                if pending == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// What a message says; `None` if it is not one of ours.
fn received(message: &Message) -> Option<Received> {
    let headers = message.headers.as_ref()?;
    let header = |name: &str| headers.get(name).map(|value| value.as_str());
    let epoch = EpochName::from_headers(header).ok()?;
    if message.subject.starts_with(subject::EVENTS) {
        let event: EventHead = serde_json::from_slice(&message.payload).ok()?;
        return match event.event.as_str() {
            "ended" => Some(Received::Ended(epoch, event.last_seq)),
            "erased" => Some(Received::Erased(epoch)),
            _ => Some(Received::Started(epoch)),
        };
    }
    let chunk = Chunk::from_message(header, Bytes::clone(&message.payload)).ok()?;
    Some(Received::Audio(epoch, chunk))
}
