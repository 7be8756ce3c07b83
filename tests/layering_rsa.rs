//! The rsa crate generates keys in one file and is named nowhere else: its private-key operations are not constant-time
//! (RUSTSEC-2023-0071), so nothing that serves peers may come near it. Test modules may make keys with it, and the load
//! generator may depend on it for these alone.

use std::fs;
use std::path::{Path, PathBuf};

const ALLOWED: &str = "src/cli/keygen.rs";

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a line of code names the crate: `rsa::…` that is no other crate's module, `use rsa;`, `extern crate rsa`.
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

/// A source file without its test module, which stands last.
fn without_tests(source: &str) -> &str {
    source.split_once("#[cfg(test)]\nmod tests {").map_or(source, |(code, _)| code)
}

/// What a manifest's `[dependencies]` hold.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1).take_while(|line| !line.starts_with('['))
}

#[test]
fn the_rsa_crate_is_used_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "loadtest", "tests", "benches"] {
        sources(&root.join(dir), &mut files);
    }
    let mut users: Vec<_> = files
        .iter()
        .filter(|path| without_tests(&fs::read_to_string(path).expect("a source file")).lines().any(names_rsa))
        .map(|path| path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned())
        .collect();
    users.retain(|path| path != "tests/layering_rsa.rs");
    assert_eq!(users, [ALLOWED]);
    let manifest = fs::read_to_string(root.join("loadtest/Cargo.toml")).expect("a manifest");
    assert!(dependencies(&manifest).any(|line| line.starts_with("ring ")), "the manifest was not understood");
    assert!(!dependencies(&manifest).any(|line| line.starts_with("rsa")), "the load generator depends on the rsa crate");
}

#[test]
fn the_search_knows_the_crate_from_its_namesakes() {
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
