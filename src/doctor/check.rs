//! A check and its result, in the form that tables, JSON and scripts are made from.

use serde::{Serialize, Serializer};
use std::fmt;

/// What a check is about: everything that does not depend on the host.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Stable: scripts and dashboards refer to it.
    pub(crate) id: &'static str,
    /// Severity of a failure, unless the check knows better.
    pub(crate) severity: Severity,
    /// What must be true: a sentence without the full stop.
    pub(crate) condition: &'static str,
    /// Why it matters.
    pub(crate) why: &'static str,
    /// A command that shows the same without the doctor.
    pub(crate) by_hand: &'static str,
    /// What to do if the check fails: a command line or a sentence.
    pub(crate) fix: &'static str,
    /// Where it is documented, or which code decides it.
    pub(crate) reference: &'static str,
    /// Where the number or the rule comes from that it is judged by.
    pub(crate) source: Source,
}

/// Why a check must pass as it does: what to read if in doubt. Names of files are those of this
/// repository, or of the kernel's `Documentation/`.
#[derive(Debug)]
pub(crate) enum Source {
    /// The node's own code: file, and what it does.
    Node(&'static str, &'static str),
    /// The kernel's documentation: file, and what it says.
    Kernel(&'static str, &'static str),
    /// Another manual or change: its name, and what it says.
    Manual(&'static str, &'static str),
    /// We have measured it: page, and what.
    Measured(&'static str, &'static str),
    /// Nothing prescribes it: we chose it, and why.
    Choice(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Node(file, what) => write!(f, "the node itself, {file}: {what}"),
            Source::Kernel(file, what) => {
                write!(f, "the kernel's Documentation/{file}: {what}")
            }
            Source::Manual(name, what) => write!(f, "{name}: {what}"),
            Source::Measured(page, what) => write!(f, "measured, {page}: {what}"),
            Source::Choice(why) => write!(f, "our choice, {why}"),
        }
    }
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The node refuses to start, or cannot hold N calls.
    Fatal,
    /// The node runs, but may lose calls or answer late.
    Warning,
    /// An improvement that may help, or that we have not measured.
    Info,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Severity::Fatal => "fatal",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// The reason is in [`Check::reason`].
    Skipped,
}

/// One check of a host for N calls.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    #[serde(rename = "id", serialize_with = "write_id")]
    pub(crate) topic: &'static Topic,
    condition: &'static str,
    /// What N calls need; null if the check has no number.
    pub(crate) required: Option<String>,
    /// What the host has.
    pub(crate) current: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) result: Outcome,
    /// Why it was skipped; null otherwise.
    pub(crate) reason: Option<String>,
    pub(crate) fix: String,
    /// The kernel's setting that it reads; `tuning/host.sh` uses the same names.
    #[serde(rename = "where")]
    pub(crate) setting: Option<String>,
    /// Commands that fix it; empty if no command can.
    pub(crate) commands: Vec<String>,
    /// `current` changes all the time: only a changed result is news.
    #[serde(skip)]
    pub(crate) is_restless: bool,
}

fn write_id<S: Serializer>(topic: &&'static Topic, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(topic.id)
}

impl Check {
    /// A check that has not found anything yet.
    pub(super) fn of(topic: &'static Topic) -> Check {
        Check {
            topic,
            condition: topic.condition,
            required: None,
            current: None,
            severity: topic.severity,
            result: Outcome::Skipped,
            reason: None,
            fix: topic.fix.to_owned(),
            setting: None,
            commands: Vec::new(),
            is_restless: false,
        }
    }

    pub(super) fn required(self, required: impl Into<String>) -> Check {
        Check { required: Some(required.into()), ..self }
    }

    pub(super) fn current(self, current: impl Into<String>) -> Check {
        Check { current: Some(current.into()), ..self }
    }

    pub(super) fn severity(self, severity: Severity) -> Check {
        Check { severity, ..self }
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Check {
        Check { fix: fix.into(), ..self }
    }

    pub(super) fn setting(self, setting: impl Into<String>) -> Check {
        Check { setting: Some(setting.into()), ..self }
    }

    /// Adds a command that helps to fix it.
    pub(super) fn command(mut self, command: impl Into<String>) -> Check {
        self.commands.push(command.into());
        self
    }

    /// Adds a command that is the whole fix.
    pub(super) fn fixed_by(self, command: impl Into<String>) -> Check {
        let command = command.into();
        self.fix(command.clone()).command(command)
    }

    pub(super) fn restless(self) -> Check {
        Check { is_restless: true, ..self }
    }

    /// The end of a check that could look.
    pub(super) fn holds(self, holds: bool) -> Check {
        Check { result: if holds { Outcome::Pass } else { Outcome::Fail }, ..self }
    }

    /// The end of a check that could not look.
    pub(super) fn skipped(self, reason: impl Into<String>) -> Check {
        Check { result: Outcome::Skipped, reason: Some(reason.into()), ..self }
    }

    pub(crate) fn id(&self) -> &'static str {
        self.topic.id
    }

    pub(crate) fn condition(&self) -> &'static str {
        self.condition
    }

    pub(crate) fn has_failed(&self, severity: Severity) -> bool {
        self.result == Outcome::Fail && self.severity == severity
    }
}
