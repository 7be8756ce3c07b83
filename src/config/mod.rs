#![forbid(unsafe_code)]
//! The effective configuration: flags over `EXO_INGEST_*` variables over the file over a command's own defaults over the
//! defaults, each value with its source. Does not start anything and reads nothing but the file it is told to.

mod check;
pub mod cpus;
mod format;
pub mod settings;
pub mod sources;

use settings::{SETTINGS, Setting, Settings};
use sources::{Given, Source};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Settings with the source of each.
#[derive(Clone, Debug)]
pub struct Config {
    /// The values.
    pub settings: Settings,
    /// What an operator should know about them though they are allowed: sentences.
    pub warnings: Vec<String>,
    /// One per row of [`SETTINGS`], in its order.
    sources: Vec<Source>,
}

/// What [`Config::load`] reads beside the environment.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// What the command sets unless told otherwise: keys and texts.
    pub command: Vec<(&'static str, String)>,
    /// The command's name, as the source of these.
    pub command_name: &'static str,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Values from flags and `--set`.
    pub flags: Vec<Given>,
}

impl Config {
    /// Reads every source and checks the outcome.
    pub fn load(inputs: Inputs, environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
        let (file, variables) = sources::from_environment(environment)?;
        let mut layers = Vec::new();
        let source = Source::Command(inputs.command_name);
        let command = inputs.command.into_iter();
        layers.push(command.map(|(key, text)| Given { name: key.into(), text, source: source.clone() }).collect());
        if let Some(path) = inputs.file.or(file) {
            layers.push(sources::from_file(&path)?);
        }
        layers.push(variables);
        layers.push(inputs.flags);
        let mut config = Config::default();
        for layer in layers {
            config.apply(layer)?;
        }
        config.resolve_reactors()?;
        config.warnings = check::check(&config)?;
        Ok(config)
    }

    /// Where the value of `setting` came from.
    pub fn source(&self, setting: &Setting) -> &Source {
        let index = SETTINGS.iter().position(|row| row.key == setting.key);
        index.and_then(|index| self.sources.get(index)).unwrap_or(&Source::Default)
    }

    /// Values of one rank, over those of lower rank.
    fn apply(&mut self, layer: Vec<Given>) -> Result<(), ConfigError> {
        for given in layer {
            let (index, setting) = resolve(&given)?;
            if self.sources[index].rank() == given.source.rank() {
                let first = self.sources[index].clone();
                return Err(ConfigError::Twice { key: setting.key, first, second: given.source });
            }
            (setting.assign)(&mut self.settings, &given.text).map_err(|remedy| ConfigError::BadValue {
                key: Some(setting.key.into()),
                text: given.text,
                source: given.source.clone(),
                remedy,
            })?;
            self.sources[index] = given.source;
        }
        Ok(())
    }

    /// `cpus` and `shards` answer the same question: the one of higher rank holds, and of equal rank there may be only one.
    fn resolve_reactors(&mut self) -> Result<(), ConfigError> {
        let [cpus, shards] = ["cpus", "shards"].map(|key| SETTINGS.iter().position(|row| row.key == key));
        let (Some(cpus), Some(shards)) = (cpus, shards) else { return Ok(()) };
        let (cpus_rank, shards_rank) = (self.sources[cpus].rank(), self.sources[shards].rank());
        match cpus_rank.cmp(&shards_rank) {
            std::cmp::Ordering::Less if self.settings.cpus.is_some() => {
                self.settings.cpus = None;
                self.sources[cpus] = Source::Default;
            }
            std::cmp::Ordering::Greater if self.settings.shards.is_some() => {
                self.settings.shards = None;
                self.sources[shards] = Source::Default;
            }
            std::cmp::Ordering::Equal if cpus_rank > 0 => {
                return Err(ConfigError::Conflict(format!(
                    "cpus (from {}) and shards (from {}) both say how many reactors run: give one of them",
                    self.sources[cpus], self.sources[shards]
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Config { settings: Settings::default(), warnings: Vec::new(), sources: vec![Source::Default; SETTINGS.len()] }
    }
}

/// The row a given name means.
fn resolve(given: &Given) -> Result<(usize, &'static Setting), ConfigError> {
    let is_variable = matches!(given.source, Source::Environment(_));
    let found = if is_variable { settings::find_variable(&given.name) } else { settings::find(&given.name) };
    let index = found.and_then(|found| SETTINGS.iter().position(|row| row.key == found.key));
    found.zip(index).map(|(setting, index)| (index, setting)).ok_or_else(|| {
        let spell = if is_variable { settings::variable } else { |name: &str| name.to_owned() };
        ConfigError::Unknown {
            suggestion: settings::suggest(&given.name, spell),
            name: given.name.clone(),
            source: given.source.clone(),
        }
    })
}

/// Why a configuration was refused. Each prints as one sentence that says what to do.
#[derive(Debug)]
pub enum ConfigError {
    /// No setting has this name.
    Unknown {
        /// As it was written.
        name: String,
        /// Where.
        source: Source,
        /// A name that exists and looks like it.
        suggestion: Option<String>,
    },
    /// The setting takes no such value.
    BadValue {
        /// The setting, where it is known.
        key: Option<String>,
        /// The value as it was written.
        text: String,
        /// Where.
        source: Source,
        /// What to write instead.
        remedy: String,
    },
    /// One setting was given two values in one place.
    Twice {
        /// The setting.
        key: &'static str,
        /// One place.
        first: Source,
        /// The other.
        second: Source,
    },
    /// `--set` without `key=value`.
    Malformed(String),
    /// The configuration file cannot be read.
    Unreadable {
        /// As it was named.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The configuration file is not TOML.
    Syntax {
        /// File and line.
        source: Source,
        /// The parser's words.
        reason: String,
    },
    /// Values that are good by themselves do not go together.
    Conflict(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unknown { name, source, suggestion } => {
                match source {
                    Source::Environment(_) => write!(f, "the variable {name} names no setting")?,
                    source => write!(f, "unknown setting `{name}` ({source})")?,
                }
                match suggestion {
                    Some(suggestion) => write!(f, ": did you mean `{suggestion}`?"),
                    None => f.write_str(": `exo-ingest config` lists all of them"),
                }
            }
            ConfigError::BadValue { key, text, source, remedy } => match key {
                Some(key) => write!(f, "bad value \"{}\" for {key} ({source}): {remedy}", text.escape_debug()),
                None => write!(f, "bad value \"{}\" ({source}): {remedy}", text.escape_debug()),
            },
            ConfigError::Twice { key, first, second } => {
                write!(f, "{key} is given twice, by {first} and by {second}: keep one of them")
            }
            ConfigError::Malformed(text) => {
                write!(f, "--set {text} is no key=value: write for example --set limits.ring_size=64MiB")
            }
            ConfigError::Unreadable { path, reason } => {
                write!(f, "cannot read the configuration file {}: {reason}: give --config a TOML file", path.display())
            }
            ConfigError::Syntax { source, reason } => write!(f, "{source} is not TOML: {reason}"),
            ConfigError::Conflict(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
