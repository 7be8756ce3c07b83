//! What the documents refer to exists: files, headings, tests in commands, and tests named in
//! comments. No test here uses a network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Documents outside of `docs/` and `examples/`.
const OTHERS: [&str; 8] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "tests/README.md",
    "tuning/README.md",
    "loadtest/README.md",
    "benches/peers/README.md",
];

/// Text in backquotes that begins like this is a path in the repository.
const ROOTS: [&str; 7] =
    ["src/", "tests/", "docs/", "examples/", "loadtest/", "benches/", "tuning/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = OTHERS.iter().map(|name| root().join(name)).collect();
    let mut directories = vec![root().join("docs"), root().join("examples")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                found.push(entry);
            }
        }
    }
    found
}

/// The lines of a document outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)` and `[name]: target`.
fn links(line: &str) -> Vec<&str> {
    let mut found: Vec<&str> = line
        .match_indices("](")
        .filter_map(|(at, _)| line[at + 2..].split_once(')'))
        .map(|(target, _)| target)
        .collect();
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        found.push(target.trim());
    }
    found
}

/// Text between backquotes.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (line.len() > title.len() && title.starts_with(' ')).then_some(title.trim())
    });
    headings
        .map(|title| {
            let kept =
                title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let slug: String = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let count = counts.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        })
        .collect()
}

/// Why a link is bad.
fn fault_of_link(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path =
        if file.is_empty() { document.to_owned() } else { document.parent().unwrap().join(file) };
    if !path.exists() {
        return Some(format!("there is no file {file}"));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    (!anchors(&text).contains(anchor))
        .then(|| format!("{} has no heading #{anchor}", path.display()))
}

/// Whether a path in the text exists. Its last part may have a `*`.
fn names_something(path: &str) -> bool {
    let Some((before, after)) = path.split_once('*') else { return root().join(path).exists() };
    let (directory, start) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(root().join(directory)) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with(start) && name.ends_with(after)
    })
}

/// Every fault that `check` finds in a document, with its place.
fn faults(check: impl Fn(&Path, &str, &mut Vec<String>)) -> Vec<String> {
    let mut all = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document)
            .unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        let name = document.strip_prefix(root()).unwrap().display().to_string();
        for (number, line) in prose(&text) {
            let mut found = Vec::new();
            check(&document, line, &mut found);
            all.extend(found.into_iter().map(|fault| format!("{name}:{number}: {fault}")));
        }
    }
    all
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        count += prose(&text).map(|(_, line)| links(line).len()).sum::<usize>();
    }
    assert!(count > 100, "only {count} links were found: does the test still see them?");
    let faults = faults(|document, line, found| {
        found.extend(links(line).into_iter().filter_map(|target| fault_of_link(document, target)));
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn files_named_in_the_text_exist() {
    let faults = faults(|document, line, found| {
        // A changelog was true when it was written.
        if document.ends_with("CHANGELOG.md") {
            return;
        }
        for span in code_spans(line) {
            let is_path = ROOTS.iter().any(|root| span.starts_with(root))
                && !span.contains([' ', '<', '…', '(']);
            if is_path && !names_something(span) {
                found.push(format!("there is no {span}"));
            }
        }
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A name at the start of a text: of a test program, or of a module in it.
fn name(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// What is wrong with `--test NAME MODULE` in a line. The module may be left out.
fn faults_of_commands(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, flag) in line.match_indices("--test ") {
        let rest = &line[at + flag.len()..];
        let program = name(rest);
        let module = rest[program.len()..].strip_prefix(' ').map_or("", name);
        let path = match module {
            "" if root().join(format!("tests/{program}.rs")).exists() => continue,
            "" => format!("tests/{program}/main.rs"),
            module => format!("tests/{program}/{module}.rs"),
        };
        if !root().join(&path).exists() {
            found.push(format!("there is no {path}"));
        }
    }
    found
}

#[test]
fn tests_named_in_commands_exist() {
    let mut all = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        // In code blocks too.
        for (index, line) in text.lines().enumerate() {
            let faults = faults_of_commands(line).into_iter();
            all.extend(
                faults.map(|fault| format!("{}:{}: {fault}", document.display(), index + 1)),
            );
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// Files with one of these endings below a directory, without what tools have put there.
fn files(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let is_foreign = ["target", "node_modules"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !is_foreign {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|it| endings.iter().any(|ending| it == *ending)) {
            found.push(path);
        }
    }
    found
}

/// The paths `tests/….rs` in a text. A `*` may stand for a part of a name.
fn paths_of_tests(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_/*.".contains(c);
    text.match_indices("tests/")
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| &text[at..])
        .map(|rest| &rest[..rest.find(|c: char| !is_part(c)).unwrap_or(rest.len())])
        .filter(|path| path.ends_with(".rs"))
        .collect()
}

#[test]
fn tests_named_in_comments_exist() {
    let (mut all, mut count) = (Vec::new(), 0);
    for directory in ["src", "tests", "examples", "benches", "loadtest"] {
        for file in files(&root().join(directory), &["rs", "sh", "py"]) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (index, line) in text.lines().enumerate() {
                let Some((_, comment)) = line.split_once("//").or(line.split_once("# ")) else {
                    continue;
                };
                let paths = paths_of_tests(comment);
                count += paths.len();
                let missing = paths.into_iter().filter(|path| !names_something(path));
                all.extend(
                    missing.map(|path| {
                        format!("{}:{}: there is no {path}", file.display(), index + 1)
                    }),
                );
            }
        }
    }
    assert!(count > 10, "only {count} were found: does the test still see them?");
    assert!(all.is_empty(), "{all:#?}");
}

/// The map has a section for each topic, and a row for each of its files.
#[test]
fn the_map_of_the_tests_is_complete() {
    let map = std::fs::read_to_string(root().join("tests/README.md")).unwrap();
    let mut listed = BTreeSet::new();
    let mut topic = "";
    for line in map.lines() {
        topic = line.strip_prefix("## ").unwrap_or(topic);
        // The first table is that of the directories.
        if let Some(row) = line.strip_prefix("| `")
            && !topic.is_empty()
        {
            listed.insert(format!("{topic}/{}", name(row)));
        }
    }
    let mut there = BTreeSet::new();
    for file in files(&root().join("tests"), &["rs"]) {
        let parts: Vec<_> = file.strip_prefix(root().join("tests")).unwrap().iter().collect();
        let stem = file.file_stem().unwrap().to_str().unwrap();
        match parts[..] {
            [_] => there.insert(format!("Alone/{stem}")),
            [topic, _] if file.with_file_name("main.rs").exists() && stem != "main" => {
                there.insert(format!("{}/{stem}", topic.to_str().unwrap()))
            }
            _ => false,
        };
    }
    assert_eq!(there, listed, "left: the files; right: the rows of tests/README.md");
}

#[test]
fn the_pieces_of_markdown_are_read_as_meant() {
    assert_eq!(links("a [b](c.md#d) e [f](g) and `x`"), ["c.md#d", "g"]);
    assert_eq!(links("[name]: docs/x.md"), ["docs/x.md"]);
    assert_eq!(code_spans("a `b` c `d/e.rs`").collect::<Vec<_>>(), ["b", "d/e.rs"]);
    let text = "# One Two\n```sh\n# no heading\n```\n## `4400` a_b, c\n## One two\n";
    let want = ["4400-a_b-c", "one-two", "one-two-1"].map(String::from);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), want);
    assert!(fault_of_link(&root().join("README.md"), "docs/no-such-page.md").is_some());
    assert!(fault_of_link(&root().join("README.md"), "docs/protocol.md#no-such-heading").is_some());
    assert!(names_something("tests/protocol/*_split_points.rs"));
    assert!(!names_something("tests/protocol/*_no_such.rs"));
    assert_eq!(faults_of_commands("cargo test --test protocol timers -- --nocapture"), [""; 0]);
    assert_eq!(faults_of_commands("`--test project`, `--test no_allocation`"), [""; 0]);
    assert_eq!(faults_of_commands("--test nothing and --test protocol nothing").len(), 2);
    let text = "see tests/a/b_*.rs, src/x/tests/c.rs, tests/d/";
    assert_eq!(paths_of_tests(text), ["tests/a/b_*.rs"]);
}
