//! The text messages of the protocol, as the quick reference writes them.

use serde::{Deserialize, Serialize};

/// A message from the node.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The call is up.
    Started {
        /// The call's id, as we sent it.
        interaction_id: String,
    },
    /// Every frame up to `seq` is safe.
    Ack {
        /// Frame number within the connection.
        seq: u64,
    },
    /// The answer to `stop`.
    Stopped(Stopped),
    /// Why a Close follows.
    Error {
        /// HTTP-like code.
        code: u16,
        /// Name of the reason.
        reason: String,
        /// Explanation for a reader.
        message: String,
        /// Whether connecting again may help.
        retryable: bool,
    },
}

/// The answer to `stop`: what the node has kept of a call.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// The call's id.
    pub interaction_id: String,
    /// Frames.
    pub seq: u64,
    /// Bytes of whole samples.
    pub bytes: u64,
    /// Length of the audio at the call's rate, rounded down.
    pub duration_ms: u64,
    /// Last durable frame; null without a journal.
    pub durable_seq: Option<u64>,
    /// The level at which the promise of the last frame holds. Other peers do not say it.
    #[serde(default)]
    pub level: Option<String>,
}

impl Stopped {
    /// True if this is the right answer for a call with `seq` frames and `bytes` bytes at
    /// `sample_rate`.
    pub fn is_right(&self, interaction_id: &str, seq: u64, bytes: u64, sample_rate: u32) -> bool {
        self.interaction_id == interaction_id
            && self.seq == seq
            && self.bytes == bytes
            && self.duration_ms == bytes / 2 * 1_000 / u64::from(sample_rate)
            && self.durable_seq.is_none_or(|durable| durable <= seq)
    }
}

/// Reads a text message. The error is for a report.
pub fn parse(text: &str) -> Result<Event, String> {
    serde_json::from_str(text).map_err(|error| format!("{} ({error})", excerpt(text)))
}

/// The start of a text, for a report: peers may send any text of any length.
pub fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut short: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// The `start` message.
pub fn start(interaction_id: &str, tenant_id: &str, sample_rate: u32) -> String {
    #[derive(Serialize)]
    struct Start<'a> {
        event: &'a str,
        interaction_id: &'a str,
        tenant_id: &'a str,
        sample_rate: u32,
        encoding: &'a str,
    }
    let start = Start { event: "start", interaction_id, tenant_id, sample_rate, encoding: "pcm16" };
    serde_json::to_string(&start).expect("strings and numbers always serialise")
}

/// The `stop` message.
pub const STOP: &str = r#"{"event":"stop"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_event() {
        assert_eq!(
            parse(r#"{"event":"started","interaction_id":"call-1"}"#),
            Ok(Event::Started { interaction_id: "call-1".to_owned() })
        );
        assert_eq!(parse("{ \"event\": \"ack\",\n \"seq\": 10 }"), Ok(Event::Ack { seq: 10 }));
        let stopped = concat!(
            r#"{"event":"stopped","interaction_id":"c","seq":11,"bytes":105600,"#,
            r#""duration_ms":2200,"durable_seq":null,"level":"received"}"#
        );
        let Ok(Event::Stopped(stopped)) = parse(stopped) else { panic!("{stopped}") };
        assert_eq!(stopped.level.as_deref(), Some("received"));
        assert!(stopped.is_right("c", 11, 105_600, 24_000));
        assert!(!stopped.is_right("d", 11, 105_600, 24_000));
        assert!(!stopped.is_right("c", 10, 105_600, 24_000));
        assert!(!stopped.is_right("c", 11, 105_602, 24_000));
        let error = concat!(
            r#"{"event":"error","code":400,"reason":"invalid_start","message":"m","#,
            r#""retryable":false}"#
        );
        assert!(matches!(parse(error), Ok(Event::Error { code: 400, .. })));
    }

    #[test]
    fn anything_more_or_less_is_refused() {
        for text in [
            r#"{"event":"started","interaction_id":"c","more":1}"#,
            r#"{"event":"started"}"#,
            r#"{"event":"ack","seq":"10"}"#,
            r#"{"event":"ack","seq":-1}"#,
            r#"{"event":"ack","seq":10,"x":0}"#,
            r#"{"event":"bye"}"#,
            r#"{"event":"stopped","interaction_id":"c","seq":1}"#,
            "nonsense",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn start_is_the_quick_references() {
        assert_eq!(
            start("call-\"1\"", "t", 24_000),
            concat!(
                r#"{"event":"start","interaction_id":"call-\"1\"","tenant_id":"t","#,
                r#""sample_rate":24000,"encoding":"pcm16"}"#
            )
        );
        assert!(excerpt(&"x".repeat(500)).ends_with('…'));
    }
}
