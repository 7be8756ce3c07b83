//! What holds for the sources as a whole: who may know whom, where unsafe code, clocks and IO live, how long files are. Each
//! test is an absence that the crate's documentation states.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the crate, each with those it may use: all of them stand above it. `lib.rs` and `main.rs` see all.
const ROOMS: &[(&str, &[&str])] = &[
    ("constants", &[]),
    ("clock", &[]),
    ("limits", &[]),
    ("latency", &["clock"]),
    ("metrics", &[]),
    ("transport", &[]),
    ("call", &["clock", "constants"]),
    ("tenants", &["constants"]),
    ("proto", &["call", "constants"]),
    ("auth", &["call", "clock", "constants"]),
    ("journal::format", &["call", "clock", "constants"]),
    ("io", &["clock", "constants"]),
    // Of `io` the memory alone: see `the_frame_ring_knows_memory_and_no_io`.
    ("frame_ring", &["call", "clock", "constants", "io", "journal::format", "proto"]),
    ("ack", &["call", "clock", "constants", "frame_ring"]),
    // It plans what the shard writes; the rest of the journal reads files.
    ("journal::writer", &["ack", "call", "clock", "constants", "frame_ring", "io", "journal::format"]),
    ("journal", &["call", "clock", "constants", "frame_ring", "io", "journal::format", "proto"]),
    ("session", &["auth", "call", "clock", "constants", "frame_ring", "limits", "metrics", "proto", "tenants"]),
    // The only place where IO meets protocol.
    (
        "shard",
        &[
            "ack",
            "auth",
            "call",
            "clock",
            "constants",
            "frame_ring",
            "io",
            "journal::writer",
            "latency",
            "limits",
            "metrics",
            "proto",
            "session",
            "transport",
        ],
    ),
    // The thread that has segments ready and retains them: it knows files and mailboxes, and no connection.
    (
        "control::keeper",
        &["ack", "clock", "constants", "frame_ring", "io", "journal", "journal::format", "journal::writer", "shard"],
    ),
    (
        "node",
        &[
            "auth",
            "constants",
            "control::keeper",
            "frame_ring",
            "io",
            "latency",
            "limits",
            "metrics",
            "proto",
            "session",
            "shard",
            "tenants",
        ],
    ),
    // What the kernel can do and how strict a session is are settings.
    ("config", &["ack", "constants", "control::keeper", "io", "limits", "session"]),
    ("logging", &["config"]),
    // It sees nodes as a whole, and no connection.
    ("control", &["auth", "constants", "latency", "metrics", "node"]),
    ("cli", &["auth", "call", "clock", "config", "constants", "control", "io", "journal", "logging", "node", "session"]),
];

/// The files that talk to the kernel, or to the CPU, in unsafe code.
const UNSAFE: [&str; 5] =
    ["src/io/buffer_ring.rs", "src/io/inherited.rs", "src/io/memory.rs", "src/io/uring.rs", "src/proto/mask/x86.rs"];

/// The modules they stand in, which therefore cannot forbid it, and have none themselves.
const ABOVE_UNSAFE: [&str; 4] = ["src/io/mod.rs", "src/lib.rs", "src/proto/mask.rs", "src/proto/mod.rs"];

/// Rooms that plan and never perform.
const PURE: [&str; 12] = [
    "ack",
    "auth",
    "call",
    "clock",
    "constants",
    "frame_ring",
    "journal::format",
    "journal::writer",
    "limits",
    "proto",
    "session",
    "transport",
];

/// What performing takes.
const PERFORMING: [&str; 8] =
    ["std::fs", "std::io", "std::net", "std::os", "std::process", "std::thread", "rustix::", "io_uring::"];

/// Formatting into a slice is no IO, whatever the trait is called.
const INTO_A_SLICE: (&str, &str) = ("src/proto/handshake.rs", "use std::io::Write;");

/// What a failed operation says is a number, and no IO.
const ERROR_NUMBERS: &str = "use rustix::io::Errno;";

/// Makes journals for tests and benches.
const PLAYS_THE_WRITER: &str = "src/journal/image.rs";

/// Rooms in which clocks are read: by the shard's IO, by the control plane, by commands that mint tokens, by readers that wait
/// for a lock.
const READS_CLOCKS: [&str; 5] = ["cli", "control", "control::keeper", "io", "journal"];

/// The one file in which the rsa crate generates keys.
const USES_RSA: &str = "src/cli/keygen.rs";

const FILE_LENGTH_MAX: usize = 600;

/// From here on a file is named, so that it can be split before it has to be.
const FILE_LENGTH_NOTED: usize = 500;

/// A source file.
struct Source {
    /// Below the workspace's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The room it belongs to, for files of `src`.
    fn room(&self) -> &str {
        let below = self.path.strip_prefix("src/").expect("a file of the crate");
        let part_of = |room: &str| below.strip_prefix(room).and_then(|file| file.split(['/', '.']).next());
        match (part_of("journal/"), part_of("control/")) {
            (Some("format" | "batch"), _) => "journal::format",
            (Some("writer"), _) => "journal::writer",
            (_, Some("keeper")) => "control::keeper",
            _ => below.split('/').next().expect("a name").trim_end_matches(".rs"),
        }
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Its lines without comments, strings left as they are, and without what is compiled for tests alone.
    fn code(&self) -> Vec<&str> {
        let mut code = Vec::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                code.push(line.split("//").next().unwrap_or_default());
                continue;
            }
            // The item behind it: one line, or up to the brace that closes it.
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let opening = lines.find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
            if opening.trim_end().ends_with('{') {
                lines.find(|line| *line == closing);
            }
        }
        code
    }

    /// The crate's rooms that it names.
    fn names(&self) -> BTreeSet<String> {
        let is_top =
            self.path.matches('/').count() == 1 || self.path.ends_with("/mod.rs") && self.path.matches('/').count() == 2;
        let mut names = BTreeSet::new();
        for line in self.code() {
            assert!(!line.contains("crate::{"), "{}: write one `use crate::…` a room: {line}", self.path);
            let own = if is_top { "super::" } else { "super::super::" };
            for opening in ["crate::", own] {
                for (start, _) in line.match_indices(opening) {
                    let is_longer = opening == own && line[..start].ends_with("super::");
                    let name: String =
                        line[start + opening.len()..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                    let name = part_of_room(&line[start + opening.len()..]).map_or(name, str::to_owned);
                    let is_room = ROOMS.iter().any(|(room, _)| *room == name);
                    if is_room && (opening == "crate::" || is_top || is_longer || self.path.matches('/').count() == 2) {
                        names.insert(name);
                    }
                }
            }
        }
        names
    }
}

/// The journal is three rooms, the control plane two: see [`Source::room`].
fn part_of_room(path: &str) -> Option<&'static str> {
    let mut names = path.split("::").map(|name| name.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default());
    match (names.next()?, names.next()?) {
        ("journal", "format" | "batch") => Some("journal::format"),
        ("journal", "writer") => Some("journal::writer"),
        ("control", "keeper") => Some("control::keeper"),
        _ => None,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources(dirs: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    dirs.iter().for_each(|dir| collect(&root().join(dir), &mut paths));
    paths.sort();
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).expect("a source file"),
        path: path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned(),
    };
    paths.into_iter().map(read).collect()
}

/// The crate's files that are part of a build.
fn crate_sources() -> Vec<Source> {
    let mut sources = sources(&["src"]);
    sources.retain(|source| !source.is_test());
    sources
}

#[test]
fn modules_depend_in_one_direction() {
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for (room, uses) in ROOMS {
        assert!(uses.iter().all(|used| above.contains(used)), "{room} may use what does not stand above it");
        above.insert(room);
    }
    let mut unused: BTreeMap<&str, BTreeSet<&str>> =
        ROOMS.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let mut wrong = BTreeSet::new();
    for source in crate_sources() {
        let room = source.room();
        if matches!(room, "lib" | "main") {
            continue;
        }
        let (_, allowed) = ROOMS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} has no row here"));
        for used in source.names() {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.insert(format!("{} must not know {used}", source.path));
            }
            unused.get_mut(room).expect("it has a row").remove(used.as_str());
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    unused.retain(|_, uses| !uses.is_empty());
    assert!(unused.is_empty(), "allowed and not needed: {unused:?}");
}

#[test]
fn io_meets_protocol_in_the_shard_alone() {
    for source in crate_sources() {
        let names = source.names();
        let meets = names.contains("io") && ["proto", "session"].iter().any(|room| names.contains(*room));
        let makes_or_sets =
            matches!(source.room(), "node" | "config" | "cli" | "frame_ring") || source.path == PLAYS_THE_WRITER;
        assert!(!meets || source.room() == "shard" || makes_or_sets, "{} knows both", source.path);
    }
}

#[test]
fn the_frame_ring_knows_memory_and_no_io() {
    for source in crate_sources().iter().filter(|source| source.room() == "frame_ring") {
        for line in source.code().iter().filter(|line| line.contains("crate::io")) {
            assert!(line.contains("crate::io::memory::Region"), "{}: {line}", source.path);
        }
    }
}

#[test]
fn unsafe_code_lives_in_files_that_talk_to_the_kernel_or_the_cpu() {
    let all = sources(&["src", "loadtest/src"]);
    let forbids = |source: &Source| source.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
    let forbidding: BTreeSet<&str> =
        all.iter().filter(|source| forbids(source)).map(|source| source.path.as_str()).collect();
    // A module's attribute holds for those below it.
    let is_held = |path: &str| {
        let mut module = path.to_owned();
        while let Some((above, _)) = module.rsplit_once('/') {
            // The crate's root is `lib.rs`; its `main.rs` has no module of its own.
            let root = if above == "src" { "src/lib.rs".to_owned() } else { format!("{above}/main.rs") };
            let files = [module.clone(), format!("{above}.rs"), format!("{above}/mod.rs"), root];
            if files.iter().any(|file| forbidding.contains(file.as_str())) {
                return true;
            }
            module = above.to_owned();
        }
        false
    };
    let not_held: BTreeSet<&str> = all.iter().map(|source| source.path.as_str()).filter(|path| !is_held(path)).collect();
    let expected: BTreeSet<&str> = UNSAFE.into_iter().chain(ABOVE_UNSAFE).collect();
    assert_eq!(not_held, expected, "forbid unsafe code in the others");
    for source in all.iter().filter(|source| !UNSAFE.contains(&source.path.as_str())) {
        let mut code = source.code().into_iter();
        assert!(!code.any(|line| line.contains("unsafe ")), "{} has unsafe code", source.path);
    }
}

#[test]
fn clocks_are_read_where_io_is_done() {
    for source in crate_sources() {
        for line in source.code() {
            let reads = ["Instant::now", "SystemTime::now", "clock_gettime", "UNIX_EPOCH.elapsed"]
                .iter()
                .any(|it| line.contains(it));
            assert!(!reads || READS_CLOCKS.contains(&source.room()), "{}: {line}", source.path);
        }
    }
}

#[test]
fn protocol_code_does_no_io_and_starts_no_thread() {
    for source in crate_sources().iter().filter(|source| PURE.contains(&source.room())) {
        for line in source.code() {
            let performs = PERFORMING.iter().any(|it| line.contains(it));
            let is_harmless = (source.path.as_str(), line) == INTO_A_SLICE || line == ERROR_NUMBERS;
            assert!(!performs || is_harmless, "{}: {line}", source.path);
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    // Put together, so that this file does not find itself.
    let marks = ["todo!", "unimplemented!", "dbg!"].map(|name| format!("{name}("));
    let words = ["TODO", "FIXME", "XXX"].map(|word| format!("{word}:"));
    for source in sources(&["src", "tests", "benches", "loadtest"]) {
        for line in source.text.lines() {
            let found = marks.iter().chain(&words).any(|mark| line.contains(mark.as_str()));
            assert!(!found, "{}: {line}", source.path);
        }
        assert!(!source.text.contains(concat!("#[", "ignore")), "{}: a test that never runs", source.path);
    }
}

#[test]
fn no_file_is_longer_than_600_lines() {
    for source in sources(&["src", "tests", "benches", "loadtest"]) {
        let length = source.text.lines().count();
        if length > FILE_LENGTH_NOTED {
            println!("{}: {length} lines", source.path);
        }
        assert!(length <= FILE_LENGTH_MAX, "{}: {length} lines", source.path);
    }
}

/// Whether a line of code names the rsa crate: `rsa::…` that is no other crate's module, `use rsa;`, `extern crate rsa`.
fn names_rsa(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices("rsa").any(|(start, word)| {
        let (before, after) = (&code[..start], &code[start + word.len()..]);
        // What `::rsa` hangs on, if it hangs on something.
        let before = before.strip_suffix("::").unwrap_or(before);
        let is_whole = !before.bytes().next_back().is_some_and(is_word) && !after.bytes().next().is_some_and(is_word);
        let is_import = before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        is_whole && (is_import || after.starts_with("::"))
    })
}

/// Its private-key operations are not constant-time (RUSTSEC-2023-0071), so nothing that serves peers may come near it. Tests may
/// make keys with it.
#[test]
fn the_rsa_crate_is_used_in_one_file() {
    let mut built = sources(&["src", "loadtest/src", "benches"]);
    built.retain(|source| !source.is_test() && source.code().into_iter().any(names_rsa));
    assert_eq!(built.iter().map(|source| source.path.as_str()).collect::<Vec<_>>(), [USES_RSA]);
    let manifest = fs::read_to_string(root().join("loadtest/Cargo.toml")).expect("a manifest");
    let depended = manifest.split("[dev-dependencies]").next().expect("what is not for tests");
    let depends = depended.lines().any(|line| line.trim_start().starts_with("rsa"));
    assert!(!depends, "the load generator depends on the rsa crate");
}

#[test]
fn the_search_knows_the_rsa_crate_from_its_namesakes() {
    for line in
        ["use rsa::RsaPrivateKey;", "    let key = rsa::RsaPrivateKey::new();", "use ::rsa as r;", "extern crate rsa;"]
    {
        assert!(names_rsa(line), "{line}");
    }
    for line in ["use rsa;", "use rsa as other;", "f(::rsa::pkcs8::x())", "impl From<rsa::Error> for E {}"] {
        assert!(names_rsa(line), "{line}");
    }
    for line in
        ["ring::rsa::PublicKey", "// rsa::x", "from_rsa_pem(text)", "let rsa = 1;", "my_rsa::x", "use rsac::y;", "versa::x"]
    {
        assert!(!names_rsa(line), "{line}");
    }
}
