//! The calls of a journal, one after the other. This is the only place of these commands that
//! knows how the archive finds them.

#![forbid(unsafe_code)]

use super::name::display;
use super::{Failure, progress};
use crate::archive::reader::{Call, Journal, JournalError};
use crate::call::CallIdentity;
use std::cell::Cell;

/// A journal and its calls, as they were when it was opened.
pub(in crate::cli) struct Source {
    journal: Journal,
    epochs_nameless: Cell<u64>,
}

impl Source {
    /// The calls of a journal.
    pub(crate) fn new(journal: Journal) -> Source {
        Source { journal, epochs_nameless: Cell::new(0) }
    }

    /// The journal.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// All calls, in order of their first epochs. Looks through the journal first. Memory does not
    /// grow with the number of calls.
    pub(crate) fn calls(
        &self,
    ) -> Result<impl Iterator<Item = Result<Call, JournalError>>, Failure> {
        let bar = progress(self.journal.segment_count(), "looking through segments");
        let mut calls = self.journal.calls(&mut || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(std::iter::from_fn(move || {
            let next = calls.next();
            self.epochs_nameless.set(calls.nameless_count());
            next
        }))
    }

    /// Epochs whose call is not known, because the records that name it are gone. Known after
    /// [`Source::calls`] has come to its end.
    pub(crate) fn epochs_nameless(&self) -> u64 {
        self.epochs_nameless.get()
    }

    /// The call with these ids; `None` if there is none. Reads what concerns this call only.
    pub(crate) fn find(&self, identity: &CallIdentity) -> Result<Option<Call>, JournalError> {
        self.journal.find(identity)
    }

    /// As [`Source::find`], or an error that says what to do.
    pub(crate) fn expect(&self, identity: &CallIdentity) -> Result<Call, Failure> {
        match self.find(identity)? {
            Some(call) => Ok(call),
            None => Err(self.missing(identity)?),
        }
    }

    /// Names the call that is most like the wanted one.
    fn missing(&self, identity: &CallIdentity) -> Result<Failure, Failure> {
        let wanted = display(identity);
        let (mut best, mut near) = (0.8, None);
        for call in self.calls()? {
            let known = display(&call?.identity);
            let likeness = strsim::jaro_winkler(&known, &wanted);
            if likeness > best {
                (best, near) = (likeness, Some(known));
            }
        }
        let hint = match near {
            Some(known) => format!("did you mean {known}?"),
            None => "`exo-ingest calls list` shows all calls".to_owned(),
        };
        Ok(Failure::Run(format!("there is no call {wanted} in the journal: {hint}")))
    }
}
