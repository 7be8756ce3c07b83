//! Which recordings a command is about.

#![forbid(unsafe_code)]

use super::recording::{Recording, recordings};
use super::time::parse_time;
use super::view::{CUT, ended};
use super::{Failure, name};
use crate::archive::reader::Call;
use crate::call::{CallIdentity, valid_id};
use crate::clock::UnixMicros;
use crate::session::ingest::Ending;
use clap::Args;
use clap::builder::PossibleValuesParser;

/// Flags that choose among calls.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Filter {
    /// Only calls of this tenant
    #[arg(long, value_name = "T")]
    pub(crate) tenant: Option<String>,
    /// Only calls whose interaction begins with this text
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only calls that started at this time or later: RFC 3339 like 2026-11-30T09:00Z, a date, or
    /// how long ago, like 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<UnixMicros>,
    /// Only calls that started before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<UnixMicros>,
    /// Only calls that are live
    #[arg(long, conflicts_with = "ended")]
    pub(crate) live: bool,
    /// Only calls that ended for this reason
    #[arg(long, value_name = "REASON", value_parser = reasons(), hide_possible_values = true)]
    ended: Option<String>,
}

/// The words that listings show. clap suggests one for a wrong word.
fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Ending::ALL.map(Ending::label).into_iter().chain([CUT]))
}

impl Filter {
    /// Whether it lets every call through.
    pub(crate) fn is_empty(&self) -> bool {
        let Filter { tenant, prefix, since, until, live, ended } = self;
        tenant.is_none()
            && prefix.is_none()
            && since.is_none()
            && until.is_none()
            && !live
            && ended.is_none()
    }

    /// Refuses values that no call can match.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.tenant.as_deref().is_some_and(|tenant| !valid_id(tenant)) {
            return Err(Failure::Usage(name::BAD_ID.into()));
        }
        match (self.since, self.until) {
            (Some(since), Some(until)) if since >= until => Err(Failure::Usage(
                "no call can start at --since or later, and before --until: --since must be the \
                 earlier time"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    fn takes_identity(&self, identity: &CallIdentity) -> bool {
        self.tenant.as_deref().is_none_or(|tenant| *tenant == *identity.tenant)
            && self.prefix.as_deref().is_none_or(|prefix| identity.interaction.starts_with(prefix))
    }

    fn takes(&self, recording: &Recording) -> bool {
        let at = recording.started_at();
        let last = recording.epochs.last().map(|(_, call_epoch)| ended(&call_epoch.state));
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && (!self.live || recording.is_live())
            && self.ended.as_deref().is_none_or(|reason| last.as_deref() == Some(reason))
    }

    /// The recordings of a call that it lets through.
    pub(crate) fn recordings(&self, call: Call) -> Vec<Recording> {
        if !self.takes_identity(&call.identity) {
            return Vec::new();
        }
        let mut recordings = recordings(call);
        recordings.retain(|recording| self.takes(recording));
        recordings
    }
}
