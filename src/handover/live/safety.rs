//! Whether the engine takes messages, and whether it keeps what it has acknowledged.

#![forbid(unsafe_code)]

use super::engine::{Engine, EngineError, chain};
use super::message::NODE;
use super::subject;
use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use serde::Deserialize;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a monitoring port may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// Longest answer of a monitoring port, bytes.
const ANSWER_SIZE_MAX: u64 = 4 << 20;

/// What is known about the safety of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Safety {
    /// Settings that may lose what was acknowledged, one sentence each.
    pub(crate) risks: Vec<String>,
    /// What could not be found out.
    pub(crate) unknown: Vec<String>,
}

impl Engine {
    /// Publishes a message to each stream, waits for the acknowledgements, and deletes the messages
    /// if the engine allows it. Their subjects are shorter than those of calls, so readers of calls
    /// do not get them.
    pub(crate) async fn probe(&self, node: &str) -> Result<(), EngineError> {
        let audio = (0..self.slots).map(|slot| format!("{}.{slot}.probe", subject::AUDIO));
        let subjects = std::iter::once(format!("{}.probe", subject::EVENTS)).chain(audio);
        for (stream, subject) in self.stream_names().zip(subjects) {
            let fail = |error: &dyn std::error::Error| {
                EngineError(format!(
                    "the stream {stream} does not take a message on {subject}: {}",
                    chain(error)
                ))
            };
            let mut headers = HeaderMap::new();
            headers.insert(NODE, node);
            let publish = PublishMessage::build().headers(headers).payload("{}".into());
            let sent = self.context.send_publish(subject.clone(), publish).await;
            let ack = sent.map_err(|error| fail(&error))?.await.map_err(|error| fail(&error))?;
            if let Ok(found) = self.context.get_stream_no_info(&ack.stream).await {
                // Not allowed, perhaps: then it goes with the oldest messages.
                let _ = found.delete_message(ack.sequence).await;
            }
        }
        Ok(())
    }
}

impl Safety {
    /// What the streams' settings and the servers' monitoring ports say.
    pub(crate) fn new(stream_risks: Vec<String>, monitors: &[String]) -> Safety {
        let mut safety = Safety { risks: stream_risks, unknown: Vec::new() };
        if monitors.is_empty() {
            safety.unknown.push(
                "whether the engine syncs what it acknowledges is not known: set \
                 `sync_interval: always` in its configuration, and give its monitoring port with \
                 live.monitor=http://HOST:8222 to have it checked"
                    .into(),
            );
        }
        for monitor in monitors {
            match jetstream(monitor) {
                Ok(found) => safety.risks.extend(found.risk(monitor)),
                Err(error) => safety.unknown.push(format!(
                    "whether the engine syncs what it acknowledges is not known: {monitor} does \
                     not say ({error})"
                )),
            }
        }
        safety
    }
}

#[derive(Debug, Deserialize)]
struct Varz {
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Debug, Default, Deserialize)]
struct JetStream {
    config: Option<JetStreamConfig>,
}

#[derive(Debug, Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
    /// Nanoseconds.
    #[serde(default)]
    sync_interval: u64,
}

impl JetStreamConfig {
    fn risk(&self, monitor: &str) -> Option<String> {
        let interval = humantime::format_duration(Duration::from_nanos(self.sync_interval));
        (!self.sync_always).then(|| {
            format!(
                "the server at {monitor} syncs its disk every {interval} only, and can lose what \
                 it has acknowledged before: set `sync_interval: always` in its configuration"
            )
        })
    }
}

/// Asks a monitoring port for the settings of JetStream. One small request of HTTP/1.0, so that the
/// answer ends with the connection.
fn jetstream(monitor: &str) -> Result<JetStreamConfig, Error> {
    let strange = |told: &str| Error::new(ErrorKind::InvalidData, told.to_owned());
    let address = monitor.strip_prefix("http://").unwrap_or(monitor).trim_end_matches('/');
    let mut last = Error::from(ErrorKind::NotFound);
    let mut stream = None;
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_WAIT) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => last = error,
        }
    }
    let Some(mut stream) = stream else { return Err(last) };
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(format!("GET /varz HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_SIZE_MAX).read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = &answer[end.ok_or_else(|| strange("no answer of HTTP"))? + 4..];
    let varz: Varz = serde_json::from_slice(body).map_err(|error| strange(&error.to_string()))?;
    varz.jetstream.config.ok_or_else(|| strange("it has no JetStream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitoring_port_tells_how_often_the_server_syncs() {
        let parse = |text: &str| serde_json::from_str::<Varz>(text).unwrap().jetstream.config;
        let lazy = r#"{"jetstream":{"config":{"sync_interval":120000000000,"strict":true}}}"#;
        let risk = parse(lazy).unwrap().risk("http://host:8222").unwrap();
        assert!(risk.contains("http://host:8222 syncs its disk every 2m only"), "{risk}");
        let safe = r#"{"jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}"#;
        assert_eq!(parse(safe).unwrap().risk("m"), None);
        assert!(parse(r#"{"jetstream":{}}"#).is_none() && parse("{}").is_none());
    }

    #[test]
    fn a_port_that_does_not_answer_is_named() {
        let safety = Safety::new(Vec::new(), &["http://127.0.0.1:1".to_owned()]);
        assert!(safety.risks.is_empty());
        assert!(safety.unknown[0].contains("http://127.0.0.1:1 does not say"), "{safety:?}");
        assert!(Safety::new(Vec::new(), &[]).unknown[0].contains("live.monitor"));
    }
}
