#![forbid(unsafe_code)]
//! `exo-ingest config`: the effective configuration, and the references of all settings and
//! metrics.

use super::flags::SettingFlags;
use super::{Failure, print};
use crate::config::settings::{SETTINGS, Settings};
use crate::config::{Config, ring_size};
use crate::control::admin;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fmt::Write;

/// Show the effective configuration and where each value came from
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    flags: SettingFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print all settings as a Markdown list with names, default and meaning; or all metrics
    #[arg(
        long,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "settings",
        conflicts_with = "json"
    )]
    reference: Option<Reference>,
}

/// The references that can be printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reference {
    Settings,
    Metrics,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest config --config exo.toml --drain 10s
  EXO_INGEST_MAX_CALLS=500 exo-ingest config --json
  exo-ingest config --reference=metrics

Each setting has a key: [limits] calls_max = 500 in the file, EXO_INGEST_LIMITS_CALLS_MAX in the \
environment, --set limits.calls_max=500. If it has a flag (--max-calls), the name of the flag \
works too: max_calls = 500, EXO_INGEST_MAX_CALLS, --set max_calls=500.";

/// Prints to standard output; warnings about the configuration go to standard error.
pub(super) fn config(args: &ConfigArgs) -> Result<(), Failure> {
    match args.reference {
        Some(Reference::Settings) => return print(&reference()),
        Some(Reference::Metrics) => return print(&admin::reference()),
        None => {}
    }
    let config = args.flags.load("config", Vec::new())?;
    if args.json {
        return print(&json(&config)?);
    }
    for warning in &config.warnings {
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("warning: {warning}\n"));
    }
    print(&table(&config))
}

/// Shown if a setting has no value.
const UNSET: &str = "-";

fn table(config: &Config) -> String {
    let mut rows = vec![["SETTING".to_owned(), "VALUE".into(), "SOURCE".into()]];
    rows.extend(SETTINGS.iter().map(|setting| {
        let value = setting.shown(&config.settings).unwrap_or_else(|| UNSET.into());
        [setting.key.into(), value, config.source(setting).to_string()]
    }));
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (key_width, value_width) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut text, [key, value, source]| {
        let _ = writeln!(text, "{key:key_width$}  {value:value_width$}  {source}");
        text
    })
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    settings: Vec<Row>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// The value for `--set`, without secrets; null if the setting is not set.
    value: Option<String>,
    source: String,
    /// Null if there is none, or if it is computed.
    default: Option<String>,
    flag: Option<String>,
    variable: String,
    /// Whether a reload changes it.
    reloadable: bool,
}

fn json(config: &Config) -> Result<String, Failure> {
    let defaults = Settings::default();
    let row = |setting: &'static crate::config::settings::Setting| Row {
        name: setting.key,
        value: setting.shown(&config.settings),
        source: config.source(setting).to_string(),
        default: setting.value(&defaults).filter(|_| setting.key != ring_size::KEY),
        flag: setting.flag.map(|flag| format!("--{flag}")),
        variable: setting.variable(),
        reloadable: setting.is_reloadable,
    };
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        settings: SETTINGS.iter().map(row).collect(),
        warnings: &config.warnings,
    };
    let text = serde_json::to_string_pretty(&document);
    text.map(|text| text + "\n")
        .map_err(|error| Failure::Run(format!("cannot print the configuration: {error}")))
}

fn reference() -> String {
    let defaults = Settings::default();
    let mut text = String::new();
    for setting in SETTINGS.iter() {
        let (key, help, shape) = (setting.key, setting.help, setting.shape);
        let default = setting.value(&defaults).filter(|_| !help.contains("unset"));
        let default = default.map(|default| format!(", default `{default}`")).unwrap_or_default();
        let flag = setting.flag.map(|flag| format!("; flag `--{flag}`")).unwrap_or_default();
        let variable = setting.variable();
        let reload = if setting.is_reloadable { "; reloadable" } else { "" };
        text += &admin::list_item(&format!(
            "**`{key}`**: {help}. `{shape}`{default}{flag}; variable `{variable}`{reload}."
        ));
    }
    text
}
