//! The modules that play calls are layers: each uses only those before it in the list.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// From the bottom to the top.
const LAYERS: [&str; 18] = [
    "duration",
    "event",
    "schedule",
    "backoff",
    "failure",
    "acks",
    "wire",
    "gate",
    "socket",
    "ledger",
    "stats",
    "storm",
    "plan",
    "worker",
    "connection",
    "pacer",
    "call",
    "player",
];

/// The modules of the crate that a text names: `crate::x::y`, or x in `crate::{x, y::z}`.
fn names(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = |text: &str| text.find(|c| !is_word(c)).unwrap_or(text.len());
    let mut found = BTreeSet::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let end = list.find("};").expect("a list of imports ends");
                found.extend(list[..end].split(',').map(str::trim).map(|it| &it[..word(it)]));
            }
            None => {
                found.insert(&rest[..word(rest)]);
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn no_module_uses_one_above_it() {
    let mut wrong = Vec::new();
    let mut uses = 0;
    for (place, module) in LAYERS.iter().enumerate() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module).with_extension("rs");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{module}: {error}"));
        let code: String = text
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        for name in names(&code) {
            uses += usize::from(LAYERS[..place].contains(&name));
            if LAYERS[place..].contains(&name) {
                wrong.push(format!("{module} uses {name}"));
            }
        }
    }
    assert!(uses > 30, "only {uses} uses were found: does the test still see them?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_found_in_paths_and_lists() {
    let text = "use crate::{a, b::c};\nuse crate::d::E;\nlet x = crate::f::g();";
    assert_eq!(names(text), BTreeSet::from(["a", "b", "d", "f"]));
}
