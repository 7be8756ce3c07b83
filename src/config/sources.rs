#![forbid(unsafe_code)]
//! The sources of values: file, environment, flags. Each becomes (name, text, source), and its
//! meaning is not checked here.

use super::ConfigError;
use super::settings::VARIABLE_PREFIX;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value came from. A later variant overrides an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was not set.
    Default,
    /// The node computed it from other settings and the host.
    Computed,
    /// The command sets it unless it is overridden.
    Command(&'static str),
    /// A line of the configuration file.
    File {
        /// The file as the operator named it.
        path: Arc<Path>,
        /// Line number, from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag as it was written, such as `--listen` or `--set log_level`.
    Flag(String),
}

impl Source {
    /// Of two sources, the one of higher rank wins.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Source::Default | Source::Computed => 0,
            Source::Command(_) => 1,
            Source::File { .. } => 2,
            Source::Environment(_) => 3,
            Source::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Computed => f.write_str("computed"),
            Source::Command(name) => f.write_str(name),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Environment(name) | Source::Flag(name) => f.write_str(name),
        }
    }
}

/// A value that was set, before its meaning is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawSetting {
    /// A key, an alias, or the name of a variable.
    pub(crate) name: String,
    /// The value.
    pub(crate) text: String,
    /// Its source.
    pub(crate) source: Source,
}

/// The variable that names the configuration file, as `--config` does.
pub(crate) const CONFIG_VARIABLE: &str = "EXO_INGEST_CONFIG";

/// The values in the environment, and the path of the configuration file if it names one.
pub(super) fn from_environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Option<PathBuf>, Vec<RawSetting>), ConfigError> {
    let mut file = None;
    let mut given = Vec::new();
    for (name, value) in variables {
        let Some(name) = name
            .to_str()
            .filter(|name| name.starts_with(VARIABLE_PREFIX) && !is_injected(name, &value))
        else {
            continue;
        };
        if name == CONFIG_VARIABLE {
            file = Some(PathBuf::from(value));
            continue;
        }
        let source = Source::Environment(name.to_owned());
        let text = value.into_string().map_err(|value| ConfigError::BadValue {
            source: source.clone(),
            key: None,
            text: value.to_string_lossy().into_owned(),
            remedy: "it is not UTF-8".into(),
        })?;
        given.push(RawSetting { name: name.to_owned(), text, source });
    }
    // The order of the environment comes from the shell; an error must not depend on it.
    given.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((file, given))
}

/// Kubernetes and Docker put the addresses of a service named `exo-ingest` into every container
/// next to it, with our prefix (`EXO_INGEST_SERVICE_HOST`, `EXO_INGEST_PORT_8443_TCP_ADDR`). They
/// are not a mistake of the operator.
fn is_injected(name: &str, value: &OsStr) -> bool {
    let rest = &name[VARIABLE_PREFIX.len()..];
    let is_url = value.to_str().is_some_and(|value| value.contains("://"));
    (rest == "PORT" && is_url)
        || ["PORT_", "SERVICE_HOST", "SERVICE_PORT"].iter().any(|start| rest.starts_with(start))
}

/// The values in the configuration file at `path`.
pub(super) fn from_file(path: &Path) -> Result<Vec<RawSetting>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    from_toml(path, &text)
}

/// The settings in a configuration file with this text.
pub(super) fn from_toml(path: &Path, text: &str) -> Result<Vec<RawSetting>, ConfigError> {
    let path: Arc<Path> = path.into();
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        source: Source::File {
            path: path.clone(),
            line: error.span().map_or(1, |span| line(span.start)),
        },
        reason: error.message().trim().replace('\n', "; "),
    })?;
    let mut given = Vec::new();
    flatten(
        "",
        table.get_ref(),
        &|offset| Source::File { path: path.clone(), line: line(offset) },
        &mut given,
    )?;
    Ok(given)
}

/// Flattens tables: `[limits] calls_max = 5` becomes `limits.calls_max`.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    source: &dyn Fn(usize) -> Source,
    given: &mut Vec<RawSetting>,
) -> Result<(), ConfigError> {
    for (key, value) in table.iter() {
        let name = format!("{prefix}{}", key.get_ref());
        let source_here = source(key.span().start);
        match value.get_ref() {
            DeValue::Table(table) => flatten(&format!("{name}."), table, source, given)?,
            value => match scalar(value) {
                Some(text) => given.push(RawSetting { name, text, source: source_here }),
                None => {
                    return Err(ConfigError::BadValue {
                        source: source_here,
                        key: Some(name),
                        text: value.type_str().into(),
                        remedy: "write a string, a whole number, true, false, or a list of them"
                            .into(),
                    });
                }
            },
        }
    }
    Ok(())
}

/// A TOML value as the text of a flag; `None` for a type that no setting takes.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(Spanned::get_ref).map(item).collect();
            items.map(|items| items.join(","))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// An element of a list. One that contains a comma would become two.
fn item(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Array(_) => None,
        value => scalar(value).filter(|text| !text.contains(',')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<Vec<(String, String, String)>, String> {
        let given = from_toml(Path::new("exo.toml"), text).map_err(|error| error.to_string())?;
        Ok(given
            .into_iter()
            .map(|given| (given.name, given.text, given.source.to_string()))
            .collect())
    }

    fn row(name: &str, text: &str, source: &str) -> (String, String, String) {
        (name.into(), text.into(), source.into())
    }

    #[test]
    fn tables_become_dotted_names_with_their_lines() {
        let text = "listen = \"[::]:1\"\nno_journal = true\n\n[limits]\ncalls_max = 1_000\n\
                    sample_rates = [8000, 16000]\n";
        let mut given = toml(text).unwrap();
        given.sort();
        let want = [
            row("limits.calls_max", "1000", "exo.toml:5"),
            row("limits.sample_rates", "8000,16000", "exo.toml:6"),
            row("listen", "[::]:1", "exo.toml:1"),
            row("no_journal", "true", "exo.toml:2"),
        ];
        assert_eq!(given, want);
        assert_eq!(toml("a.b.c = 0x10").unwrap(), [row("a.b.c", "16", "exo.toml:1")]);
    }

    #[test]
    fn errors_in_toml_name_the_line() {
        let error = toml("listen = \"a\"\nlisten = ").unwrap_err();
        assert!(error.contains("exo.toml:2"), "{error}");
        for text in ["a = 1.5", "a = 2020-01-01", "a = [[1]]", "a = [\"x,y\"]", "a = [{ b = 1 }]"] {
            assert!(toml(text).unwrap_err().contains("exo.toml:1"), "{text}");
        }
    }

    #[test]
    fn the_environment_gives_values_under_our_prefix_only() {
        let variables = [
            ("PATH", "/bin"),
            ("EXO_INGEST_LOG", "json"),
            ("EXO_INGEST_CONFIG", "/etc/exo.toml"),
            ("EXO_INGEST_PORT", "tcp://10.0.0.1:8443"),
            ("EXO_INGEST_PORT_8443_TCP_ADDR", "10.0.0.1"),
            ("EXO_INGEST_SERVICE_HOST", "10.0.0.1"),
            ("EXO_INGEST_SERVICE_PORT_WS", "8443"),
        ];
        let variables =
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (file, given) = from_environment(variables).unwrap();
        assert_eq!(file.as_deref(), Some(Path::new("/etc/exo.toml")));
        let source = Source::Environment("EXO_INGEST_LOG".into());
        assert_eq!(
            given,
            [RawSetting { name: "EXO_INGEST_LOG".into(), text: "json".into(), source }]
        );
    }
}
