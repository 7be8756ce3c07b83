//! Precedence, names, errors, and that the table has all settings.

use super::names::find;
use super::settings::AckLevel;
use super::*;
use crate::ack_level::CallLevels;
use crate::io::host::Memory;
use crate::limits::Limits;
use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

fn environment(variables: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn set(pairs: &[(&str, &str)]) -> Vec<RawSetting> {
    let given = |(name, text): &(&str, &str)| RawSetting {
        name: (*name).into(),
        text: (*text).into(),
        source: Source::Flag(format!("--set {name}")),
    };
    pairs.iter().map(given).collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
    let inputs = Inputs { flags: set(pairs), ..Inputs::default() };
    Config::load(inputs, environment(&[])).map_err(|error| error.to_string())
}

fn value_and_source(config: &Config, key: &str) -> (Option<String>, String) {
    let setting = find(key).unwrap();
    (setting.value(&config.settings), config.source(setting).to_string())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn flags_win_over_variables_over_the_file_over_the_command_over_defaults() {
    let file = file("drain = \"3s\"\nlog = \"json\"\nlisten = \"127.0.0.1:3\"\n");
    let line = |line| format!("{}:{line}", file.path().display());
    let inputs = || Inputs {
        command: vec![("drain", "2s".into()), ("claim_match", "tenant".into())],
        command_name: "dev",
        file: Some(file.path().into()),
        flags: set(&[("listen", "127.0.0.1:5")]),
        host: None,
    };
    let variables =
        [("EXO_INGEST_LISTEN", "127.0.0.1:4"), ("EXO_INGEST_LOG", "text"), ("HOME", "/")];
    let config = Config::load(inputs(), environment(&variables)).unwrap();
    let is = |key, value: &str, source: &str| {
        assert_eq!(value_and_source(&config, key), (Some(value.into()), source.into()), "{key}");
    };
    is("listen", "127.0.0.1:5", "--set listen");
    is("log", "text", "EXO_INGEST_LOG");
    is("drain", "3s", &line(1));
    is("claim_match", "tenant", "dev");
    is("jwt.leeway", "5s", "default");
    assert_eq!(config.settings.drain, Duration::from_secs(3));

    // A bad value is an error, even if a better source overrides it.
    let error = Config::load(inputs(), environment(&[("EXO_INGEST_LISTEN", "here")]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("EXO_INGEST_LISTEN") && error.contains("\"here\""), "{error}");
}

#[test]
fn every_setting_is_found_by_flag_key_and_variable() {
    let mut names = HashSet::new();
    let mut variables = HashSet::new();
    for setting in SETTINGS.iter() {
        assert!(names.insert(setting.key.to_owned()), "{} is double", setting.key);
        assert!(variables.insert(setting.variable()), "{} is double", setting.variable());
        assert_eq!(find(setting.key).unwrap().key, setting.key);
        assert_eq!(names::find_variable(&setting.variable()).unwrap().key, setting.key);
        if let Some(alias) = setting.alias() {
            assert!(names.insert(alias.clone()), "{alias} is double");
            assert_eq!(find(&alias).unwrap().key, setting.key);
            assert_eq!(names::find_variable(&settings::variable(&alias)).unwrap().key, setting.key);
        }
        assert!(!setting.help.ends_with('.') && !setting.help.is_empty(), "{}", setting.key);
    }
    let file = file("message_size_max = \"1KiB\"\n[jwt]\nissuer = \"us\"\n");
    let inputs = Inputs { file: Some(file.path().into()), ..Inputs::default() };
    let config = Config::load(inputs, environment(&[("EXO_INGEST_MAX_CALLS", "7")])).unwrap();
    assert_eq!(config.settings.limits.message_size_max, 1024);
    assert_eq!(config.settings.limits.calls_max, 7);
    assert_eq!(config.settings.token_policy.issuer.as_deref(), Some("us"));
}

#[test]
fn every_setting_reads_what_it_prints() {
    let defaults = Settings::default();
    for setting in SETTINGS.iter() {
        let mut settings = defaults.clone();
        if let Some(text) = setting.value(&defaults) {
            (setting.assign)(&mut settings, &text)
                .unwrap_or_else(|error| panic!("{} = {text}: {error}", setting.key));
            assert_eq!(setting.value(&settings).as_ref(), Some(&text), "{}", setting.key);
        }
        assert!(
            (setting.assign)(&mut settings, "").is_err(),
            "{} takes an empty value",
            setting.key
        );
    }
    assert_eq!(defaults.limits, Limits::production());
}

/// Destructured without `..`: a new field of `Limits` does not compile until it has a line here.
/// That line then fails until the field has a setting.
#[test]
fn every_limit_is_a_setting() {
    let assigned = |key: &str, text: &str| {
        let mut settings = Settings::default();
        let setting = find(key).unwrap_or_else(|| panic!("{key} is no setting"));
        (setting.assign)(&mut settings, text).unwrap();
        settings.limits
    };
    macro_rules! covered {
        ($($field:ident: $key:literal = $text:literal,)+) => {
            let Limits { $($field),+ } = Limits::production();
            $(
                let changed = assigned($key, $text);
                assert_ne!(changed.$field, $field, "{} does not set {}", $key, stringify!($field));
                let reset = Limits { $field, ..changed };
                assert_eq!(reset, Limits::production(), "{} sets more", $key);
            )+
            let keys = [$($key),+];
            let mut limits = SETTINGS
                .iter()
                .map(|row| row.key)
                .filter(|key| key.starts_with("limits.") || key.starts_with("timeouts."));
            assert!(limits.all(|key| keys.contains(&key)), "a setting without a limit");
        };
    }
    covered! {
        message_size_max: "limits.message_size_max" = "9KiB",
        text_size_max: "limits.text_size_max" = "9KiB",
        fragments_max: "limits.fragments_max" = "9",
        control_rate: "limits.control_rate" = "9",
        control_burst: "limits.control_burst" = "9",
        text_rate: "limits.text_rate" = "9",
        text_burst: "limits.text_burst" = "9",
        output_size_max: "limits.output_size_max" = "9KiB",
        max_ahead: "limits.max_ahead" = "off",
        frame_time_min: "limits.frame_time_min" = "0s",
        sample_rates: "limits.sample_rates" = "9000",
        strict_pcm: "limits.strict_pcm" = "true",
        calls_max: "limits.calls_max" = "9",
        calls_per_tenant_max: "limits.calls_per_tenant_max" = "9",
        connections_max: "limits.connections_max" = "9",
        heads_max: "limits.heads_max" = "9",
        address_rate: "limits.address_rate" = "9",
        address_burst: "limits.address_burst" = "9",
        proxy_from: "proxy_protocol.from" = "10.0.0.0/8",
        handshakes_per_turn: "limits.handshakes_per_turn" = "9",
        completions_per_turn: "limits.completions_per_turn" = "9",
        ring_size: "limits.ring_size" = "9MiB",
        spill_buffers: "limits.spill_buffers" = "99",
        allow_plain: "tls.allow_plain" = "true",
        send_slot_size: "limits.send_slot_size" = "999",
        send_slot_count: "limits.send_slot_count" = "9",
        head_timeout: "timeouts.head" = "9s",
        start_timeout: "timeouts.start" = "9s",
        ping_after: "timeouts.ping" = "9s",
        idle_timeout: "timeouts.idle" = "9s",
        ack_stalled_timeout: "timeouts.ack_stalled" = "9s",
        close_timeout: "timeouts.close" = "9s",
        wait: "timeouts.wait" = "9us",
    }
}

#[test]
fn an_unknown_name_gets_a_suggestion() {
    let error = load(&[("limits.mesage_size_max", "1")]).unwrap_err();
    assert!(error.contains("`limits.mesage_size_max` (--set limits.mesage_size_max)"), "{error}");
    assert!(error.contains("did you mean `limits.message_size_max`?"), "{error}");
    let error = load(&[("max-calls", "1")]).unwrap_err();
    assert!(error.contains("did you mean `max_calls`?"), "{error}");
    let error = load(&[("colour", "red")]).unwrap_err();
    assert!(error.contains("`exo-ingest config`"), "{error}");
    let error = Config::load(Inputs::default(), environment(&[("EXO_INGEST_LISTN", "x")]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("EXO_INGEST_LISTN") && error.contains("did you mean `EXO_INGEST_LISTEN`?"),
        "{error}"
    );
    let file = file("\n[limits]\nring_sise = 1\n");
    let inputs = Inputs { file: Some(file.path().into()), ..Inputs::default() };
    let error = Config::load(inputs, environment(&[])).unwrap_err().to_string();
    assert!(
        error.contains(&format!("`limits.ring_sise` ({}:3)", file.path().display())),
        "{error}"
    );
    assert!(error.contains("did you mean `limits.ring_size`?"), "{error}");
}

#[test]
fn a_bad_value_is_named_with_its_source_and_a_remedy() {
    let error = load(&[("drain", "30")]).unwrap_err();
    assert_eq!(
        error,
        "bad value \"30\" for drain (--set drain): write a time such as 30s, 500us or 1h, of a \
         year at most"
    );
    let error = load(&[("claim_match", "both")]).unwrap_err();
    assert!(error.contains("write one of strict, tenant, off"), "{error}");
    let error = load(&[("drain", "1s"), ("drain", "2s")]).unwrap_err();
    assert!(error.contains("drain is given twice"), "{error}");
    let missing = Inputs { file: Some("/nonexistent/exo.toml".into()), ..Inputs::default() };
    let error = Config::load(missing, environment(&[])).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/exo.toml") && error.contains("--config"), "{error}");
}

#[test]
fn settings_that_conflict_are_refused() {
    for (pairs, words) in [
        (
            &[("timeouts.ping", "30s")][..],
            "timeouts.ping (30s, --set timeouts.ping) has to be shorter than timeouts.idle (30s, \
             default)",
        ),
        (
            &[("limits.message_size_max", "17MiB")],
            "an eighth of limits.ring_size (128MiB, default)",
        ),
        (&[("limits.ring_size", "2MiB")], "between 4MiB and 64GiB"),
        (&[("limits.ring_size", "65GiB")], "between 4MiB and 64GiB"),
        (&[("limits.ring_size", "4MiB")], "for limits.connections_max (20000, default)"),
        (&[("limits.ring_size", "5000001")], "a multiple of 4KiB"),
        (&[("limits.send_slot_size", "64")], "at least 512"),
        (&[("limits.output_size_max", "300")], "at least 512"),
        (&[("limits.connections_max", "2000000")], "at most 1048576"),
        (&[("limits.send_slot_count", "65537")], "at most 65536"),
        (&[("limits.spill_buffers", "3")], "between 4 and 65536"),
        (&[("timeouts.wait", "1s")], "at most 100ms"),
        (&[("shards", "1025")], "at most 1024"),
        (&[("shards", "2"), ("cpus", "0")], "give one of them"),
        (
            &[("admin", "127.0.0.1:8443")],
            "another address and port than listen (0.0.0.0:8443, default)",
        ),
        (&[("no_journal", "true"), ("ack", "written")], "ack (written, --set ack) needs a journal"),
    ] {
        let error = load(pairs).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_small_ring_is_allowed_with_a_warning() {
    let config = load(&[("limits.ring_size", "16MiB")]).unwrap();
    assert!(
        config.warnings.iter().any(|warning| warning.contains("limits.ring_size (16MiB")),
        "{:?}",
        config.warnings
    );
    assert_eq!(load(&[]).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn a_ring_is_computed_unless_it_is_set() {
    let host = Host { cpus: vec![0], memory: Memory { size: 1 << 30, cgroup: None }, locked: None };
    let load = |pairs: &[(&str, &str)], command: &[(&'static str, &str)]| {
        let command = command.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let inputs = Inputs {
            flags: set(pairs),
            command,
            command_name: "dev",
            host: Some(host.clone()),
            ..Inputs::default()
        };
        let config = Config::load(inputs, environment(&[])).unwrap();
        (value_and_source(&config, "limits.ring_size"), config.warnings)
    };
    let ((value, source), warnings) = load(&[], &[]);
    assert_eq!((value.as_deref(), source.as_str()), (Some("256MiB"), "computed"));
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.starts_with("limits.ring_size (256MiB, computed) bridges"), "{warning}");
    let (row, warnings) = load(&[("limits.calls_max", "1000")], &[]);
    assert_eq!((row, warnings), ((Some("128MiB".into()), "computed".into()), vec![]));
    let (row, warnings) = load(&[("limits.ring_size", "2GiB")], &[]);
    assert_eq!((row, warnings), ((Some("2GiB".into()), "--set limits.ring_size".into()), vec![]));
    assert_eq!(load(&[], &[("limits.ring_size", "16MiB")]).0, (Some("16MiB".into()), "dev".into()));
}

#[test]
fn an_admin_listener_that_others_can_reach_is_allowed_with_a_warning() {
    for address in ["0.0.0.0:9464", "[::]:9464", "203.0.113.7:9464", "[2001:db8::1]:9464"] {
        let config = load(&[("admin", address)]).unwrap();
        assert!(
            config.warnings.iter().any(|warning| warning.contains("admin (")),
            "{address}: {:?}",
            config.warnings
        );
    }
    for address in
        ["127.0.0.1:0", "[::1]:9464", "10.1.2.3:9464", "192.168.0.1:1", "[fd00::1]:9464", "off"]
    {
        assert_eq!(
            load(&[("admin", address)]).unwrap().warnings,
            Vec::<String>::new(),
            "{address}"
        );
    }
    // The same port on another address of this host is another port.
    assert!(load(&[("listen", "10.0.0.1:9464")]).is_ok());
}

#[test]
fn cpus_and_shards_follow_the_higher_source() {
    let inputs = Inputs { flags: set(&[("shards", "2")]), ..Inputs::default() };
    let config = Config::load(inputs, environment(&[("EXO_INGEST_CPUS", "0-3")])).unwrap();
    assert_eq!((config.settings.shards, config.settings.cpus), (Some(2), None));
    let inputs = Inputs {
        command: vec![("shards", "1".into())],
        command_name: "dev",
        flags: set(&[("cpus", "1")]),
        ..Inputs::default()
    };
    let config = Config::load(inputs, environment(&[])).unwrap();
    assert_eq!((config.settings.shards, config.settings.cpus), (None, Some(vec![1])));
}

#[test]
fn the_promise_of_an_ack_follows_the_journal() {
    assert_eq!(load(&[]).unwrap().settings.ack_level(), AckLevel::Durable);
    assert_eq!(load(&[("no_journal", "true")]).unwrap().settings.ack_level(), AckLevel::Received);
    assert_eq!(load(&[("ack", "written")]).unwrap().settings.ack_level(), AckLevel::Written);
}

#[test]
fn acks_wait_for_an_engine_only_where_there_is_one_that_gets_audio() {
    let ack = ("ack", "replicated");
    let url = ("live.url", "nats://engine:4222");
    for (settings, missing) in [
        (&[ack, ("no_journal", "true")][..], "no_journal"),
        (&[ack], "live.url"),
        (&[ack, ("live.audio", "all")], "live.url"),
        (&[ack, url], "live.audio"),
    ] {
        let error = load(settings).unwrap_err();
        assert!(error.starts_with("ack (replicated") && error.contains(missing), "{error}");
    }
    let settings = load(&[ack, url, ("live.audio", "acme,other")]).unwrap().settings;
    let levels = settings.call_levels();
    assert_eq!(levels.of("acme"), AckLevel::Replicated);
    assert_eq!(levels.of("all"), AckLevel::Durable);
    assert_eq!(settings.replication().unwrap().timeout.as_secs(), 5);
    let settings = load(&[ack, url, ("live.audio", "all")]).unwrap().settings;
    assert_eq!(settings.call_levels(), CallLevels::all(AckLevel::Replicated));
    let settings = load(&[url, ("live.audio", "all")]).unwrap().settings;
    assert_eq!(settings.call_levels().of("acme"), AckLevel::Durable);
    assert_eq!(settings.replication(), None);
}

#[test]
fn a_reserve_of_0_or_off_is_not_replaced_by_the_default() {
    let reserve = |config: &Config| {
        (config.settings.journal.reserve, value_and_source(config, "journal.reserve").0)
    };
    for text in ["0", "off"] {
        let config = load(&[("journal.reserve", text)]).unwrap();
        assert_eq!(reserve(&config), (Some(0), Some("off".into())), "{text}");
        let file =
            file(&format!("[journal]\nreserve = {}\n", if text == "0" { "0" } else { "\"off\"" }));
        let inputs = Inputs { file: Some(file.path().into()), ..Inputs::default() };
        assert_eq!(
            reserve(&Config::load(inputs, environment(&[])).unwrap()).0,
            Some(0),
            "{text} in a file"
        );
    }
    assert_eq!(reserve(&load(&[]).unwrap()), (None, None));
    assert_eq!(reserve(&load(&[("journal.reserve", "1MiB")]).unwrap()).0, Some(1 << 20));
    let error = load(&[("journal.reserve", "-1")]).unwrap_err();
    assert!(error.contains("or off"), "{error}");
}
