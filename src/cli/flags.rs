#![forbid(unsafe_code)]
//! The flags of settings. They are made from the table of settings, so a flag, its help and its
//! default always agree with the file and the environment.

use crate::config::settings::{SETTINGS, Setting, Settings};
use crate::config::sources::{RawSetting, Source};
use crate::config::{Config, ConfigError, Inputs};
use crate::io::host::Host;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use std::path::PathBuf;

/// `--config`, `--set` and the flags of settings, as given.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags {
    file: Option<PathBuf>,
    /// Texts of the form `key=value`.
    sets: Vec<String>,
    flags: Vec<RawSetting>,
}

impl SettingFlags {
    /// The effective configuration of the command `command_name`, whose own defaults are `command`.
    pub(crate) fn load(
        &self,
        command_name: &'static str,
        command: Vec<(&'static str, String)>,
    ) -> Result<Config, ConfigError> {
        let mut flags = self.flags.clone();
        for text in &self.sets {
            let Some((name, value)) = text.split_once('=') else {
                return Err(ConfigError::Malformed(text.clone()));
            };
            let source = Source::Flag(format!("--set {}", name.trim()));
            flags.push(RawSetting { name: name.trim().into(), text: value.trim().into(), source });
        }
        let host = Some(Host::read());
        Config::load(
            Inputs { command, command_name, file: self.file.clone(), flags, host },
            std::env::vars_os(),
        )
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf));
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
            let texts: Vec<&str> = matches.get_many::<String>(flag)?.map(String::as_str).collect();
            let text = texts.join(",");
            Some(RawSetting {
                name: setting.key.into(),
                text,
                source: Source::Flag(format!("--{flag}")),
            })
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
    let arg =
        Arg::new(name).long(name).value_name(setting.shape).help(help(setting, default.as_deref()));
    if setting.is_repeatable {
        return Some(arg.action(ArgAction::Append));
    }
    if setting.is_switch {
        // `--no-journal=false` overrides a file.
        return Some(
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true),
        );
    }
    Some(arg)
}

fn help(setting: &Setting, default: Option<&str>) -> String {
    match default {
        Some(default) => format!("{} [default: {default}]", setting.help),
        None => setting.help.to_owned(),
    }
}

/// The flag of a setting, with the default from `defaults` (keys and texts) if the command has one.
pub(super) fn with_default(arg: Arg, defaults: &[(&'static str, &str)]) -> Arg {
    let setting =
        SETTINGS.iter().find(|setting| setting.flag.is_some_and(|flag| arg.get_id() == flag));
    let default = setting.and_then(|setting| defaults.iter().find(|(key, _)| *key == setting.key));
    match (setting, default) {
        (Some(setting), Some((_, text))) => arg.help(help(setting, Some(text))),
        _ => arg,
    }
}
