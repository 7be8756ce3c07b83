//! A table of a view: sorted by one of its columns, and as wide as there is room for.

#![forbid(unsafe_code)]

use std::cmp::Ordering;

/// A cell: what is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    /// `None` for text.
    value: Option<f64>,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), value: None }
    }

    pub(super) fn number(text: String, value: f64) -> Cell {
        Cell { text, value: Some(value) }
    }

    /// A number that is not known is shown as a dash, and comes last.
    pub(super) fn unknown() -> Cell {
        Cell::number("-".into(), f64::NEG_INFINITY)
    }

    pub(super) fn is_number(&self) -> bool {
        self.value.is_some()
    }

    /// Largest numbers and first texts come first.
    fn order(&self, other: &Cell) -> Ordering {
        match (self.value, other.value) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            _ => self.text.cmp(&other.text),
        }
    }
}

/// A column: its heading, and how soon it gives way. Columns of rank 0 stay.
pub(super) type Column = (&'static str, u8);

/// Rows in columns.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub(super) title: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
    /// What is said where there are no rows.
    pub(super) empty: &'static str,
}

/// Space between two columns.
pub(super) const GAP: usize = 2;

impl Grid {
    /// Sorts by a column. Rows with equal cells keep their order.
    pub(super) fn sort_by(&mut self, column: usize) {
        self.rows.sort_by(|a, b| a[column].order(&b[column]));
    }

    /// The columns that fit into `width`, with their widths. Those with the highest rank give way
    /// first. If those of rank 0 do not fit, the first one is cut.
    pub(super) fn fit(&self, width: usize) -> Vec<(usize, usize)> {
        let widest = |index: usize| {
            let cells = self.rows.iter().map(|row| row[index].text.chars().count());
            cells.chain([self.columns[index].0.len()]).max().unwrap_or(0)
        };
        let mut fitting: Vec<_> =
            (0..self.columns.len()).map(|index| (index, widest(index))).collect();
        let total = |columns: &[(usize, usize)]| {
            columns.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while total(&fitting) > width {
            let last = fitting
                .iter()
                .enumerate()
                .max_by_key(|(_, (column, _))| (self.columns[*column].1, *column));
            match last {
                Some((place, (column, _))) if self.columns[*column].1 > 0 => {
                    fitting.remove(place);
                }
                _ => {
                    let over = total(&fitting) - width;
                    if let Some((_, first)) = fitting.first_mut() {
                        *first = first.saturating_sub(over).max(1);
                    }
                    break;
                }
            }
        }
        fitting
    }

    /// One line of text: the headings without a row, or a row. Numbers stand on the right.
    pub(super) fn line(&self, row: Option<&[Cell]>, columns: &[(usize, usize)]) -> String {
        let mut line = String::new();
        for (place, (column, width)) in columns.iter().enumerate() {
            let is_number = self.rows.first().is_some_and(|row| row[*column].is_number());
            let text = row.map_or(self.columns[*column].0, |row| &row[*column].text);
            let text = shortened(text, *width);
            let gap = if place > 0 { GAP } else { 0 };
            line += &match is_number {
                true => format!("{:gap$}{text:>width$}", ""),
                false => format!("{:gap$}{text:<width$}", ""),
            };
        }
        line
    }

    /// The whole table as plain text.
    pub(super) fn plain(&self) -> String {
        let mut text = format!("{}\n", self.title);
        if self.rows.is_empty() {
            return text + &format!("  {}\n", self.empty);
        }
        let columns = self.fit(usize::MAX);
        let lines = [None].into_iter().chain(self.rows.iter().map(|row| Some(&row[..])));
        for row in lines {
            text += &format!("  {}\n", self.line(row, &columns).trim_end());
        }
        text
    }
}

/// At most `width` characters. A text that was cut ends with a mark.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "~"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let row = |name: &str, value: f64| {
            vec![Cell::text(name), Cell::number(format!("{value}"), value), Cell::unknown()]
        };
        Grid {
            title: "things",
            columns: &[("name", 0), ("value", 1), ("extra", 2)],
            rows: vec![row("bb", 9.0), row("a", 10.0), row("ccc", 9.0)],
            empty: "none",
        }
    }

    fn names(grid: &Grid) -> Vec<&str> {
        grid.rows.iter().map(|row| &*row[0].text).collect()
    }

    #[test]
    fn numbers_sort_by_size_and_texts_by_name() {
        let mut grid = grid();
        grid.sort_by(1);
        assert_eq!(names(&grid), ["a", "bb", "ccc"], "equal ones keep their order");
        grid.sort_by(0);
        assert_eq!(names(&grid), ["a", "bb", "ccc"]);
        grid.rows[2][2] = Cell::number("1".into(), 1.0);
        grid.sort_by(2);
        assert_eq!(names(&grid)[0], "ccc", "what is not known comes last");
    }

    #[test]
    fn columns_give_way_by_rank_and_the_first_is_cut_at_last() {
        let grid = grid();
        let columns = |width| -> Vec<usize> {
            grid.fit(width).into_iter().map(|(column, _)| column).collect()
        };
        // name 4, value 5, extra 5, and two gaps of 2.
        assert_eq!(columns(18), [0, 1, 2]);
        assert_eq!(columns(17), [0, 1]);
        assert_eq!(columns(10), [0]);
        assert_eq!(grid.fit(3), [(0, 3)]);
        assert_eq!(grid.line(None, &grid.fit(3)), "na~");
    }

    #[test]
    fn plain_text_has_all_rows_or_says_that_there_are_none() {
        let mut grid = grid();
        let text = "things\n  name  value  extra\n  bb        9      -\n  a        10      -\n  \
                    ccc       9      -\n";
        assert_eq!(grid.plain(), text);
        grid.rows.clear();
        assert_eq!(grid.plain(), "things\n  none\n");
    }
}
