//! Words that we keep out of what users read: the documents, the examples, what the programs print.
//! The comments of the code follow the same rule, directory by directory: see [`DONE`].
//! A reader must understand each sentence at the first reading. Use *before* and *after* for time,
//! and say what a part of the software does, not *who* does it.

use crate::EXO_INGEST;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words and phrases, each with what to write instead. Matched as whole words, in any case.
const BANNED: [(&str, &str); 6] = [
    ("behind", "`after`, for time"),
    ("in front of", "`before`"),
    ("nobody", "name the part, or use the passive"),
    ("who", "name the part; `which` or `that`"),
    ("whoever", "name the part"),
    ("the begin", "`the start`, `the beginning`"),
];

/// Phrases that hold a banned word and are right: a place in a network, a person.
const ALLOWED: [&str; 6] = [
    "behind a proxy",
    "behind a tls proxy",
    "behind a load balancer",
    "people who",
    "those who",
    "anyone who",
];

/// Fragments at the start of a sentence.
const BANNED_STARTS: [&str; 2] = ["Of which", "Of what"];

/// Documents outside of `docs/` and `examples/`.
const TOP_LEVEL: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"];

/// Parts of the source whose comments and strings are in plain English, tests included. `src/ack`
/// stands for `src/ack.rs` and for the directory `src/ack/`.
const DONE: &[&str] = &[
    // In order of name.
    "benches",
    "loadtest/manual",
    "loadtest/output",
    "loadtest/src",
    "src/ack",
    "src/archive",
    "src/cli/doctor",
    "src/control",
    "src/doctor",
    "src/format",
    "src/journal",
    "src/latency",
    "src/metrics",
    "src/store",
];

/// Longest line of a document, an example or a source file in [`DONE`], columns.
const COLUMNS_MAX: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a directory with one of these endings.
fn files(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            // What a user of the examples has installed there.
            if !entry.ends_with("node_modules") {
                found.extend(files(&entry, extensions));
            }
        } else if entry.extension().is_some_and(|it| extensions.iter().any(|wanted| it == *wanted))
        {
            found.push(entry);
        }
    }
    found
}

fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = TOP_LEVEL.iter().map(|name| root().join(name)).collect();
    found.extend(files(&root().join("docs"), &["md"]));
    found.extend(files(&root().join("examples"), &["md", "rs", "py", "mjs", "sh", "toml"]));
    found
}

/// What is wrong with the words of a text.
fn faults(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lower = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    for phrase in ALLOWED {
        lower = lower.replace(phrase, "");
    }
    for (phrase, instead) in BANNED {
        let is_word = |at: usize| {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let before = lower[..at].chars().next_back().is_some_and(is_part);
            let after = lower[at + phrase.len()..].chars().next().is_some_and(is_part);
            !before && !after
        };
        if lower.match_indices(phrase).any(|(at, _)| is_word(at)) {
            found.push(format!("\"{phrase}\": write {instead}"));
        }
    }
    for start in BANNED_STARTS {
        let text = text.trim_start_matches(|c: char| !c.is_alphanumeric());
        if text.starts_with(start)
            || [". ", ": ", "\n"].iter().any(|end| text.contains(&format!("{end}{start}")))
        {
            found.push(format!("\"{start} …\": say subject, verb, object"));
        }
    }
    found
}

/// The faults of a text by line, where each line is a part of prose. A phrase that a line's end
/// cuts in two is found in the next pass, over pairs of lines.
fn faults_by_line(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let mut here = faults(line);
        if here.is_empty()
            && let Some(next) = lines.get(index + 1)
            && faults(next).is_empty()
        {
            here =
                faults(&format!("{line} {}", next.trim_start_matches(['/', '#', ' ', '*', '!'])));
        }
        found.extend(here.into_iter().map(|fault| format!("{name}:{}: {fault}", index + 1)));
    }
    found
}

#[test]
fn documents_and_examples_are_in_plain_english() {
    let mut all = Vec::new();
    for path in documents() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        all.extend(faults_by_line(&name, &fs::read_to_string(&path).unwrap()));
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[track_caller]
fn assert_short_lines(paths: Vec<PathBuf>) {
    let mut all = Vec::new();
    for path in paths {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                all.push(format!("{name}:{}: {columns} columns", index + 1));
            }
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn documents_and_examples_have_short_lines() {
    assert_short_lines(documents());
}

#[test]
fn the_readme_is_short_enough_to_be_read() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: move something to docs/");
}

/// The help of every command, and the references of settings and metrics.
#[test]
fn what_the_program_prints_is_in_plain_english() {
    let print = |args: &[&str]| {
        let output = Command::new(EXO_INGEST).args(args).env_clear().output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut all = Vec::new();
    let mut commands = vec![Vec::new()];
    let mut count = 0;
    while let Some(command) = commands.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = print(&args);
        count += 1;
        all.extend(faults_by_line(&args.join(" "), &help));
        // The names of its subcommands.
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in listed.take_while(|line| !line.is_empty()) {
            let name = line.trim_start().split(' ').next().unwrap();
            let is_name = line.starts_with("  ") && !line.starts_with("   ") && name != "help";
            if is_name {
                commands.push(command.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    assert!(count > 12, "only {count} commands were found");
    for args in [["config", "--reference"], ["config", "--reference=metrics"]] {
        all.extend(faults_by_line(&args.join(" "), &print(&args)));
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// Errors, log lines and everything else that is written as a string in the programs.
#[test]
fn strings_of_the_programs_are_in_plain_english() {
    let (mut all, mut count) = (Vec::new(), 0);
    for path in ["src", "loadtest/src"].iter().flat_map(|room| files(&root().join(room), &["rs"])) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if name.contains("/tests/") || name.ends_with("/tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (line, string) in strings(program) {
            count += 1;
            all.extend(
                faults(&string)
                    .into_iter()
                    .map(|fault| format!("{name}:{line}: {fault}: {string:?}")),
            );
        }
    }
    // exo-load's help is made of the comments of its arguments.
    for path in files(&root().join("loadtest/src"), &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("use clap::") {
            let help = text.lines().filter_map(|line| line.trim_start().strip_prefix("///"));
            all.extend(help.flat_map(|line| {
                faults(line).into_iter().map(move |fault| format!("{fault}: {line}"))
            }));
        }
    }
    assert!(count > 1_000, "only {count} strings were found");
    assert!(all.is_empty(), "{all:#?}");
}

/// The Rust files that [`DONE`] names.
fn done_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for part in DONE {
        let (file, directory) = (root().join(format!("{part}.rs")), root().join(part));
        assert!(file.is_file() || directory.is_dir(), "DONE names {part}, which does not exist");
        if directory.is_dir() {
            found.extend(files(&directory, &["rs"]));
        }
        found.extend(file.is_file().then_some(file));
    }
    found
}

#[test]
fn comments_and_strings_of_done_parts_are_in_plain_english() {
    let mut all = Vec::new();
    for path in done_files() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        all.extend(faults_by_line(&name, &only_comments(&text)));
        for (line, string) in strings(&text) {
            all.extend(faults(&string).into_iter().map(|fault| format!("{name}:{line}: {fault}")));
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn done_parts_have_short_lines() {
    assert_short_lines(done_files());
}

/// The comments of a Rust file, each on its own line. The other lines are empty.
fn only_comments(text: &str) -> String {
    let mut lines = vec![""; text.lines().count()];
    for piece in pieces(text) {
        if let Piece::Comment(line, comment) = piece {
            lines[line - 1] = comment;
        }
    }
    lines.join("\n")
}

/// The string literals of a Rust file, each with the line it begins on.
fn strings(text: &str) -> Vec<(usize, String)> {
    pieces(text)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::String(line, string) => Some((line, string)),
            Piece::Comment(..) => None,
        })
        .collect()
}

/// A part of a Rust file that a person reads, with the line it begins on.
enum Piece<'a> {
    /// From `//` to the end of the line.
    Comment(usize, &'a str),
    /// What is between the quotes.
    String(usize, String),
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let (mut line, mut counted_to) = (1, 0);
    let mut line_of = |at: usize| {
        line += bytes[counted_to..at].iter().filter(|byte| **byte == b'\n').count();
        counted_to = at;
        line
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            let size = rest.find('\n').unwrap_or(rest.len());
            found.push(Piece::Comment(line_of(at), &rest[..size]));
            at += size;
        } else if let Some(hashes) = raw_start(text, at) {
            let (start, end) = (at + 2 + hashes, format!("\"{}", "#".repeat(hashes)));
            let size = text[start..].find(&end).expect("a raw string ends");
            found.push(Piece::String(line_of(at), text[start..start + size].to_owned()));
            at = start + size + end.len();
        } else if rest.starts_with('"') {
            let (string, size) = quoted(rest);
            found.push(Piece::String(line_of(at), string));
            at += size;
        } else if let Some(size) = character(rest) {
            at += size;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// The number of hashes of a raw string that begins at `at`.
fn raw_start(text: &str, at: usize) -> Option<usize> {
    let is_name = text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let rest = text[at..].strip_prefix('r').filter(|_| !is_name || text[..at].ends_with('b'))?;
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// An ordinary string: its text, with a line that is carried on put together, and its size with
/// quotes.
fn quoted(text: &str) -> (String, usize) {
    let mut string = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (string.split_whitespace().collect::<Vec<_>>().join(" "), at + 1),
            '\\' => match characters.next() {
                Some((_, '\n' | 'n')) => string.push(' '),
                Some((_, other)) => string.push(other),
                None => {}
            },
            other => string.push(other),
        }
    }
    panic!("a string that does not end: {}", &text[..text.len().min(80)]);
}

/// The size of a character literal that stands here; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        return escape[1..].find('\'').map(|end| end + 4);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

#[test]
fn words_are_found_and_others_are_not() {
    for bad in [
        "it stands behind the ACKs",
        "Nobody knows.",
        "the shard, who has it",
        "at the begin of the turn",
        "in front of the batch",
        "Of which nothing is left.",
        "It ends. Of which nothing is left.",
    ] {
        assert!(!faults(bad).is_empty(), "{bad}");
    }
    for good in [
        "from the beginning",
        "whole, whose",
        "put it behind a TLS proxy",
        "people who call",
        "a list of which",
    ] {
        assert_eq!(faults(good), [""; 0], "{good}");
    }
    assert_eq!(faults_by_line("x", "stands in\nfront of it").len(), 1);
}

#[test]
fn strings_and_comments_are_told_apart() {
    let text = r###"
// "comment"
let a = "one \"two\" \
    three";
let b = r#"four "five""#; let c = '"'; let d = '\''; let e: &'a str = "six";
let f = br"seven"; let g = '\u{41}'; let h = "eight\n";
"###;
    let found: Vec<(usize, String)> = strings(text);
    let want =
        [(3, "one \"two\" three"), (5, "four \"five\""), (5, "six"), (6, "seven"), (6, "eight")];
    assert_eq!(found, want.map(|(line, string)| (line, string.to_owned())));
    assert_eq!(only_comments(text).trim(), "// \"comment\"");
    let text = "/// It stands in\n/// front of it.\nlet a = \"// who\"; // nobody";
    assert_eq!(only_comments(text), "/// It stands in\n/// front of it.\n// nobody");
    assert_eq!(faults_by_line("x", &only_comments(text)).len(), 2);
}
