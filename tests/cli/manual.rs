//! `exo-ingest man` and `exo-ingest completions`: each command has a page, and shells and man take
//! what is written.

use crate::EXO_INGEST;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn exo_ingest(args: &[&str]) -> Output {
    let output = Command::new(EXO_INGEST).args(args).env_clear().output().expect("exo-ingest");
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

/// Runs a tool with `input`. Without the tool the check is skipped, but not where CI is set.
fn tool(name: &str, args: &[&str], input: &[u8]) -> Option<Output> {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(_) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: install {name} to run this");
            return None;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    child.stdin.take().expect("piped").write_all(input).expect("the tool reads all");
    Some(child.wait_with_output().expect("its output"))
}

/// The names of all commands, as pages are named, from the help alone.
fn commands() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![Vec::<String>::new()];
    while let Some(command) = left.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = String::from_utf8(exo_ingest(&args).stdout).expect("UTF-8");
        let name = ["exo-ingest".to_owned()].into_iter().chain(command.iter().cloned());
        found.insert(name.collect::<Vec<_>>().join("-") + ".1");
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for line in listed.take_while(|line| !line.is_empty()) {
            let name = line.trim_start().split(' ').next().expect("a word");
            if line.starts_with("  ") && !line.starts_with("   ") && name != "help" {
                left.push(command.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    found
}

fn write_pages(directory: &Path) -> BTreeSet<String> {
    exo_ingest(&["man", "--out", directory.to_str().expect("UTF-8")]);
    let pages = std::fs::read_dir(directory).expect("pages");
    pages.map(|page| page.expect("a page").file_name().into_string().expect("UTF-8")).collect()
}

#[test]
fn every_command_has_a_page_that_man_takes() {
    let directory = tempfile::tempdir().expect("a directory");
    let pages = write_pages(&directory.path().join("new/man1"));
    assert_eq!(pages, commands());
    for page in pages {
        let path = directory.path().join("new/man1").join(&page);
        let path = path.to_str().expect("UTF-8");
        let Some(output) = tool("mandoc", &["-T", "lint", "-W", "warning", path], b"") else {
            return;
        };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        // The pages have no date on purpose. clap_mangen writes an empty line as a break.
        let is_allowed = |line: &&str| {
            line.contains("missing date") || line.contains("skipping paragraph macro")
        };
        let rest: Vec<&str> = told.lines().filter(|line| !is_allowed(line)).collect();
        assert!(rest.is_empty(), "{page}: {rest:#?}");
    }
}

#[test]
fn a_page_reads_like_the_help() {
    let directory = tempfile::tempdir().expect("a directory");
    write_pages(directory.path());
    let page = directory.path().join("exo-ingest-serve.1");
    let args = ["-T", "ascii", "-O", "width=120", page.to_str().expect("UTF-8")];
    let Some(output) = tool("mandoc", &args, b"") else { return };
    // Bold letters are typed twice, with a backspace between them.
    let text = String::from_utf8(output.stdout).expect("ASCII");
    let mut plain = String::new();
    for letter in text.chars() {
        match letter {
            '\u{8}' => _ = plain.pop(),
            _ => plain.push(letter),
        }
    }
    for line in [
        "exo-ingest serve --config /etc/exo-ingest.toml --cpus 2-9 --log json",
        "--data-dir /var/lib/exo-ingest \\",
        "    --tls-cert exo.pem --tls-key exo-key.pem",
        "SIGTERM or SIGINT drains and exits 0",
        "--listen <IP:PORT>",
    ] {
        assert!(plain.contains(line), "{line}:\n{plain}");
    }
}

#[test]
fn shells_take_the_completions() {
    for (shell, name) in [("bash", "--data-dir"), ("zsh", "--data-dir"), ("fish", "data-dir")] {
        let script = exo_ingest(&["completions", shell]).stdout;
        let text = String::from_utf8_lossy(&script);
        assert!(text.contains(name) && text.contains("export"), "{shell}: {text}");
        // Debian's zsh and fish are not needed for this repository.
        if shell != "bash" && Command::new(shell).arg("-c").arg("true").output().is_err() {
            println!("SKIPPED: {shell} is not installed");
            continue;
        }
        if let Some(output) = tool(shell, &["-n"], &script) {
            assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        }
    }
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    let script = exo_ingest(&["completions", "bash"]).stdout;
    let complete = |words: &str, index: usize| {
        let ask = format!(
            "{}\nCOMP_WORDS=({words}); COMP_CWORD={index}; \
             _exo__ingest exo-ingest \"${{COMP_WORDS[{index}]}}\" \"${{COMP_WORDS[{}]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            String::from_utf8_lossy(&script),
            index - 1
        );
        let output = tool("bash", &["--norc"], ask.as_bytes()).expect("bash");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(complete("exo-ingest calls ex", 2), "export\n");
    assert_eq!(complete("exo-ingest serve --data-", 2), "--data-dir\n");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let output = Command::new(EXO_INGEST).args(["man", "-o", "/dev/null/man1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: cannot write manual pages to /dev/null/man1"), "{error}");
}
