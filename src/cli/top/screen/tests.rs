//! The view on terminals of several sizes.

#![forbid(unsafe_code)]

use super::super::sample;
use super::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::{Duration, Instant};

fn app() -> App {
    let (mut app, start) = (App::new("127.0.0.1:9464".into()), Instant::now());
    for second in 0..30 {
        app.handle_answer(start + Duration::from_secs(second), Ok(sample::at(second)));
    }
    app
}

/// The lines of a terminal of this size.
fn drawn(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test's terminal");
    terminal.draw(|frame| draw(frame, app)).expect("it is in memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

/// The lines from the one that begins with `title` on.
fn below<'a>(lines: &'a [String], title: &str) -> &'a [String] {
    let place = lines.iter().position(|line| line.trim_start_matches("> ").starts_with(title));
    &lines[place.unwrap_or_else(|| panic!("no {title}:\n{}", lines.join("\n")))..]
}

#[test]
fn a_usual_terminal_shows_everything() {
    let lines = drawn(&app(), 80, 24);
    assert!(lines[0].starts_with("exo-ingest 0.1.0 (abc1234)  127.0.0.1:9464  up 1h 02m"));
    assert!(lines[0].ends_with("READY"), "{}", lines[0]);
    assert!(lines[1].starts_with("calls 1,000 of 16,000   5,000 frames/s   48.0 MB/s"));
    assert!(lines[2].contains("free 80.0 GB") && lines[2].contains("memory 820 MB"));
    let latency = below(&lines, "ACK p99");
    assert!(latency[0].contains("now ") && latency[3].contains('█'), "{latency:#?}");
    let shards = below(&lines, "shards");
    assert!(shards[1].contains("frames/s") && shards[1].contains("bridges"), "{shards:#?}");
    assert!(shards[2].trim_start().starts_with("0    500     2,500"), "{shards:#?}");
    assert!(shards[3].trim_start().starts_with("1    500"), "{shards:#?}");
    let calls = below(&lines, "worst calls");
    assert!(calls[0].contains("1-") && calls[0].contains(" of 12"), "{calls:#?}");
    assert!(calls[2].starts_with("acme/call-0%2F7   12.0 s"), "{calls:#?}");
    let others = below(&lines, "tenants");
    assert!(others[0].contains("refusals") && others[0].contains("sinks"), "{others:#?}");
    assert!(others[2].starts_with("acme") && others[2].contains("quota"), "{others:#?}");
    assert!(lines[23].starts_with("q quit   p pause"), "{}", lines[23]);
}

#[test]
fn a_large_terminal_has_more_columns_and_rows() {
    let lines = drawn(&app(), 120, 40);
    let shards = below(&lines, "shards");
    for heading in ["audio/s", "ACK p50", "p99.9", "sync p99", "refused"] {
        assert!(shards[1].contains(heading), "{heading} in {}", shards[1]);
    }
    let calls = below(&lines, "worst calls");
    assert_eq!(
        calls.iter().filter(|line| line.starts_with("acme/call-")).count(),
        12,
        "{calls:#?}"
    );
    assert!(calls[1].ends_with("shard"), "{}", calls[1]);
}

#[test]
fn a_narrow_terminal_keeps_what_matters() {
    let mut app = app();
    let lines = drawn(&app, 60, 20);
    assert!(lines.iter().all(|line| line.chars().count() <= 60));
    assert!(lines[0].ends_with("READY") && lines[1].starts_with("calls 1,000"), "{lines:#?}");
    let shards = below(&lines, "shards");
    assert!(shards[1].contains("frames/s") && !shards[1].contains("audio/s"), "{}", shards[1]);
    assert!(below(&lines, "worst calls")[2].contains("12.0 s"));
    assert!(below(&lines, "tenants")[2].starts_with("acme"));
    // The arrows bring the tables for which there is no room.
    for _ in 0..2 {
        app.handle_key(KeyEvent::new(KeyCode::Right, KeyModifiers::NONE));
    }
    let lines = drawn(&app, 60, 20);
    assert!(below(&lines, "refusals")[2].starts_with("quota"), "{lines:#?}");
}

#[test]
fn no_size_is_too_small() {
    for (width, height) in [(1, 1), (5, 3), (20, 6), (80, 5), (300, 100)] {
        drawn(&app(), width, height);
        drawn(&App::new("a:1".into()), width, height);
    }
}

#[test]
fn a_node_that_does_not_answer_is_told_and_what_was_known_stays() {
    let mut app = App::new("127.0.0.1:9464".into());
    let sentence = "cannot read the status of the node at 127.0.0.1:9464";
    app.handle_answer(Instant::now(), Err(sentence.into()));
    let lines = drawn(&app, 80, 24);
    assert_eq!(lines[0], "waiting for the node at 127.0.0.1:9464");
    assert!(lines.iter().any(|line| line.starts_with(sentence)), "{lines:#?}");
    app = self::app();
    app.handle_answer(Instant::now(), Err(sentence.into()));
    let lines = drawn(&app, 80, 24);
    assert!(lines[0].ends_with("NO ANSWER") && lines[3].starts_with(sentence), "{lines:#?}");
    assert!(below(&lines, "worst calls")[2].starts_with("acme/call-0"));
}

#[test]
fn sorting_and_scrolling_are_seen() {
    let mut app = app();
    for code in [KeyCode::Char('s'), KeyCode::Char('s'), KeyCode::Down, KeyCode::Down] {
        app.handle_key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    let calls = drawn(&app, 80, 24);
    let calls = below(&calls, "worst calls");
    assert!(calls[0].starts_with("> worst calls   3-") && calls[0].ends_with("by silent"));
    assert!(calls[2].starts_with("acme/call-2"), "{calls:#?}");
}
