//! Standard output of a command whose result may be long: written as it is found.

#![forbid(unsafe_code)]

use super::{Failure, json_text};
use serde::Serialize;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

/// Standard output, until its reader has read enough.
pub(super) struct Lines {
    out: BufWriter<StdoutLock<'static>>,
}

/// Why no more is written.
pub(super) enum Halt {
    /// The reader has read enough (`| head`).
    Enough,
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Halt {
        Halt::Failed(failure)
    }
}

/// A reader that has read enough is not a failure.
pub(super) fn halted(outcome: Result<(), Halt>) -> Result<(), Failure> {
    match outcome {
        Ok(()) | Err(Halt::Enough) => Ok(()),
        Err(Halt::Failed(failure)) => Err(failure),
    }
}

impl Lines {
    pub(crate) fn new() -> Lines {
        Lines { out: BufWriter::with_capacity(64 * 1024, io::stdout().lock()) }
    }

    pub(crate) fn write(&mut self, text: &str) -> Result<(), Halt> {
        told(self.out.write_all(text.as_bytes()))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Halt> {
        told(self.out.flush())
    }
}

fn told(written: io::Result<()>) -> Result<(), Halt> {
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Halt::Enough,
        _ => Failure::Run(format!("cannot write to standard output: {error}")).into(),
    })
}

/// A JSON document that is one list and then a few values, written item by item.
pub(super) struct JsonList<'a> {
    lines: &'a mut Lines,
    is_empty: bool,
}

impl<'a> JsonList<'a> {
    /// Begins the document; `name` is that of the list.
    pub(crate) fn begin(lines: &'a mut Lines, name: &str) -> Result<JsonList<'a>, Halt> {
        lines.write(&format!("{{\n  \"{name}\": ["))?;
        Ok(JsonList { lines, is_empty: true })
    }

    /// Adds an item to the list.
    pub(crate) fn item(&mut self, item: &impl Serialize) -> Result<(), Halt> {
        let comma = if std::mem::take(&mut self.is_empty) { "" } else { "," };
        // A string in JSON has no line breaks, so these are only those between values.
        let text = json_text(item)?.replace('\n', "\n    ");
        self.lines.write(&format!("{comma}\n    {text}"))
    }

    /// Ends the document with the fields of `rest`, which is a struct.
    pub(crate) fn end(self, rest: &impl Serialize) -> Result<(), Halt> {
        let text = json_text(rest)?;
        let fields = text.trim_start_matches('{').trim_end_matches('}').trim_end();
        let close = if self.is_empty { "]" } else { "\n  ]" };
        self.lines.write(&format!("{close},{fields}\n}}\n"))?;
        self.lines.flush()
    }
}
