//! Rules for the sources as a whole: which module may use which, where unsafe code, clocks and IO
//! are, and how long files may be. The crate's documentation states each rule that is tested here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the crate in layers, from the ground up: a room is a file or a folder in `src`. It
/// may use rooms of lower layers, and none beside it or above it. `lib.rs` and `main.rs` see all;
/// `lib.rs` draws this table.
const LAYERS: &[&[&str]] = &[
    &["ack_level", "address", "clock", "constants", "declare", "metrics"],
    &["call", "latency", "limits", "tenants", "worst_calls"],
    &["auth", "format", "io", "proto"],
    &["journal", "tls"],
    &["ack", "session", "transport"],
    &["archive"],
    &["handover", "shard", "store"],
    &["config", "node"],
    &["control", "doctor", "logging"],
    &["cli"],
];

/// What the layers would allow, and must not be.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("session", &["io"], "a session plans and never performs"),
    ("shard", &["archive"], "a shard reads no file"),
    (
        "control",
        &["archive", "io", "journal", "proto", "session", "shard", "store"],
        "it sees nodes as a whole, and no connection",
    ),
];

/// The files that talk to the kernel, or to the CPU, in unsafe code.
const UNSAFE: [&str; 7] = [
    "src/io/buffer_ring.rs",
    "src/io/clocks.rs",
    "src/io/inherited.rs",
    "src/io/memory.rs",
    "src/io/uring.rs",
    "src/proto/mask/x86.rs",
    "src/proto/mask/x86/avx2.rs",
];

/// The modules they stand in, which therefore cannot forbid it, and have none themselves.
const ABOVE_UNSAFE: [&str; 4] =
    ["src/io/mod.rs", "src/lib.rs", "src/proto/mask.rs", "src/proto/mod.rs"];

/// Rooms that plan and never perform.
const PURE: [&str; 14] = [
    "ack",
    "ack_level",
    "address",
    "auth",
    "call",
    "clock",
    "constants",
    "format",
    "journal",
    "limits",
    "proto",
    "session",
    "tls",
    "transport",
];

/// What performing takes.
const PERFORMING: [&str; 8] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "rustix::",
    "io_uring::",
];

/// Formatting into a slice is no IO, whatever the trait is called.
const INTO_A_SLICE: (&str, &str) = ("src/proto/handshake.rs", "use std::io::Write;");

/// What a failed operation says is a number, and no IO.
const ERROR_NUMBERS: &str = "use rustix::io::Errno;";

/// Makes journals for tests and benches.
const PLAYS_THE_WRITER: &str = "src/archive/image.rs";

/// Rooms in which clocks are read: by the shard's IO, by the store, by the control plane, by
/// commands that mint tokens, by readers that wait for a lock, by the doctor's measurements.
const READS_CLOCKS: [&str; 7] = ["archive", "cli", "control", "doctor", "handover", "io", "store"];

/// The one file in which the rsa crate generates keys.
const USES_RSA: &str = "src/cli/keygen.rs";

const FILE_LENGTH_MAX: usize = 720;

/// From here on a file is named, so that it can be split before it has to be.
const FILE_LENGTH_NOTED: usize = 500;

/// A source file.
pub(crate) struct Source {
    /// Below the workspace's root, with `/`.
    pub(crate) path: String,
    text: String,
}

impl Source {
    /// The room it belongs to, for files of `src`.
    fn room(&self) -> &str {
        let below = self.path.strip_prefix("src/").expect("a file of the crate");
        below.split(['/', '.']).next().expect("a name")
    }

    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Its lines without comments, strings left as they are, and without what is compiled for tests
    /// alone.
    pub(crate) fn code(&self) -> Vec<&str> {
        let mut code = Vec::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                code.push(line.split("//").next().unwrap_or_default());
                continue;
            }
            // The item after it: one line, or up to the brace that closes it.
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let opening =
                lines.find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
            if opening.trim_end().ends_with('{') {
                lines.find(|line| *line == closing);
            }
        }
        code
    }

    /// The names behind `crate::` in it: rooms, and the items of `lib.rs`.
    fn names(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for line in self.code() {
            let path = &self.path;
            assert!(!line.contains("crate::{"), "{path}: write one `use crate::…` a room: {line}");
            assert!(!self.reaches_the_root(line), "{path}: write `crate::…`: {line}");
            for (start, opening) in line.match_indices("crate::") {
                let name = &line[start + opening.len()..];
                let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '_');
                names.insert(&name[..end.unwrap_or(name.len())]);
            }
        }
        names
    }

    /// Whether a line names a room by `super::`, and so hides it from [`Source::names`].
    fn reaches_the_root(&self, line: &str) -> bool {
        let module = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let to_root = "super::".repeat(module.matches('/').count());
        line.contains(&to_root)
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

pub(crate) fn sources(dirs: &[&str]) -> Vec<Source> {
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
fn rooms_use_rooms_of_lower_layers_only() {
    let layer_of = |room: &str| LAYERS.iter().position(|layer| layer.contains(&room));
    let mut wrong = BTreeSet::new();
    let mut empty: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    let sources = crate_sources();
    for source in sources.iter().filter(|source| !matches!(source.room(), "lib" | "main")) {
        let room = source.room();
        let layer = layer_of(room).unwrap_or_else(|| panic!("{room} is in no layer"));
        empty.remove(room);
        for used in source.names().into_iter().filter(|used| *used != room) {
            if layer_of(used).is_some_and(|below| below >= layer) {
                wrong.insert(format!("{} must not know {used}: it is not below", source.path));
            }
            for (_, _, reason) in
                NEVER.iter().filter(|never| never.0 == room && never.1.contains(&used))
            {
                wrong.insert(format!("{} must not know {used}: {reason}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(empty.is_empty(), "rooms without a file: {empty:?}");
}

#[test]
fn the_crate_documentation_draws_the_layers() {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("the crate's root");
    let (_, picture) = text.split_once("//! # Which module may use which").expect("the section");
    let (_, picture) = picture.split_once("```text\n").expect("its picture");
    let (picture, _) = picture.split_once("//! ```").expect("its end");
    let rooms = |line: &str| {
        let line = line.trim_start_matches("//!").trim();
        line.split("  ").next().unwrap_or_default().split(", ").map(str::to_owned).collect()
    };
    let mut drawn: Vec<Vec<String>> = picture.lines().map(rooms).collect();
    drawn.reverse();
    assert_eq!(drawn, LAYERS, "from top to bottom, names before two spaces");
}

#[test]
fn io_meets_protocol_in_the_shard_alone() {
    for source in crate_sources() {
        let names = source.names();
        let meets =
            names.contains("io") && ["proto", "session"].iter().any(|room| names.contains(room));
        let makes_or_sets = matches!(source.room(), "node" | "config" | "cli" | "journal")
            || source.path == PLAYS_THE_WRITER;
        assert!(!meets || source.room() == "shard" || makes_or_sets, "{} knows both", source.path);
    }
}

/// What the journal may know of `io`: memory that the kernel can be given, a file's number, and the
/// description of a write. It performs none.
const OF_IO: [&str; 4] = [
    "crate::io::memory::Region",
    "crate::io::memory::zeroed_words",
    "crate::io::FileHandle",
    "crate::io::{FileHandle, FileWrite, WriteSource}",
];

#[test]
fn the_journal_knows_memory_and_no_io() {
    for source in crate_sources().iter().filter(|source| source.room() == "journal") {
        for line in source.code().iter().filter(|line| line.contains("crate::io")) {
            assert!(OF_IO.iter().any(|known| line.contains(known)), "{}: {line}", source.path);
        }
    }
}

#[test]
fn unsafe_code_lives_in_files_that_talk_to_the_kernel_or_the_cpu() {
    let all = sources(&["src", "loadtest/src"]);
    let forbids =
        |source: &Source| source.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
    let forbidding: BTreeSet<&str> =
        all.iter().filter(|source| forbids(source)).map(|source| source.path.as_str()).collect();
    // A module's attribute holds for those below it.
    let is_held = |path: &str| {
        let mut module = path.to_owned();
        while let Some((above, _)) = module.rsplit_once('/') {
            // The crate's root is `lib.rs`; its `main.rs` has no module of its own.
            let root =
                if above == "src" { "src/lib.rs".to_owned() } else { format!("{above}/main.rs") };
            let files = [module.clone(), format!("{above}.rs"), format!("{above}/mod.rs"), root];
            if files.iter().any(|file| forbidding.contains(file.as_str())) {
                return true;
            }
            module = above.to_owned();
        }
        false
    };
    let not_held: BTreeSet<&str> =
        all.iter().map(|source| source.path.as_str()).filter(|path| !is_held(path)).collect();
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
        assert!(
            !source.text.contains(concat!("#[", "ignore")),
            "{}: a test that never runs",
            source.path
        );
    }
}

#[test]
fn no_file_is_longer_than_720_lines() {
    for source in sources(&["src", "tests", "benches", "loadtest"]) {
        let length = source.text.lines().count();
        if length > FILE_LENGTH_NOTED {
            println!("{}: {length} lines", source.path);
        }
        assert!(length <= FILE_LENGTH_MAX, "{}: {length} lines", source.path);
    }
}

/// Whether a line of code names the rsa crate: `rsa::…` that is no other crate's module, `use
/// rsa;`, `extern crate rsa`.
fn names_rsa(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices("rsa").any(|(start, word)| {
        let (before, after) = (&code[..start], &code[start + word.len()..]);
        // What `::rsa` hangs on, if it hangs on something.
        let before = before.strip_suffix("::").unwrap_or(before);
        let is_whole = !before.bytes().next_back().is_some_and(is_word)
            && !after.bytes().next().is_some_and(is_word);
        let is_import =
            before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        is_whole && (is_import || after.starts_with("::"))
    })
}

/// Its private-key operations are not constant-time (RUSTSEC-2023-0071), so nothing that serves
/// peers may come near it. Tests may make keys with it.
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
    for line in [
        "use rsa::RsaPrivateKey;",
        "    let key = rsa::RsaPrivateKey::new();",
        "use ::rsa as r;",
        "extern crate rsa;",
    ] {
        assert!(names_rsa(line), "{line}");
    }
    for line in
        ["use rsa;", "use rsa as other;", "f(::rsa::pkcs8::x())", "impl From<rsa::Error> for E {}"]
    {
        assert!(names_rsa(line), "{line}");
    }
    for line in [
        "ring::rsa::PublicKey",
        "// rsa::x",
        "from_rsa_pem(text)",
        "let rsa = 1;",
        "my_rsa::x",
        "use rsac::y;",
        "versa::x",
    ] {
        assert!(!names_rsa(line), "{line}");
    }
}

#[test]
fn one_room_knows_rustls() {
    let mut built = sources(&["src"]);
    built.retain(|source| {
        !source.is_test() && source.code().into_iter().any(|line| line.contains("rustls"))
    });
    let rooms: BTreeSet<_> = built.iter().map(Source::room).collect();
    assert_eq!(rooms, BTreeSet::from(["tls"]));
}
