#![forbid(unsafe_code)]
//! Which settings may change while a node runs, and which of them have changed in a file that is
//! read again. Changes nothing but a [`Config`]: the control plane tells the node.

use super::Config;
use super::settings::SETTINGS;
use super::sources::Source;

/// A setting whose value is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The setting.
    pub(crate) key: &'static str,
    /// Its value so far, without secrets; `None` where it was not set.
    pub(crate) from: Option<String>,
    /// Its value in what was read.
    pub(crate) to: Option<String>,
    /// Where the new value stands.
    pub(crate) source: Source,
}

/// What a file that was read again changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Holds from now on.
    pub(crate) applied: Vec<Change>,
    /// Takes a restart.
    pub(crate) pending: Vec<Change>,
}

impl Config {
    /// Takes over the reloadable settings of `read`. All others stay as they are.
    pub(crate) fn take_reloadable(&mut self, read: &Config) -> Changes {
        let mut changes = Changes::default();
        for (index, setting) in SETTINGS.iter().enumerate() {
            let (from, to) = (setting.value(&self.settings), setting.value(&read.settings));
            if from == to {
                continue;
            }
            let source = read.sources[index].clone();
            let (from, to) = (setting.shown(&self.settings), setting.shown(&read.settings));
            let change = Change { key: setting.key, from, to, source: source.clone() };
            if setting.is_reloadable {
                (setting.take)(&read.settings, &mut self.settings);
                self.sources[index] = source;
                changes.applied.push(change);
            } else {
                changes.pending.push(change);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Inputs;

    /// A text for each setting that is not its default, if the test knows one.
    fn other_value(key: &str) -> Option<&'static str> {
        Some(match key {
            "journal.retain_bytes" | "journal.reserve" => "3GiB",
            "journal.retain_age"
            | "journal.segment_age"
            | "drain"
            | "drain_grace"
            | "timeouts.start" => "7s",
            "log_level" => "debug",
            "forward.replicated_timeout" => "7s",
            "forward.on_timeout" => "degrade",
            "limits.calls_max" | "limits.calls_per_tenant_max" | "limits.address_rate" => "77",
            "limits.address_burst" | "limits.heads_max" | "limits.send_slot_count" => "77",
            "listen" => "127.0.0.1:77",
            "jwt.key" | "data_dir" => "/somewhere",
            "limits.ring_size" => "256MiB",
            "ack" => "written",
            _ => return None,
        })
    }

    #[test]
    fn what_may_be_reloaded_is_taken_and_the_rest_is_named() {
        let reloadable: Vec<_> =
            SETTINGS.iter().filter(|row| row.is_reloadable).map(|row| row.key).collect();
        assert_eq!(
            reloadable,
            [
                "journal.retain_bytes",
                "journal.retain_age",
                "journal.reserve",
                "journal.segment_age",
                "forward.replicated_timeout",
                "forward.on_timeout",
                "drain",
                "drain_grace",
                "log_level",
                "limits.calls_max",
                "limits.calls_per_tenant_max",
                "limits.address_rate",
                "limits.address_burst",
            ]
        );
        for setting in SETTINGS.iter() {
            let Some(text) = other_value(setting.key) else {
                assert!(!setting.is_reloadable, "{} needs a value here", setting.key);
                continue;
            };
            let (mut running, mut read) = (Config::default(), Config::default());
            (setting.assign)(&mut read.settings, text).unwrap();
            let change = Change {
                key: setting.key,
                from: setting.value(&running.settings),
                to: Some(text.into()),
                source: Source::Default,
            };
            let changes = running.take_reloadable(&read);
            let (applied, pending) = match setting.is_reloadable {
                true => (vec![change], vec![]),
                false => (vec![], vec![change]),
            };
            assert_eq!(changes, Changes { applied, pending }, "{}", setting.key);
            let is_taken = setting.value(&running.settings).as_deref() == Some(text);
            assert_eq!(is_taken, setting.is_reloadable, "{}", setting.key);
            // A second look finds no more than what still waits for a restart.
            assert!(running.take_reloadable(&read).applied.is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn a_file_is_read_again_below_the_flags_and_variables_of_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("exo.toml");
        std::fs::write(&file, "drain = \"1s\"\ndrain_grace = \"1s\"\nlog_level = \"warn\"\n")
            .unwrap();
        let flag = |name: &str, text: &str| super::super::sources::RawSetting {
            name: name.into(),
            text: text.into(),
            source: Source::Flag(format!("--{name}")),
        };
        let inputs = Inputs {
            file: Some(file.clone()),
            flags: vec![flag("drain", "2s")],
            ..Inputs::default()
        };
        let variables = [("EXO_INGEST_DRAIN_GRACE".into(), "3s".into())];
        let mut running = Config::load(inputs, variables.into_iter()).unwrap();
        assert_eq!(running.file(), Some(&*file));
        // The text counts, not the present contents of the file.
        let text = "drain = \"9s\"\ndrain_grace = \"9s\"\nmax_calls = 5\nlisten = \"[::1]:9\"\n";
        let read = running.with_file_text(text).unwrap();
        let changes = running.take_reloadable(&read);
        let rows = |changes: &[Change]| -> Vec<String> {
            let show = |text: &Option<String>| text.clone().unwrap_or_default();
            let row = |change: &Change| {
                let Change { key, from, to, source } = change;
                let source = source.to_string();
                let place = source.rsplit('/').next().unwrap_or_default().to_owned();
                format!("{key} {} {} {place}", show(from), show(to))
            };
            changes.iter().map(row).collect()
        };
        assert_eq!(
            rows(&changes.applied),
            ["log_level warn info default", "limits.calls_max 16000 5 exo.toml:3"]
        );
        assert_eq!(rows(&changes.pending), ["listen 0.0.0.0:8443 [::1]:9 exo.toml:4"]);
        assert_eq!(running.settings.drain.as_secs(), 2);
        assert_eq!(running.settings.drain_grace.as_secs(), 3);
        assert_eq!(running.settings.limits.calls_max, 5);
        for bad in ["drain", "drian = \"1s\"", "drain = \"30\"", "timeouts.ping = \"1h\""] {
            assert!(running.with_file_text(bad).is_err(), "{bad}");
        }
    }
}
