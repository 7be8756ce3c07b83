//! The state of the live view: the last document, what changed, and what the keys have chosen.

#![forbid(unsafe_code)]

use super::grid::Grid;
use super::rates::Change;
use super::tables::grids;
use crate::control::admin::document::StatusDocument;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use std::time::Instant;

/// Values of the sparkline that are kept: more than the widest terminal shows.
const HISTORY_MAX: usize = 600;

/// The tables of [`grids`].
pub(super) const GRID_COUNT: usize = 5;

/// What a key has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stay,
    Quit,
}

/// See the module.
#[derive(Debug)]
pub(super) struct App {
    pub(super) address: String,
    pub(super) document: Option<StatusDocument>,
    taken_at: Option<Instant>,
    pub(super) change: Option<Change>,
    /// Why the last attempt has brought no document.
    pub(super) error: Option<String>,
    /// p99 of the ACKs, microseconds, by interval.
    pub(super) history: VecDeque<Option<u64>>,
    pub(super) is_paused: bool,
    /// The table that the arrows move in.
    pub(super) chosen: usize,
    /// By table: the column that it is sorted by; `None` leaves the node's order.
    pub(super) sorted: [Option<usize>; GRID_COUNT],
    /// By table: the first row that is shown.
    pub(super) scrolled: [usize; GRID_COUNT],
}

impl App {
    pub(super) fn new(address: String) -> App {
        App {
            address,
            document: None,
            taken_at: None,
            change: None,
            error: None,
            history: VecDeque::new(),
            is_paused: false,
            chosen: 1,
            sorted: [None; GRID_COUNT],
            scrolled: [0; GRID_COUNT],
        }
    }

    /// The node has answered, or has not. A paused view stays as it is.
    pub(super) fn handle_answer(&mut self, at: Instant, answer: Result<StatusDocument, String>) {
        if self.is_paused {
            return;
        }
        match answer {
            Ok(document) => {
                let before = self.document.as_ref().zip(self.taken_at);
                self.change = before.and_then(|(before, taken_at)| {
                    Change::between(before, &document, at.saturating_duration_since(taken_at))
                });
                self.history.push_back(self.change.as_ref().and_then(|change| change.ack_p99_us));
                (self.document, self.taken_at, self.error) = (Some(document), Some(at), None);
            }
            Err(sentence) => {
                self.history.push_back(None);
                self.error = Some(sentence);
            }
        }
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    /// A key was pressed.
    pub(super) fn handle_key(&mut self, key: KeyEvent) -> Outcome {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Outcome::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Outcome::Quit,
            KeyCode::Char('p') | KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Right | KeyCode::Tab => self.chosen = (self.chosen + 1) % GRID_COUNT,
            KeyCode::Left | KeyCode::BackTab => {
                self.chosen = (self.chosen + GRID_COUNT - 1) % GRID_COUNT;
            }
            KeyCode::Down => self.scroll(1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::Up => self.scroll(-1),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::Home => self.scrolled[self.chosen] = 0,
            _ => {}
        }
        Outcome::Stay
    }

    /// The tables, sorted as the keys have asked.
    pub(super) fn grids(&self) -> Vec<Grid> {
        let Some(document) = &self.document else { return Vec::new() };
        let mut grids = grids(document, self.change.as_ref());
        for (grid, column) in grids.iter_mut().zip(self.sorted) {
            if let Some(column) = column {
                grid.sort_by(column);
            }
        }
        grids
    }

    /// After the last column comes the node's own order again.
    fn sort_by_next(&mut self) {
        let count = self.grids().get(self.chosen).map_or(0, |grid| grid.columns.len());
        let sorted = &mut self.sorted[self.chosen];
        *sorted = match *sorted {
            None if count > 0 => Some(0),
            Some(column) if column + 1 < count => Some(column + 1),
            _ => None,
        };
    }

    fn scroll(&mut self, rows: isize) {
        let count = self.grids().get(self.chosen).map_or(0, |grid| grid.rows.len());
        let scrolled = &mut self.scrolled[self.chosen];
        *scrolled = scrolled.saturating_add_signed(rows).min(count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use std::time::Duration;

    fn press(app: &mut App, code: KeyCode) -> Outcome {
        app.handle_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn app_at(seconds: &[u64]) -> App {
        let (mut app, start) = (App::new("a:1".into()), Instant::now());
        for second in seconds {
            app.handle_answer(start + Duration::from_secs(*second), Ok(sample::at(*second)));
        }
        app
    }

    #[test]
    fn rates_come_with_the_second_document_and_stay_while_the_node_is_away() {
        let mut app = app_at(&[0]);
        assert!(app.change.is_none() && app.history == [None]);
        app = app_at(&[0, 2]);
        assert!(app.change.is_some() && app.history[1] > Some(10_000));
        app.handle_answer(Instant::now(), Err("gone".into()));
        assert_eq!((app.error.as_deref(), app.history.len()), (Some("gone"), 3));
        assert!(app.change.is_some() && app.document.is_some(), "what was known stays");
        app.handle_answer(Instant::now() + Duration::from_secs(9), Ok(sample::at(9)));
        assert_eq!(app.error, None);
    }

    #[test]
    fn a_paused_view_does_not_change() {
        let mut app = app_at(&[0, 2]);
        press(&mut app, KeyCode::Char('p'));
        app.handle_answer(Instant::now(), Ok(sample::at(4)));
        app.handle_answer(Instant::now(), Err("gone".into()));
        assert_eq!(app.document, Some(sample::at(2)));
        assert_eq!(app.error, None);
        press(&mut app, KeyCode::Char('p'));
        app.handle_answer(Instant::now(), Ok(sample::at(4)));
        assert_eq!(app.document, Some(sample::at(4)));
    }

    #[test]
    fn keys_choose_sort_and_scroll() {
        let mut app = app_at(&[0, 2]);
        assert_eq!(app.grids().len(), GRID_COUNT);
        let first = |app: &App| app.grids()[1].rows[0][0].text.clone();
        assert_eq!(first(&app), "acme/call-0%2F7", "the node's order");
        for column in 0..4 {
            press(&mut app, KeyCode::Char('s'));
            assert_eq!(app.sorted[1], Some(column));
        }
        assert_eq!(first(&app), "acme/call-9%2F7", "the most frames without an ACK");
        for _ in 4..9 {
            press(&mut app, KeyCode::Char('s'));
        }
        assert_eq!(app.sorted[1], None);
        press(&mut app, KeyCode::PageDown);
        press(&mut app, KeyCode::PageDown);
        assert_eq!(app.scrolled[1], 11, "the last row stays");
        press(&mut app, KeyCode::Up);
        assert_eq!(app.scrolled[1], 10);
        for _ in 0..GRID_COUNT {
            press(&mut app, KeyCode::Left);
        }
        assert_eq!((app.chosen, app.sorted[0]), (1, None));
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut app, code), Outcome::Quit);
        }
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.handle_key(interrupt), Outcome::Quit);
    }

    #[test]
    fn the_history_is_bounded_and_keys_without_a_document_do_nothing() {
        let mut app = App::new("a:1".into());
        for _ in 0..2 * HISTORY_MAX {
            app.handle_answer(Instant::now(), Err("gone".into()));
        }
        assert_eq!(app.history.len(), HISTORY_MAX);
        press(&mut app, KeyCode::Char('s'));
        press(&mut app, KeyCode::Down);
        assert_eq!((app.sorted[1], app.scrolled[1]), (None, 0));
    }
}
