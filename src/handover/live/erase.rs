//! Erases calls in the engine because they were deleted from a journal.
//!
//! Each epoch gets an event `erased`. Then its messages of audio are deleted from their streams, and
//! the server overwrites them. Messages of other epochs under the same id stay.

#![forbid(unsafe_code)]

use super::engine::{Engine, EngineError, chain, patiently};
use super::event::Events;
use super::message::{Content, EpochName, LiveMessage};
use super::publisher::Publisher;
use super::ship::ShipError;
use super::subject;
use crate::call::{CallIdentity, Epoch};
use crate::format::Lsn;
use crate::handover::cursor::ShardName;
use crate::handover::erasures::{self, Erasure, Erasures, Waiting};
use crate::handover::sink_view::SinkView;
use async_nats::jetstream::stream::DeleteMessageErrorKind;
use futures_util::{StreamExt, TryStreamExt};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, spawn_local};

/// How often a forwarder looks for deleted calls.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long the engine may take for an event, and the pause after a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Messages that are deleted at a time.
const DELETES: usize = 16;

/// The server's code for a message that is not there.
const NO_MESSAGE: u64 = 10_037;

/// What became of deleted calls.
#[derive(Debug, Default)]
pub(crate) struct ErasedCalls {
    /// Calls with an event, and without audio unless a remark says so.
    pub(crate) calls: u64,
    /// Messages that were deleted.
    pub(crate) messages: u64,
    /// Calls that wait.
    pub(crate) waiting: u64,
    /// What the server does not allow, a sentence each.
    pub(crate) remarks: Vec<String>,
}

/// Works on the calls that were deleted from the journal, as far as everything of them was handed
/// over before `position` of its shard (`None`: nothing more comes of it). No message that was made
/// from an earlier position may be on its way.
pub(crate) async fn erase_sent(
    engine: &Engine,
    requests: &Erasures,
    position: impl Fn(&ShardName) -> Option<Lsn>,
    patience: Duration,
) -> Result<ErasedCalls, ShipError> {
    let mut erased = ErasedCalls::default();
    loop {
        let mut waiting = requests.look()?;
        let sent = waiting.take_sent(&position);
        erased.waiting = waiting.count();
        if sent.is_empty() {
            return Ok(erased);
        }
        for (path, erasure) in sent {
            let mut publisher = Publisher::new(engine.clone());
            events(&erasure).for_each(|message| publisher.push(message));
            publisher.settle(true, patience).await?;
            match engine.delete_audio(&erasure).await? {
                Ok(messages) => erased.messages += messages,
                Err(remark) => erased.remarks.push(remark),
            }
            erasures::done(&path)?;
            erased.calls += 1;
        }
    }
}

/// The event of each epoch. The same whenever it is made again from the request.
fn events(erasure: &Erasure) -> impl Iterator<Item = LiveMessage> {
    erasure.epochs.iter().map(|it| {
        let epoch = EpochName {
            started_at: it.started_at,
            node: erasure.node.as_str().into(),
            epoch: it.epoch,
        };
        let identity = &erasure.identity;
        let json = Events { identity, epoch: &epoch }.erased(erasure.asked_at);
        let content = Content::Event { name: "erased", seq: 0, json };
        LiveMessage { call: it.call, identity: identity.clone(), epoch, content, from: Lsn(0) }
    })
}

/// The deleted calls of a forwarder that goes on.
#[derive(Debug)]
pub(super) struct Erasing {
    requests: Erasures,
    waiting: Waiting,
    looked_at: Option<Instant>,
    task: Option<JoinHandle<Result<ErasedCalls, ShipError>>>,
    /// Not before: the engine did not take it.
    retry_at: Instant,
}

impl Erasing {
    pub(super) fn new(requests: Erasures) -> Erasing {
        let (waiting, retry_at) = (Waiting::default(), Instant::now());
        Erasing { requests, waiting, looked_at: None, task: None, retry_at }
    }

    /// Up to where a command deletes calls from a shard now. It must not be read meanwhile.
    pub(super) fn held_to(&self, shard: &ShardName) -> Option<Lsn> {
        self.waiting.held_to(shard)
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL)
    }

    /// Looks for deleted calls, and works on them beside the forwarder. `None` as a position: the
    /// engine has all of the shard.
    pub(super) async fn work(
        &mut self,
        engine: &Engine,
        view: &SinkView,
        position: impl Fn(&ShardName) -> Option<Lsn> + 'static,
    ) {
        self.looked_at = Some(Instant::now());
        if let Some(task) = self.task.take_if(|task| task.is_finished()) {
            match task.await {
                Ok(Ok(erased)) => {
                    erased.remarks.iter().for_each(|told| tracing::warn!("{told}"));
                    let ErasedCalls { calls, messages, .. } = erased;
                    tracing::info!(calls, messages, "deleted calls erased in the message engine");
                }
                Ok(Err(error)) => self.fail(view, &error.to_string()),
                // A panic: it left its message.
                Err(error) => self.fail(view, &error.to_string()),
            }
        }
        match self.requests.look() {
            Ok(waiting) => self.waiting = waiting,
            Err(error) => return self.fail(view, &error.to_string()),
        }
        view.wait_for_erasures(self.waiting.count());
        let is_ready = self.waiting.ready.iter().any(|(_, erasure)| erasure.is_sent(&position));
        if is_ready && self.task.is_none() && Instant::now() >= self.retry_at {
            let (engine, requests) = (engine.clone(), self.requests.clone());
            self.task = Some(spawn_local(async move {
                erase_sent(&engine, &requests, position, PATIENCE).await
            }));
        }
    }

    fn fail(&mut self, view: &SinkView, told: &str) {
        view.fail(told);
        self.retry_at = Instant::now() + RETRY_PAUSE;
    }
}

impl Engine {
    /// Deletes the audio of the epochs. The inner error says why the server does not allow it.
    async fn delete_audio(&self, erasure: &Erasure) -> Result<Result<u64, String>, EngineError> {
        let Erasure { identity, node, epochs, .. } = erasure;
        let is_ours = |found: &EpochName| {
            let is_one = |epoch: Epoch| epochs.iter().any(|it| it.epoch == epoch);
            *found.node == *node.as_str() && is_one(found.epoch)
        };
        let mut deleted = 0;
        for stream in self.audio_stream_names() {
            let mut numbers = Vec::new();
            let subject = subject::audio_in_any_slot(identity);
            self.read_stream(&stream, &subject, true, |message| {
                let headers = message.headers.as_ref();
                let header = |name: &str| headers?.get(name).map(|value| value.as_str());
                let is_ours = EpochName::from_headers(header).is_ok_and(|found| is_ours(&found));
                if let (true, Ok(info)) = (is_ours, message.info()) {
                    numbers.push(info.stream_sequence);
                }
                Ok(())
            })
            .await?;
            match self.delete_messages(&stream, numbers, identity).await? {
                Ok(count) => deleted += count,
                refused => return Ok(refused),
            }
        }
        Ok(Ok(deleted))
    }

    async fn delete_messages(
        &self,
        name: &str,
        numbers: Vec<u64>,
        identity: &CallIdentity,
    ) -> Result<Result<u64, String>, EngineError> {
        if numbers.is_empty() {
            return Ok(Ok(0));
        }
        let fail = |error: &dyn std::error::Error| {
            EngineError(format!("cannot delete messages of the stream {name}: {}", chain(error)))
        };
        let stream = patiently(|| self.context.get_stream(name)).await.map_err(|it| fail(&it))?;
        let count = numbers.len() as u64;
        let deleting = futures_util::stream::iter(numbers)
            .map(async |number| match stream.delete_message(number).await {
                Ok(_) => Ok(()),
                Err(error) => match error.kind() {
                    DeleteMessageErrorKind::JetStream(told)
                        if told.error_code().0 == NO_MESSAGE =>
                    {
                        Ok(())
                    }
                    DeleteMessageErrorKind::JetStream(told) => Err(Ok(told.to_string())),
                    _ => Err(Err(fail(&error))),
                },
            })
            .buffer_unordered(DELETES)
            .try_collect::<()>();
        match deleting.await {
            Ok(()) => Ok(Ok(count)),
            Err(Ok(told)) => Ok(Err(format!(
                "the stream {name} keeps the audio of {} until it drops it by age: the server does \
                 not allow to delete messages ({told})",
                subject::call(identity)
            ))),
            Err(Err(error)) => Err(error),
        }
    }
}
