//! The message engine: NATS JetStream, by its own client.
//!
//! ```text
//! stream EXO_EVENTS      subjects exo.events.>       events of all calls
//! stream EXO_AUDIO_0     subjects exo.audio.0.>      audio of the calls of slot 0
//! stream EXO_AUDIO_1     subjects exo.audio.1.>      …
//! ```
//! The operator makes the streams, or `--create-streams` does. The number of audio streams is the
//! number of slots.

#![forbid(unsafe_code)]

use super::message::{Content, LiveMessage};
use super::{credentials, subject};
use crate::handover::ca;
use crate::handover::secrets::hide;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectError, ConnectErrorKind, ServerAddr};
use futures_util::TryStreamExt;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The stream of events.
const EVENTS_STREAM: &str = "EXO_EVENTS";

/// Beginning of the names of audio streams; the slot follows.
const AUDIO_STREAM: &str = "EXO_AUDIO_";

/// How long to wait for a connection, and for each answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long a cluster may take to choose its leaders, and how often to ask.
const ELECTION_WAIT: Duration = Duration::from_secs(30);
const ELECTION_LOOK: Duration = Duration::from_millis(500);

/// Copies that survive the loss of a server.
const REPLICAS: usize = 3;

/// How to reach the engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineConfig {
    /// Addresses, separated by commas: `nats://host:4222` or `tls://host:4222`.
    pub(crate) url: String,
    /// A file with credentials: `.creds`, or a line `USER:PASSWORD`.
    pub(crate) credentials: Option<PathBuf>,
    /// Certificates of the CAs that count for the engine, instead of those of the system.
    pub(crate) ca: Option<PathBuf>,
}

/// How to make missing streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamPlan {
    /// Number of audio streams.
    pub(crate) slots: u16,
    /// Copies of each message.
    pub(crate) replicas: usize,
    /// How long messages are kept.
    pub(crate) max_age: Duration,
}

/// Why the engine cannot be used: one sentence.
#[derive(Debug)]
pub(crate) struct EngineError(pub(crate) String);

impl fmt::Display for EngineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for EngineError {}

/// A connection to the engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(super) context: Context,
    /// Number of audio streams, from [`Engine::find_streams`].
    pub(super) slots: u16,
    url: String,
}

impl Engine {
    /// Connects. It reconnects by itself from then on.
    pub(crate) async fn connect(config: &EngineConfig) -> Result<Engine, EngineError> {
        let fail = |reason: String| {
            let told = format!("cannot use the message engine at {}: {reason}", config.url);
            EngineError(hide(&told))
        };
        let addresses = config
            .url
            .split(',')
            .map(|address| address.trim().parse::<ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fail(error.to_string()))?;
        let options = credentials::options(config.credentials.as_deref(), &addresses);
        let mut options = options
            .map_err(EngineError)?
            .name("exo-ingest")
            // What a lost connection means for the journal is told by whoever sends it.
            .event_callback(|event| async move { tracing::debug!("message engine: {event}") })
            .connection_timeout(ANSWER_WAIT)
            .request_timeout(Some(ANSWER_WAIT));
        if let Some(path) = &config.ca {
            ca::read(path).map_err(EngineError)?;
            options = options.add_root_certificates(path.clone());
        }
        let began = Instant::now();
        let client = loop {
            match options.clone().connect(addresses.clone()).await {
                Ok(client) => break client,
                // The engine stands still: that may pass. Without one there is an answer at once.
                Err(error)
                    if error.kind() == ConnectErrorKind::TimedOut
                        && began.elapsed() < ELECTION_WAIT => {}
                Err(error) => return Err(fail(reason(&error))),
            }
        };
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_WAIT);
        Ok(Engine { context, slots: 0, url: hide(&config.url) })
    }

    /// Finds the streams, and makes those that are missing if there is a plan. Returns remarks
    /// about settings that may lose what was acknowledged.
    pub(crate) async fn find_streams(
        &mut self,
        plan: Option<&StreamPlan>,
    ) -> Result<Vec<String>, EngineError> {
        let fail = |error: &dyn std::error::Error| {
            EngineError(format!(
                "the server at {} does not answer for JetStream ({}): start it with JetStream on",
                self.url,
                chain(error)
            ))
        };
        let names = patiently(|| self.context.stream_names().try_collect::<Vec<String>>());
        let names = names.await.map_err(|error| fail(&error))?;
        let slots = slots(&names);
        let wanted = plan.map_or(slots, |plan| slots.max(plan.slots));
        let mut missing = Vec::new();
        if !names.iter().any(|name| name == EVENTS_STREAM) {
            missing.push((EVENTS_STREAM.to_owned(), format!("{}.>", subject::EVENTS)));
        }
        missing.extend(
            (slots..wanted.max(1)).map(|slot| {
                (format!("{AUDIO_STREAM}{slot}"), format!("{}.{slot}.>", subject::AUDIO))
            }),
        );
        match plan {
            Some(plan) => {
                for (name, subject) in &missing {
                    self.create(name, subject, plan).await?;
                }
            }
            None if !missing.is_empty() => return Err(missing_streams(&self.url, &missing)),
            None => {}
        }
        self.slots = wanted.max(1);
        self.remarks().await
    }

    async fn create(
        &self,
        name: &str,
        subject: &str,
        plan: &StreamPlan,
    ) -> Result<(), EngineError> {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            storage: StorageType::File,
            num_replicas: plan.replicas,
            max_age: plan.max_age,
            discard: DiscardPolicy::Old,
            description: Some("calls of exo-ingest".to_owned()),
            ..Config::default()
        };
        // If the answer was lost, the stream is there: that is fine.
        let made = patiently(|| self.context.get_or_create_stream(config.clone())).await;
        made.map(|_| ()).map_err(|error| {
            EngineError(format!("cannot make the stream {name} on {}: {}", self.url, chain(&error)))
        })
    }

    /// What the settings of the streams say about the safety of messages.
    async fn remarks(&self) -> Result<Vec<String>, EngineError> {
        let mut remarks = Vec::new();
        for name in self.stream_names() {
            let stream = patiently(|| self.context.get_stream(&name)).await.map_err(|error| {
                EngineError(format!("cannot look at the stream {name}: {}", chain(&error)))
            })?;
            let config = &stream.cached_info().config;
            if config.storage != StorageType::File {
                remarks.push(format!(
                    "the stream {name} is kept in memory: a restart of the server loses it"
                ));
            }
            if config.num_replicas < REPLICAS {
                remarks.push(format!(
                    "the stream {name} has {} of {REPLICAS} replicas: the loss of a server can \
                     lose acknowledged messages",
                    config.num_replicas
                ));
            }
            if config.no_ack {
                return Err(EngineError(format!(
                    "the stream {name} does not acknowledge messages: switch no_ack off"
                )));
            }
        }
        Ok(remarks)
    }

    /// The names of all streams.
    pub(super) fn stream_names(&self) -> impl Iterator<Item = String> {
        let audio = (0..self.slots).map(|slot| format!("{AUDIO_STREAM}{slot}"));
        std::iter::once(EVENTS_STREAM.to_owned()).chain(audio)
    }

    /// The name of the stream that a message is for.
    pub(super) fn stream_of(&self, message: &LiveMessage) -> String {
        match &message.content {
            Content::Audio(_) => {
                let slot = subject::slot(&message.identity, self.slots);
                format!("{AUDIO_STREAM}{slot}")
            }
            Content::Event { .. } => EVENTS_STREAM.to_owned(),
        }
    }

    /// The names of the streams of audio.
    pub(super) fn audio_stream_names(&self) -> impl Iterator<Item = String> {
        self.stream_names().skip(1)
    }

    /// The name of the stream of events.
    pub(super) fn events_stream_name(&self) -> &'static str {
        EVENTS_STREAM
    }
}

/// Number of audio streams with slots from 0 on.
fn slots(names: &[String]) -> u16 {
    let has = |slot: u16| names.iter().any(|name| *name == format!("{AUDIO_STREAM}{slot}"));
    (0..u16::MAX).take_while(|slot| has(*slot)).count() as u16
}

fn missing_streams(url: &str, missing: &[(String, String)]) -> EngineError {
    let commands = missing.iter().map(|(name, subject)| {
        format!("\n  nats stream add {name} --subjects '{subject}' --storage file --replicas 3")
    });
    EngineError(format!(
        "the server at {url} lacks streams: make them with --create-streams (for serve: \
         live.create_streams), or with{}",
        commands.collect::<String>()
    ))
}

/// Asks until there is an answer: a cluster that has lost a server chooses new leaders first.
pub(super) async fn patiently<T, E, F>(ask: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Err(_) if began.elapsed() < ELECTION_WAIT => sleep(ELECTION_LOOK).await,
            answer => return answer,
        }
    }
}

/// Why there is no connection, and what to do.
fn reason(error: &ConnectError) -> String {
    let told = chain(error);
    let hint = match error.kind() {
        _ if told.contains(ca::UNTRUSTED) => ca::hint("--ca FILE", "live.ca"),
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ": check the credentials".to_owned()
        }
        _ => String::new(),
    };
    format!("{told}{hint}")
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_up_to_the_first_that_is_missing() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(slots(&names(&["EXO_EVENTS"])), 0);
        assert_eq!(slots(&names(&["EXO_AUDIO_1", "EXO_AUDIO_0", "EXO_AUDIO_3"])), 2);
    }

    #[test]
    fn the_error_of_missing_streams_has_the_commands() {
        let missing = [("EXO_EVENTS".to_owned(), "exo.events.>".to_owned())];
        let error = missing_streams("nats://host", &missing).to_string();
        assert!(error.contains("nats stream add EXO_EVENTS --subjects 'exo.events.>'"), "{error}");
    }
}
