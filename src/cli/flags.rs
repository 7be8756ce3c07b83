#![forbid(unsafe_code)]
//! The flags that set settings. They are made from the table of settings, so that a flag, its help and its default cannot
//! differ from what the file and the environment know.

use crate::config::settings::{SETTINGS, Setting, Settings};
use crate::config::sources::{Given, Source};
use crate::config::{Config, ConfigError, Inputs};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use std::path::PathBuf;

/// `--config`, `--set` and the flags of settings, as they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags {
    file: Option<PathBuf>,
    /// `key=value`.
    sets: Vec<String>,
    flags: Vec<Given>,
}

impl SettingFlags {
    /// The effective configuration of the command called `command_name`, which sets `command` unless told otherwise.
    pub fn load(&self, command_name: &'static str, command: Vec<(&'static str, String)>) -> Result<Config, ConfigError> {
        let mut flags = self.flags.clone();
        for text in &self.sets {
            let Some((name, value)) = text.split_once('=') else { return Err(ConfigError::Malformed(text.clone())) };
            let source = Source::Flag(format!("--set {}", name.trim()));
            flags.push(Given { name: name.trim().into(), text: value.trim().into(), source });
        }
        Config::load(Inputs { command, command_name, file: self.file.clone(), flags }, std::env::vars_os())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
        let set = Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append);
        command
            .args(SETTINGS.iter().filter_map(flag))
            .arg(file.help("TOML file with settings"))
            .arg(set.help("Set any setting by its key, such as limits.ring_size=64MiB; repeatable"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter_map(|setting| {
            let flag = setting.flag?;
            let text = matches.get_one::<String>(flag)?.clone();
            Some(Given { name: setting.key.into(), text, source: Source::Flag(format!("--{flag}")) })
        });
        Ok(SettingFlags {
            file: matches.get_one("config").cloned(),
            sets: matches.get_many("set").into_iter().flatten().cloned().collect(),
            flags: flags.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Option<Arg> {
    let name = setting.flag?;
    let default = setting.value(&Settings::default());
    let default = default.filter(|_| !setting.is_switch && !setting.help.contains("unset"));
    let arg = Arg::new(name).long(name).value_name(setting.shape).help(help(setting, default.as_deref()));
    if setting.is_switch {
        // `--no-journal=false` takes back what a file says.
        return Some(arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true));
    }
    Some(arg)
}

fn help(setting: &Setting, default: Option<&str>) -> String {
    match default {
        Some(default) => format!("{} [default: {default}]", setting.help),
        None => setting.help.to_owned(),
    }
}

/// The flag of a setting with a command's own default, if `defaults` (keys and texts) has one for it.
pub(super) fn with_default(arg: Arg, defaults: &[(&'static str, &str)]) -> Arg {
    let setting = SETTINGS.iter().find(|setting| setting.flag.is_some_and(|flag| arg.get_id() == flag));
    let default = setting.and_then(|setting| defaults.iter().find(|(key, _)| *key == setting.key));
    match (setting, default) {
        (Some(setting), Some((_, text))) => arg.help(help(setting, Some(text))),
        _ => arg,
    }
}
