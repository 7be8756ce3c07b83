//! What dependencies may be, by the rules of `deny.toml`: licences, sources, no second version of a
//! crate without a reason. cargo-deny checks more, also the crates of other platforms. This needs
//! nothing but Cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> Table {
    file("deny.toml").parse().expect("deny.toml is TOML")
}

fn list<'a>(rules: &'a Table, section: &str, key: &str) -> &'a [Value] {
    rules[section][key].as_array().unwrap_or_else(|| panic!("[{section}] {key} is a list"))
}

/// Name, version and licence of every crate in a build, its tests or its build scripts on this
/// platform.
fn crates() -> BTreeSet<(String, String, String)> {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "tree",
        "--workspace",
        "--offline",
        "--locked",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let output = command
        .args(["--format", "{p}|{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("names are text");
    let found = lines.lines().filter_map(|line| {
        // The star marks a crate that is listed again, through its own tests.
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
        let (name, rest) = package.split_once(" v").expect("name and version");
        let version = rest.split(' ').next().expect("a version");
        Some((name.to_owned(), version.to_owned(), licence.to_owned()))
    });
    found.collect()
}

/// Whether allowed licences satisfy an expression. `AND` binds before `OR`; a slash is an old `OR`.
fn is_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    let either = split(expression, &[" OR ", "/"]);
    if either.len() > 1 {
        return either.into_iter().any(|part| is_met(part, allowed));
    }
    let both = split(expression, &[" AND "]);
    if both.len() > 1 {
        return both.into_iter().all(|part| is_met(part, allowed));
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => is_met(inner, allowed),
        None => allowed.contains(expression),
    }
}

/// The parts between separators outside of brackets.
fn split<'a>(expression: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (index, character) in expression.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        let separator =
            separators.iter().find(|separator| expression[index..].starts_with(**separator));
        if let (0, Some(separator)) = (depth, separator) {
            parts.push(&expression[start..index]);
            start = index + separator.len();
        }
    }
    parts.push(&expression[start..]);
    parts
}

#[test]
fn every_licence_is_an_allowed_one() {
    let rules = rules();
    let allowed: BTreeSet<_> =
        list(&rules, "licenses", "allow").iter().filter_map(Value::as_str).collect();
    let crates = crates();
    assert!(crates.len() > 100, "{crates:?}");
    let bad: Vec<_> = crates.iter().filter(|(_, _, licence)| !is_met(licence, &allowed)).collect();
    assert!(bad.is_empty(), "not allowed by deny.toml: {bad:#?}");
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception",
        "GPL-3.0 AND X OR MIT",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in [
        "",
        "GPL-3.0",
        "GPL-3.0 AND MIT",
        "MIT AND (GPL-3.0 OR X)",
        "Apache-2.0",
        "(MIT OR ISC) AND GPL-3.0",
    ] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}

#[test]
fn a_second_version_of_a_crate_has_its_reason() {
    let rules = rules();
    let with_reason: BTreeSet<_> = list(&rules, "bans", "skip")
        .iter()
        .inspect(|skip| assert!(!skip["reason"].as_str().expect("a reason").is_empty(), "{skip}"))
        .map(|skip| {
            skip["crate"]
                .as_str()
                .expect("a crate")
                .split_once(':')
                .expect("a crate and its version")
        })
        .collect();
    let mut versions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, version, _) in crates() {
        versions.entry(name).or_default().push(version);
    }
    for (name, versions) in &versions {
        // The range of a caret: up to the first number that is not zero.
        let is_skipped = |version: &&String| {
            let skip = |(skipped, range): &(&str, &str)| {
                skipped == name && version.starts_with(&format!("{range}."))
            };
            with_reason.iter().any(skip)
        };
        let left: Vec<_> = versions.iter().filter(|version| !is_skipped(version)).collect();
        assert!(
            left.len() <= 1,
            "{name} is there as {versions:?}: take one of them, \
             or say why not in [bans] skip of deny.toml"
        );
    }
    let names: BTreeSet<_> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, _)| name.as_str())
        .collect();
    let idle: Vec<_> = with_reason.iter().filter(|(name, _)| !names.contains(name)).collect();
    assert!(
        idle.is_empty(),
        "there is one version only, so that deny.toml need not skip any: {idle:?}"
    );
}

/// Each crate that a build of these packages compiles, with its features.
fn features(packages: &[&str]) -> BTreeSet<(String, String)> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none"]);
    command.args(["--no-dedupe", "--format", "{p}|{f}"]).args(packages);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("names are text");
    let found = lines.lines().filter_map(|line| line.split_once('|'));
    found.map(|(package, features)| (package.to_owned(), features.to_owned())).collect()
}

/// A crate with other features is compiled again, with all that depends on it: three minutes for a
/// release build of the node after one of the workspace. Only the node's own crate has another
/// feature in the workspace, the test doubles, and nothing depends on that crate.
#[test]
fn a_build_of_the_node_has_the_features_of_the_workspace_without_test_doubles() {
    let all = features(&["--workspace"]);
    let own = features(&["--package", "exo-ingest", "--package", "exo-load"]);
    assert!(own.len() > 100, "{own:?}");
    let is_node = |package: &str| package.starts_with("exo-ingest v");
    let of_node = |crates: &BTreeSet<(String, String)>| -> Vec<String> {
        let node = crates.iter().filter(|(package, _)| is_node(package));
        node.map(|(_, features)| features.replace(" (*)", "")).collect()
    };
    assert_eq!(of_node(&own), [""], "a node is built without features");
    assert_eq!(of_node(&all), ["test-doubles"], "tests are built with the test doubles");
    let other: Vec<_> = own.difference(&all).filter(|(package, _)| !is_node(package)).collect();
    assert!(other.is_empty(), "the node alone is built with other features: {other:#?}");
}

#[test]
fn every_crate_comes_from_the_registry_with_its_checksum() {
    let lock: Table = file("Cargo.lock").parse().expect("Cargo.lock is TOML");
    for package in lock["package"].as_array().expect("packages") {
        let Some(source) = package.get("source").and_then(Value::as_str) else {
            let name = package["name"].as_str().expect("a name");
            assert!(name.starts_with("exo-"), "{name} is from a path");
            continue;
        };
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{package}");
        assert!(package.get("checksum").is_some(), "{package}");
    }
}

/// The bill of materials names what is in the programs, and nothing else.
#[test]
fn the_bill_of_materials_names_every_crate_in_the_programs() {
    let output = Command::new("python3")
        .args(["-B", "tuning/sbom.py"])
        .env("CARGO_NET_OFFLINE", "true")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bill: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let components = bill["components"].as_array().expect("components");
    let all = || std::iter::once(&bill["metadata"]["component"]).chain(components);
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let named: BTreeSet<_> = all().map(|it| (text(&it["name"]), text(&it["version"]))).collect();
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"]);
    command.args(["--package", "exo-ingest", "--package", "exo-load", "--format", "{p}"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo");
    let tree = String::from_utf8(output.stdout).expect("names are text");
    let linked: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or(rest).to_owned()))
        .collect();
    let other: Vec<_> = named.symmetric_difference(&linked).collect();
    assert!(linked.len() > 100 && other.is_empty(), "{other:?}");
    let unproven: Vec<_> = components
        .iter()
        .filter(|it| it.get("purl").is_some())
        .filter(|it| it["hashes"][0]["content"].as_str().is_none_or(|hash| hash.len() != 64))
        .collect();
    assert!(unproven.is_empty(), "{unproven:?}");
    let parts = |it: &serde_json::Value| it["dependsOn"].as_array().map_or(0, Vec::len);
    let graph = bill["dependencies"].as_array().expect("dependencies");
    let node = graph.iter().find(|it| text(&it["ref"]).starts_with("pkg:cargo/exo-ingest@"));
    assert!(graph.len() == named.len() && node.is_some_and(|it| parts(it) > 10), "{node:?}");
}
