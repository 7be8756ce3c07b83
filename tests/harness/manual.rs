//! The commands `completions` and `man` of a program, tried with the shells and with mandoc.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program with both commands.
pub struct Documented {
    /// Its binary.
    pub path: &'static str,
    /// Its name: `exo-ingest`.
    pub name: &'static str,
}

impl Documented {
    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new(self.path).args(args).env_clear().output().expect(self.name);
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    /// The names of all commands, as pages are named, from the help alone.
    fn commands(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut left = vec![Vec::<String>::new()];
        while let Some(command) = left.pop() {
            let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
            let help = String::from_utf8(self.run(&args).stdout).expect("UTF-8");
            let name = [self.name.to_owned()].into_iter().chain(command.iter().cloned());
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

    fn write_pages(&self, directory: &Path) -> BTreeSet<String> {
        self.run(&["man", "--out", directory.to_str().expect("UTF-8")]);
        let pages = std::fs::read_dir(directory).expect("pages");
        pages.map(|page| page.expect("a page").file_name().into_string().expect("UTF-8")).collect()
    }

    /// Every command has a page, and mandoc finds nothing wrong with it.
    pub fn every_command_has_a_page_that_man_takes(&self) {
        let directory = tempfile::tempdir().expect("a directory");
        let pages = self.write_pages(&directory.path().join("new/man1"));
        assert!(pages.len() > 5, "{pages:?}");
        assert_eq!(pages, self.commands());
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

    /// The page of a command as man shows it, without bold letters. `None` without mandoc.
    pub fn page(&self, command: &str) -> Option<String> {
        let directory = tempfile::tempdir().expect("a directory");
        self.write_pages(directory.path());
        let page = directory.path().join(format!("{}-{command}.1", self.name));
        let args = ["-T", "utf8", "-O", "width=120", page.to_str().expect("UTF-8")];
        let text = String::from_utf8(tool("mandoc", &args, b"")?.stdout).expect("UTF-8");
        // Bold letters are typed twice, with a backspace between them.
        let mut plain = String::new();
        for letter in text.chars() {
            match letter {
                '\u{8}' => _ = plain.pop(),
                _ => plain.push(letter),
            }
        }
        Some(plain)
    }

    /// Each shell takes its script, which has this command and this flag, without its hyphens.
    pub fn shells_take_the_completions(&self, command: &str, flag: &str) {
        for shell in ["bash", "zsh", "fish"] {
            let script = self.run(&["completions", shell]).stdout;
            let text = String::from_utf8_lossy(&script);
            assert!(text.contains(flag) && text.contains(command), "{shell}: {text}");
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

    /// What bash would offer for the last word of a command line, a line for each.
    pub fn bash_completes(&self, words: &str) -> String {
        let script = self.run(&["completions", "bash"]).stdout;
        let (function, index) = (self.name.replace('-', "__"), words.split(' ').count() - 1);
        let ask = format!(
            "{}\nCOMP_WORDS=({words}); COMP_CWORD={index}; \
             _{function} {} \"${{COMP_WORDS[{index}]}}\" \"${{COMP_WORDS[{}]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            String::from_utf8_lossy(&script),
            self.name,
            index - 1
        );
        let output = tool("bash", &["--norc"], ask.as_bytes()).expect("bash");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A directory that cannot be made is named, with exit code 1.
    pub fn a_directory_that_cannot_be_made_is_named(&self) {
        let args = ["man", "-o", "/dev/null/man1"];
        let output = Command::new(self.path).args(args).output().expect(self.name);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(": cannot write manual pages to /dev/null/man1"), "{error}");
    }
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
