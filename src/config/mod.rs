#![forbid(unsafe_code)]
//! The effective configuration, and the source of each value. Flags override `EXO_INGEST_*`
//! variables. Variables override the file, the file overrides the defaults of the command, and
//! these override the general defaults. This module starts nothing, and reads only the given file.

mod check;
mod choices;
pub(crate) mod cpus;
pub(crate) mod format;
pub(crate) mod names;
pub(crate) mod reload;
pub(crate) mod ring_size;
pub(crate) mod settings;
pub(crate) mod sources;
pub(crate) mod tls;

use crate::io::host::Host;
use settings::{SETTINGS, Setting, Settings};
use sources::{RawSetting, Source};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Settings, and the source of each.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The values.
    pub(crate) settings: Settings,
    /// Advice for the operator about allowed values: sentences.
    pub(crate) warnings: Vec<String>,
    /// One per row of [`SETTINGS`], in the same order.
    sources: Vec<Source>,
    /// What it was made from, but for the text of the file.
    inputs: Inputs,
    /// Values from the environment.
    variables: Vec<RawSetting>,
}

/// Inputs of [`Config::load`] besides the environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// Defaults of the command: keys and texts.
    pub(crate) command: Vec<(&'static str, String)>,
    /// Name of the command, as the source of these.
    pub(crate) command_name: &'static str,
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// Values from flags and `--set`.
    pub(crate) flags: Vec<RawSetting>,
    /// The host: settings without a value are computed from it. `None` leaves the plain defaults.
    pub(crate) host: Option<Host>,
}

impl Config {
    /// Reads all sources and checks the result.
    pub(crate) fn load(
        inputs: Inputs,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigError> {
        let (file, variables) = sources::from_environment(environment)?;
        let inputs = Inputs { file: inputs.file.or(file), ..inputs };
        let from_file = inputs.file.as_deref().map(sources::from_file).transpose()?;
        Config::assemble(inputs, variables, from_file.unwrap_or_default())
    }

    /// The file that it was read from, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.inputs.file.as_deref()
    }

    /// What it would be with this text in its file. Flags, variables and the host are those that it
    /// was made from.
    pub(crate) fn with_file_text(&self, text: &str) -> Result<Config, ConfigError> {
        let path = self.file().unwrap_or(Path::new(""));
        let from_file = sources::from_toml(path, text)?;
        Config::assemble(self.inputs.clone(), self.variables.clone(), from_file)
    }

    /// Lays the sources over each other and checks the outcome.
    fn assemble(
        inputs: Inputs,
        variables: Vec<RawSetting>,
        from_file: Vec<RawSetting>,
    ) -> Result<Config, ConfigError> {
        let source = Source::Command(inputs.command_name);
        let own = |(key, text): &(&'static str, String)| RawSetting {
            name: (*key).into(),
            text: text.clone(),
            source: source.clone(),
        };
        let command = inputs.command.iter().map(own).collect();
        let mut config =
            Config { inputs: inputs.clone(), variables: variables.clone(), ..Config::default() };
        for layer in [command, from_file, variables, inputs.flags] {
            config.apply(layer)?;
        }
        config.resolve_reactors()?;
        let shortage = inputs.host.and_then(|host| config.size_ring(&host));
        config.warnings = check::check(&config)?;
        config.warnings.extend(shortage);
        Ok(config)
    }

    /// Computes the size of frame rings, unless it was set. Returns advice for the operator.
    fn size_ring(&mut self, host: &Host) -> Option<String> {
        let index = SETTINGS.iter().position(|row| row.key == ring_size::KEY)?;
        if self.sources[index] != Source::Default {
            return None;
        }
        let choice = ring_size::choose(&self.settings, host);
        self.settings.limits.ring_size = choice.size;
        self.sources[index] = Source::Computed;
        ring_size::warn(&self.settings, &choice, host)
    }

    /// Where the value of `setting` came from.
    pub(crate) fn source(&self, setting: &Setting) -> &Source {
        let index = SETTINGS.iter().position(|row| row.key == setting.key);
        index.and_then(|index| self.sources.get(index)).unwrap_or(&Source::Default)
    }

    /// Number of settings that were given a value.
    pub(crate) fn given_count(&self) -> usize {
        self.sources
            .iter()
            .filter(|source| !matches!(source, Source::Default | Source::Computed))
            .count()
    }

    /// Applies values of one rank over those of lower rank.
    fn apply(&mut self, layer: Vec<RawSetting>) -> Result<(), ConfigError> {
        for given in layer {
            let (index, setting) = resolve(&given)?;
            if self.sources[index].rank() == given.source.rank() {
                let first = self.sources[index].clone();
                return Err(ConfigError::Twice { key: setting.key, first, second: given.source });
            }
            (setting.assign)(&mut self.settings, &given.text).map_err(|remedy| {
                ConfigError::BadValue {
                    key: Some(setting.key.into()),
                    text: setting.hide(&given.text),
                    source: given.source.clone(),
                    remedy,
                }
            })?;
            self.sources[index] = given.source;
        }
        Ok(())
    }

    /// `cpus` and `shards` both set the number of reactors. The one of higher rank wins, and of
    /// equal rank there may be only one.
    fn resolve_reactors(&mut self) -> Result<(), ConfigError> {
        let [cpus, shards] =
            ["cpus", "shards"].map(|key| SETTINGS.iter().position(|row| row.key == key));
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
                    "cpus (from {}) and shards (from {}) both set the number of reactors: give \
                     one of them",
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
        Config {
            settings: Settings::default(),
            warnings: Vec::new(),
            sources: vec![Source::Default; SETTINGS.len()],
            inputs: Inputs::default(),
            variables: Vec::new(),
        }
    }
}

/// The row that a given name means.
fn resolve(given: &RawSetting) -> Result<(usize, &'static Setting), ConfigError> {
    let is_variable = matches!(given.source, Source::Environment(_));
    let found =
        if is_variable { names::find_variable(&given.name) } else { names::find(&given.name) };
    let index = found.and_then(|found| SETTINGS.iter().position(|row| row.key == found.key));
    found.zip(index).map(|(setting, index)| (index, setting)).ok_or_else(|| {
        let spell = if is_variable { settings::variable } else { |name: &str| name.to_owned() };
        ConfigError::Unknown {
            suggestion: names::suggest(&given.name, spell),
            name: given.name.clone(),
            source: given.source.clone(),
        }
    })
}

/// Why a configuration was refused. Each error prints as one sentence that says what to do.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// No setting has this name.
    Unknown {
        /// The name as written.
        name: String,
        /// Its source.
        source: Source,
        /// A similar name that exists.
        suggestion: Option<String>,
    },
    /// The setting does not accept this value.
    BadValue {
        /// The setting, if known.
        key: Option<String>,
        /// The value as written.
        text: String,
        /// Its source.
        source: Source,
        /// What to write instead.
        remedy: String,
    },
    /// One setting has two values from equal sources.
    Twice {
        /// The setting.
        key: &'static str,
        /// The first source.
        first: Source,
        /// The second source.
        second: Source,
    },
    /// `--set` without `key=value`.
    Malformed(String),
    /// The configuration file cannot be read.
    Unreadable {
        /// The path as the operator named it.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The configuration file is not TOML.
    Syntax {
        /// File and line.
        source: Source,
        /// The error of the parser.
        reason: String,
    },
    /// Values that are valid alone, but not together.
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
                Some(key) => write!(
                    f,
                    "bad value \"{}\" for {key} ({source}): {remedy}",
                    text.escape_debug()
                ),
                None => write!(f, "bad value \"{}\" ({source}): {remedy}", text.escape_debug()),
            },
            ConfigError::Twice { key, first, second } => {
                write!(f, "{key} is given twice, by {first} and by {second}: keep one of them")
            }
            ConfigError::Malformed(text) => {
                write!(
                    f,
                    "--set {text} is not key=value: write for example --set limits.ring_size=64MiB"
                )
            }
            ConfigError::Unreadable { path, reason } => {
                write!(
                    f,
                    "cannot read the configuration file {}: {reason}: give --config a TOML file",
                    path.display()
                )
            }
            ConfigError::Syntax { source, reason } => write!(f, "{source} is not TOML: {reason}"),
            ConfigError::Conflict(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
