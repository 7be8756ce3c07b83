//! How a search was made: program, machine and command, without what belongs to one machine alone.
//! So a report can be kept and published. It has no absolute path and no host name.

use serde::Serialize;
use serde_json::Value;

use crate::{cli, host};

/// Stands for the directory that a flag names.
const DIRECTORY: &str = "DIR";

/// Stands for a host.
const HOST: &str = "HOST";

/// Flags of exo-load and of a node whose value is a directory.
const DIRECTORY_FLAGS: [&str; 5] = ["--out", "--node-dir", "--data-dir", "--verify", "--baseline"];

/// How a search was made.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// Version and commit.
    pub program: String,
    /// Whether exo-load was built without optimisation: its own CPU is then higher.
    pub debug_build: bool,
    /// The command line, without secrets, absolute paths and host names.
    pub command: Vec<String>,
    /// `--note`.
    pub note: Option<String>,
    /// CPU, cores, memory and kernel of the generator's machine. Null where they are not known.
    pub machine: Value,
}

impl Setting {
    /// Of this process.
    pub fn of_this_process(note: Option<&str>) -> Self {
        Self::new(std::env::args(), note, host::describe())
    }

    pub(super) fn new(
        args: impl Iterator<Item = String>,
        note: Option<&str>,
        mut machine: Value,
    ) -> Self {
        if let Some(members) = machine.as_object_mut() {
            // The load was measured at the end of the search, when it says nothing any more.
            members.retain(|name, _| name != "hostname" && name != "load_average");
        }
        Self {
            program: format!("exo-load {}", cli::VERSION),
            debug_build: cfg!(debug_assertions),
            command: neutral(&cli::redact(args)),
            note: note.map(|note| neutral(&note.split(' ').collect::<Vec<_>>()).join(" ")),
            machine,
        }
    }

    /// Program and machine in a few sentences.
    pub fn words(&self) -> String {
        let build = if self.debug_build { ", debug build" } else { "" };
        let machine = host::words(&self.machine);
        let mut words = format!("Measured with {}{build}. Machine: {machine}.", self.program);
        if let Some(note) = &self.note {
            words += &format!(" Note: {note}.");
        }
        words
    }

    /// The command as a shell takes it, on lines of up to `width` columns where words allow it.
    pub fn shell(&self, width: usize) -> String {
        let mut lines = vec![String::new()];
        for word in self.shell_words() {
            let line = lines.last_mut().expect("there is a first line");
            if line.is_empty() {
                line.push_str(&word);
            } else if line.chars().count() + 1 + word.chars().count() + " \\".len() <= width {
                *line += &format!(" {word}");
            } else {
                line.push_str(" \\");
                lines.push(format!("    {word}"));
            }
        }
        lines.join("\n")
    }

    /// The words between which a line may end. A command in quotes, as that of `--node`, goes to a
    /// shell again: its lines may end with a backslash, too.
    fn shell_words(&self) -> Vec<String> {
        let mut is_command = false;
        let mut words = Vec::new();
        for word in &self.command {
            match quoted(word) {
                quoted if is_command => words.extend(quoted.split(' ').map(str::to_owned)),
                quoted => words.push(quoted),
            }
            is_command = word == "--node";
        }
        words
    }
}

/// A word of a command line for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+{}…".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Words without absolute paths and hosts. A word may be a whole command, as that of `--node` is.
fn neutral<S: AsRef<str>>(words: &[S]) -> Vec<String> {
    let mut is_directory = false;
    let mut found = Vec::new();
    for word in words.iter().map(AsRef::as_ref) {
        found.push(match std::mem::take(&mut is_directory) {
            true if is_absolute(word) => DIRECTORY.to_owned(),
            _ if word.contains(char::is_whitespace) => {
                // Lines of a command end with a backslash, which `shell` writes again.
                let words = word.split_whitespace().filter(|word| *word != "\\");
                neutral(&words.collect::<Vec<_>>()).join(" ")
            }
            _ => neutral_word(word),
        });
        is_directory = DIRECTORY_FLAGS.contains(&word);
    }
    found
}

fn is_absolute(path: &str) -> bool {
    path.starts_with(['/', '~'])
}

/// One word: a path, an address, a URL, `name=…` of any of these, or something else.
fn neutral_word(word: &str) -> String {
    if let Some((scheme, rest)) = word.split_once("://") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // A user's name and password may stand before the host.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let address = match split_port(authority) {
            Some((host, port)) => format!("{}:{port}", neutral_host(host)),
            None => neutral_host(authority).to_owned(),
        };
        return format!("{scheme}://{address}{path}");
    }
    if let Some((name, value)) = word.split_once('=') {
        let value = match is_absolute(value) && DIRECTORY_FLAGS.contains(&name) {
            true => DIRECTORY.to_owned(),
            false => neutral_word(value),
        };
        return format!("{name}={value}");
    }
    if is_absolute(word) {
        let name = word.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        return if name.is_empty() { DIRECTORY.to_owned() } else { name.to_owned() };
    }
    neutral_address(word)
}

/// `host:port`; anything else stays.
fn neutral_address(word: &str) -> String {
    match split_port(word) {
        Some((host, port)) => format!("{}:{port}", neutral_host(host)),
        None => word.to_owned(),
    }
}

fn split_port(address: &str) -> Option<(&str, &str)> {
    let is_port = |port: &str| port.parse::<u16>().is_ok() || port.starts_with('{');
    address.rsplit_once(':').filter(|(_, port)| is_port(port))
}

/// Addresses that mean this machine on every machine stay.
fn neutral_host(host: &str) -> &str {
    let is_everywhere = ["localhost", "[::1]", "0.0.0.0", "[::]", ""].contains(&host);
    if is_everywhere || host.starts_with("127.") { host } else { HOST }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn setting(words: &[&str], note: Option<&str>) -> Setting {
        let machine = json!({
            "hostname": "box-17",
            "load_average": "1 2 3",
            "cores": 2,
            "cpu_model": "A CPU",
            "memory": "24684096 kB",
            "kernel": "6.18",
            "architecture": "x86_64",
        });
        Setting::new(words.iter().map(|word| (*word).to_owned()), note, machine)
    }

    #[test]
    fn nothing_of_this_machine_is_left() {
        let setting = setting(
            &[
                "/home/me/bin/exo-load",
                "capacity",
                "--key=/home/me/keys/private.pem",
                "--out",
                "/home/me/out",
                "--url",
                "wss://box-17.internal:8443/v1/ingest",
                "--admin",
                "10.1.2.3:9464",
                "--ca",
                "/home/me/ca.pem",
                "--node-dir=/home/me/",
                "--node",
                "/home/me/exo-ingest serve --listen 127.0.0.1:{port} \\\n  --data-dir \
                 /home/me/data --jwt-key /home/me/keys/public.pem --set x=/home/me/y --config \
                 keys/a.toml",
                "--slo",
                "ack.p99<50ms",
                "--audio",
                "~/me.wav",
                "nats://me:secret@box-17",
            ],
            Some("disk of /home/me"),
        );
        let text = serde_json::to_string(&setting).unwrap() + &setting.words() + &setting.shell(96);
        for part in ["/home", "box-17", "10.1.2.3", "~", "1 2 3", "secret"] {
            assert!(!text.contains(part), "{part}: {text}");
        }
        // The key is a secret flag, and gone altogether.
        assert_eq!(
            setting.command.join(" "),
            "exo-load capacity --key=… --out DIR --url wss://HOST:8443/v1/ingest --admin HOST:9464 \
             --ca ca.pem --node-dir=DIR --node exo-ingest serve --listen 127.0.0.1:{port} \
             --data-dir DIR --jwt-key public.pem --set x=y --config keys/a.toml --slo ack.p99<50ms \
             --audio me.wav nats://HOST"
        );
        assert_eq!(setting.note.as_deref(), Some("disk of me"));
    }

    #[test]
    fn the_command_is_broken_into_lines_that_a_shell_takes() {
        let words = ["exo-load", "capacity", "--slo", "ack.p99<50ms", "--note", "it's a long one"];
        let start = ["--node", "a \"b\" c d e f g h i j k l m"];
        let setting = setting(&[&words[..], &start].concat(), None);
        assert_eq!(
            setting.shell(40),
            "exo-load capacity --slo 'ack.p99<50ms' \\\n    \
             --note 'it'\\''s a long one' --node \\\n    'a \"b\" c d e f g h i j k l m'"
        );
        assert!(setting.words().contains("A CPU, 2 CPUs, 23.5 GiB, Linux 6.18"), "{setting:?}");
    }
}
