//! Draws the live view. Everything has its place by the size of the terminal: what matters less
//! gives way where that is small.
//!
//! ```text
//!   title, state
//!   totals
//!   remarks
//!   ACK latency (sparkline)
//!   shards
//!   worst calls
//!   tenants │ refusals │ sinks      side by side, or one of them on a narrow terminal
//!   keys
//! ```

#![forbid(unsafe_code)]

use super::app::App;
use super::grid::Grid;
use super::{tables, units};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green).add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DOUBTFUL: Style = Style::new().fg(Color::Yellow);

/// Terminals of this width show tenants, refusals and sinks side by side.
const WIDE: u16 = 76;

/// Terminals of this height have a larger sparkline.
const TALL: u16 = 36;

/// Most lines with remarks.
const REMARKS_MAX: usize = 2;

const KEYS: &str = "q quit   p pause   s sort   left/right table   up/down scroll";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let grids = app.grids();
    let remarks = remarks(app);
    let is_tall = area.height >= TALL;
    let shard_rows = grids.first().map_or(1, |grid| grid.rows.len()).max(1);
    let shards_max = usize::from(area.height / 5).max(2);
    let spark = if is_tall { 6 } else { 4 };
    let [title, totals, remarked, ack, shards, calls, others, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(remarks.len() as u16),
        Constraint::Length(if area.height >= 24 { spark } else { 3 }),
        Constraint::Length(2 + shard_rows.min(shards_max) as u16),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(remarks), remarked);
    frame.render_widget(Paragraph::new(Line::styled(KEYS, DIM)), keys);
    let Some(document) = &app.document else {
        let waiting = format!("waiting for the node at {}", app.address);
        return frame.render_widget(Paragraph::new(Line::styled(waiting, BOLD)), title);
    };
    frame.render_widget(Paragraph::new(title_line(app, document, title.width)), title);
    let lines = tables::totals(document, app.change.as_ref());
    let lines = lines.iter().map(|parts| Line::from(joined(parts, totals.width)));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), totals);
    draw_latency(frame, app, ack);
    draw_grid(frame, app, &grids, 0, shards);
    draw_grid(frame, app, &grids, 1, calls);
    draw_others(frame, app, &grids, others);
}

/// Tenants, refusals and sinks. On a narrow terminal the chosen one of them, or the tenants.
fn draw_others(frame: &mut Frame<'_>, app: &App, grids: &[Grid], area: Rect) {
    if area.width < WIDE {
        return draw_grid(frame, app, grids, app.chosen.max(2), area);
    }
    let shares = [Constraint::Fill(5), Constraint::Fill(4), Constraint::Fill(3)];
    let areas: [Rect; 3] = Layout::horizontal(shares).spacing(2).areas(area);
    for (index, area) in areas.into_iter().enumerate() {
        draw_grid(frame, app, grids, 2 + index, area);
    }
}

/// Our error comes first, then what the node says.
fn remarks(app: &App) -> Vec<Line<'static>> {
    let error = app.error.iter().map(|error| Line::styled(error.clone(), BAD));
    let said = app.document.iter().flat_map(tables::remarks);
    let said = said.map(|remark| {
        let style = if remark.starts_with('!') { BAD } else { DOUBTFUL };
        Line::styled(remark, style)
    });
    error.chain(said).take(REMARKS_MAX).collect()
}

fn title_line(
    app: &App,
    document: &crate::control::admin::document::StatusDocument,
    width: u16,
) -> Line<'static> {
    let (state, style) = match (&app.error, app.is_paused, tables::state(document)) {
        (Some(_), ..) => ("NO ANSWER", BAD),
        (None, true, _) => ("PAUSED", DOUBTFUL),
        (None, false, state @ "READY") => (state, GOOD),
        (None, false, state) => (state, BAD),
    };
    let mut title = tables::title(document, &app.address);
    let room = usize::from(width).saturating_sub(state.len() + 2);
    title.truncate(title.floor_char_boundary(room));
    Line::from(vec![Span::styled(format!("{title:room$}  "), BOLD), Span::styled(state, style)])
}

/// As many parts as fit.
fn joined(parts: &[String], width: u16) -> String {
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { "" } else { "   " };
        if line.len() + gap.len() + part.len() > usize::from(width) {
            break;
        }
        line += gap;
        line += part;
    }
    line
}

/// p99 of the ACKs of each interval, the latest on the right.
fn draw_latency(frame: &mut Frame<'_>, app: &App, area: Rect) {
    if area.height < 2 {
        return;
    }
    let width = usize::from(area.width);
    let first = app.history.len().saturating_sub(width);
    let shown: Vec<Option<u64>> = app.history.iter().skip(first).copied().collect();
    let value = |value: Option<u64>| value.map_or_else(|| "-".into(), units::micros);
    let (now, max) = (shown.last().copied().flatten(), shown.iter().flatten().max().copied());
    let text = format!("ACK p99 by interval   now {}   highest {}", value(now), value(max));
    let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(Line::styled(text, BOLD)), title);
    let empty = std::iter::repeat_n(None, width - shown.len());
    let data: Vec<Option<u64>> = empty.chain(shown).collect();
    frame.render_widget(Sparkline::default().data(data).style(Style::new().fg(Color::Cyan)), bars);
}

fn draw_grid(frame: &mut Frame<'_>, app: &App, grids: &[Grid], index: usize, area: Rect) {
    let Some(grid) = grids.get(index).filter(|_| area.height > 0) else { return };
    let width = usize::from(area.width);
    let room = usize::from(area.height).saturating_sub(2);
    let first = app.scrolled[index].min(grid.rows.len().saturating_sub(room));
    let last = (first + room).min(grid.rows.len());
    let mut lines = vec![grid_title(app, grid, index, (first, last))];
    if grid.rows.is_empty() {
        lines.push(Line::styled(grid.empty, DIM));
    } else {
        let columns = grid.fit(width);
        lines.push(Line::styled(grid.line(None, &columns), DIM.add_modifier(Modifier::UNDERLINED)));
        let rows = grid.rows[first..last].iter();
        lines.extend(rows.map(|row| Line::from(grid.line(Some(row), &columns))));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The title of a table, with the rows that are shown if not all are, and the chosen order.
fn grid_title(
    app: &App,
    grid: &Grid,
    index: usize,
    (first, last): (usize, usize),
) -> Line<'static> {
    let is_chosen = app.chosen == index;
    let mut text = format!("{}{}", if is_chosen { "> " } else { "" }, grid.title);
    if last - first < grid.rows.len() {
        text += &format!("   {}-{} of {}", first + 1, last, grid.rows.len());
    }
    if let Some(column) = app.sorted[index] {
        text += &format!("   by {}", grid.columns[column].0);
    }
    Line::styled(text, if is_chosen { BOLD.fg(Color::Cyan) } else { BOLD })
}

#[cfg(test)]
mod tests;
