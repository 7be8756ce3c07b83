//! Rows in columns, of any number of rows.

#![forbid(unsafe_code)]

use super::output::{Halt, Lines};

/// Rows that are looked at before the first one is written. They say how wide columns are.
const ROWS_AHEAD: usize = 1_000;

/// A table with one row of headings. Later rows that are wider than the columns move their
/// neighbours.
pub(super) struct Table<'a> {
    lines: &'a mut Lines,
    widths: Vec<usize>,
    waiting: Vec<Vec<String>>,
    is_begun: bool,
}

impl<'a> Table<'a> {
    pub(crate) fn new(lines: &'a mut Lines, headings: &[&str]) -> Table<'a> {
        let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
        Table { lines, widths: Vec::new(), waiting: vec![headings], is_begun: false }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, row: Vec<String>) -> Result<(), Halt> {
        if self.is_begun {
            return self.lines.write(&line(&row, &self.widths));
        }
        self.waiting.push(row);
        if self.waiting.len() > ROWS_AHEAD { self.begin() } else { Ok(()) }
    }

    /// Writes what is left.
    pub(crate) fn end(mut self) -> Result<(), Halt> {
        self.begin()?;
        self.lines.flush()
    }

    fn begin(&mut self) -> Result<(), Halt> {
        self.is_begun = true;
        let rows = std::mem::take(&mut self.waiting);
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(self.widths.len());
        self.widths.resize(columns, 0);
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        rows.iter().try_for_each(|row| self.lines.write(&line(row, &self.widths)))
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths);
    let line = cells.fold(String::new(), |line, (cell, width)| line + &format!("{cell:width$}  "));
    format!("{}\n", line.trim_end())
}
