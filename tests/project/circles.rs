//! No files that use each other in a circle, in the node and in the load generator. A file of a
//! circle cannot be read, tested or moved without the others.
//!
//! A file uses another if it names the other's module by `crate::`, `super::` or `self::`. A module
//! and the modules within it are one thing from outside, and may use each other.

use crate::layering::{Source, sources};
use std::collections::{BTreeMap, BTreeSet};

/// A module, by its path in its crate.
type Module<'a> = Vec<&'a str>;

type Uses<'a> = BTreeMap<Module<'a>, BTreeSet<Module<'a>>>;

/// The module that a file below `root` is.
fn module<'a>(source: &'a Source, root: &str) -> Module<'a> {
    let below = source.path.strip_prefix(root).expect("a file of the crate");
    let below = below.trim_end_matches(".rs").trim_end_matches("/mod");
    below.split('/').collect()
}

/// The paths that a text begins with: one, or those of a list in braces.
fn paths(text: &str) -> Vec<Vec<&str>> {
    if let Some(list) = text.strip_prefix('{') {
        return items(list).into_iter().flat_map(|item| paths(item.trim_start())).collect();
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match rest.strip_prefix("::") {
        None => vec![vec![name]],
        Some(rest) => {
            paths(rest).into_iter().map(|path| [&[name][..], &path[..]].concat()).collect()
        }
    }
}

/// The items of a list, up to its closing brace.
fn items(list: &str) -> Vec<&str> {
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                items.push(&list[start..at]);
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    items
}

/// The full paths that `code` of a module names.
fn names<'a>(code: &'a str, module: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    for (root, depth) in [("crate::", None), ("self::", Some(0)), ("super::", Some(1))] {
        for (start, _) in code.match_indices(root) {
            let is_whole = |before: char| !before.is_ascii_alphanumeric() && before != '_';
            // The second `super::` of two belongs to the first.
            if !code[..start].chars().next_back().is_none_or(|c| is_whole(c) && c != ':') {
                continue;
            }
            let (mut rest, mut up) = (&code[start + root.len()..], depth.unwrap_or(module.len()));
            while let Some(further) = rest.strip_prefix("super::") {
                (rest, up) = (further, up + 1);
            }
            let base = &module[..module.len().saturating_sub(up)];
            found.extend(paths(rest).into_iter().map(|path| [base, &path[..]].concat()));
        }
    }
    found
}

/// Which module uses which.
fn uses<'a>(modules: &[(Module<'a>, &'a str)]) -> Uses<'a> {
    let all: BTreeSet<&Module<'_>> = modules.iter().map(|(module, _)| module).collect();
    let used = |(module, code): &(Module<'a>, &'a str)| {
        let mut used = BTreeSet::new();
        for mut path in names(code, module) {
            while !path.is_empty() && !all.contains(&path) {
                path.pop();
            }
            if !path.starts_with(module) && !module.starts_with(&path) {
                used.insert(path);
            }
        }
        (module.clone(), used)
    };
    modules.iter().map(used).collect()
}

/// The modules that use each other: left when each that uses none of the rest, or is used by none
/// of it, has been taken away.
fn circles(mut uses: Uses<'_>) -> Vec<String> {
    loop {
        let is_used: BTreeSet<_> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        uses.retain(|module, used| !used.is_empty() && is_used.contains(module));
        let rest: BTreeSet<_> = uses.keys().cloned().collect();
        uses.values_mut().for_each(|used| used.retain(|module| rest.contains(module)));
        if uses.len() == before {
            break;
        }
    }
    let line = |(module, used): (Module<'_>, BTreeSet<Module<'_>>)| {
        let used: Vec<String> = used.iter().map(|module| module.join("::")).collect();
        format!("{} uses {}", module.join("::"), used.join(", "))
    };
    uses.into_iter().map(line).collect()
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src/", "loadtest/src/"] {
        let mut sources = sources(&[root]);
        sources.retain(|source| !source.is_test());
        let codes: Vec<String> = sources.iter().map(|source| source.code().join("\n")).collect();
        let modules =
            sources.iter().zip(&codes).map(|(source, code)| (module(source, root), &code[..]));
        // These two have the modules' declarations, and see all.
        let modules = modules.filter(|(module, _)| !["lib", "main"].contains(&module[0]));
        let uses = uses(&modules.collect::<Vec<_>>());
        let count: usize = uses.values().map(BTreeSet::len).sum();
        assert!(count > 200, "{root}: only {count} uses were found: does the test still see them?");
        let circles = circles(uses);
        assert!(circles.is_empty(), "{root}: {circles:#?}");
    }
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let of = |codes: &[(&'static str, &'static str)]| {
        let modules: Vec<_> =
            codes.iter().map(|(path, code)| (path.split("::").collect(), *code)).collect();
        circles(uses(&modules)).len()
    };
    let low = ("a::low", "pub struct Low;");
    assert_eq!(of(&[("a", "use low::Low;"), low, ("b", "use crate::a::Low;")]), 0);
    assert_eq!(of(&[("a", "use crate::b::B;"), ("b", "let a = crate::a::f();"), low]), 2);
    assert_eq!(of(&[("a", "use crate::{c::C, b};"), ("b", "use super::a::A;")]), 2);
    let three = [
        ("a::x", "use super::y::{self, Y};"),
        ("a::y", "use crate::a::{\n    z::{Z, Other},\n};"),
        ("a::z", "use super::super::b::B;"),
        ("b", "use crate::a::x::X;"),
    ];
    assert_eq!(of(&three), 4);
    assert_eq!(of(&three[..3]), 0);
    assert_eq!(of(&[("a", "use self::low::Low;"), ("a::low", "use super::A;")]), 0, "one thing");
}
