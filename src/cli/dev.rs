#![forbid(unsafe_code)]
//! `exo-ingest dev`: a local node in one command, with keys and a token made for it.

use super::Failure;
use super::flags::{SettingFlags, with_default};
use super::keygen::{KeyBits, KeyFiles, generate_into};
use super::launch::{self, Launch};
use crate::auth::{Grant, Signer};
use crate::call::CallIdentity;
use crate::config::settings::Settings;
use crate::session::ingest::ClaimMatch;
use clap::Args;
use rustix::process::{Resource, getrlimit};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Run a local node to try things with: makes keys on first use and prints a token
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_args(|arg| with_default(arg, DEFAULTS)))]
pub(super) struct DevArgs {
    /// Directory for keys and recordings; made on first use
    #[arg(long, value_name = "DIR", default_value = "exo-dev")]
    dir: PathBuf,
    #[command(flatten)]
    flags: SettingFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest dev
  exo-ingest dev --listen 127.0.0.1:0 --dir /tmp/exo-dev

It prints a token of the tenant `dev` that is good for a day. As dev compares only the tenant of token and start, that \
one token plays as many calls as you like; `serve` compares the interaction as well. Other defaults that differ from \
those of `serve` stand with their flags above; the frame ring has 16MiB. Calls are recorded under the same \
directory, the last 1 GiB of them.";

/// What dev sets unless told otherwise: keys and texts. `jwt.key` and `data_dir` go with them, and depend on
/// `--dir`.
const DEFAULTS: &[(&str, &str)] = &[
    ("listen", "127.0.0.1:8443"),
    ("claim_match", "tenant"),
    ("shards", "1"),
    ("journal.retain_bytes", RETAIN_BYTES),
    ("journal.segment_size", SEGMENT_SIZE),
    ("journal.reserve", RESERVE),
    ("drain", "2s"),
    ("allow_unregistered", "true"),
    // A dev node has a few calls, and leaves the machine its memory.
    ("limits.ring_size", "16MiB"),
];

/// The tenant of the token that is printed.
const TENANT: &str = "dev";

/// Its interaction.
const INTERACTION: &str = "call-1";

/// The call that the load generator plays first when it is told the prefix `call-`.
const PLAYED: &str = "call-0";

/// How long it is good for: a day of trying things.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Open files that are not a call's: more than the node asks for beside its calls.
const OPEN_FILES_KEPT: usize = 256;

/// A few days of trying things: 6 hours of audio.
const RETAIN_BYTES: &str = "1GiB";

/// Small against what is retained, so that retention goes in small steps.
const SEGMENT_SIZE: &str = "16MiB";

/// A laptop with a nearly full disk is to try things, too.
const RESERVE: &str = "64MiB";

/// Makes what is missing, serves until a signal ends it.
pub(super) fn dev(args: &DevArgs) -> Result<(), Failure> {
    let KeyFiles { private, public, .. } = KeyFiles::in_dir(&args.dir);
    let mut command: Vec<_> = DEFAULTS.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
    command.push(("jwt.key", public.display().to_string()));
    command.push(("data_dir", args.dir.join("data").display().to_string()));
    command.extend(fewer_calls().map(|calls| ("limits.calls_max", calls.to_string())));
    let mut config = args.flags.load("dev", command)?;
    launch::require_data_dir(&config)?;
    // It advises production nodes; that dev's own ring is small is meant.
    config.warnings.clear();
    let own_keys = config.settings.jwt_key.as_ref() == Some(&public);
    if own_keys {
        make_keys(&args.dir, &private, &public)?;
    }
    // A token of ours names neither issuer nor audience: a node that demands one would refuse it.
    let demands_more = config.settings.jwt_issuer.is_some() || config.settings.jwt_audience.is_some();
    let token = if own_keys && !demands_more { Some(mint(&private)?) } else { None };
    let launch = Launch::start(&config, None)?;
    launch.announce();
    let programs = ["exo-ingest", "exo-load"].map(program);
    let places = Places { node: reachable(launch.address()), admin: launch.admin_address().map(reachable) };
    let text = greeting(&config.settings, &places, &private, token.as_deref(), &programs);
    // Whoever closed standard error does not want to read it.
    let _ = std::io::stderr().write_all(text.as_bytes());
    launch.run()
}

/// As many calls as the hard limit on open files allows, where that is not enough for the default: `serve` refuses such a
/// host, but to try things with a few calls it is good enough.
fn fewer_calls() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).maximum.and_then(|limit| usize::try_from(limit).ok())?;
    let calls = limit.saturating_sub(OPEN_FILES_KEPT).max(1);
    (calls < Settings::default().limits.calls_max).then_some(calls)
}

/// A key pair in `directory`, unless there is one.
fn make_keys(directory: &Path, private: &Path, public: &Path) -> Result<(), Failure> {
    match (private.exists(), public.exists()) {
        (true, true) => return Ok(()),
        (false, false) => {}
        (true, false) | (false, true) => {
            return Err(Failure::Run(format!(
                "only one of {} and {} is there: remove it, and dev makes a new pair",
                private.display(),
                public.display()
            )));
        }
    }
    let failed = |error: std::io::Error| Failure::Run(format!("cannot make {}: {error}", directory.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // It takes seconds where luck with primes is bad.
    let _ = writeln!(std::io::stderr(), "making a key pair in {}, this once", directory.display());
    generate_into(directory, KeyBits::Bits2048).map_err(|error| Failure::Run(error.to_string()))?;
    // Keys do not belong into a repository, not even these. Where the file exists, it is not ours to change.
    let _ = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join(".gitignore"))
        .and_then(|mut file| file.write_all(b"*\n"));
    Ok(())
}

/// A token for [`TENANT`], good from now.
fn mint(private: &Path) -> Result<String, Failure> {
    let failed = |reason: String| Failure::Run(format!("cannot sign with {}: {reason}", private.display()));
    let text = std::fs::read(private).map_err(|error| failed(error.to_string()))?;
    let signer = Signer::from_pem(&text).map_err(|error| failed(error.to_string()))?;
    let issued_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let grant = Grant {
        identity: &CallIdentity { tenant: TENANT.into(), interaction: INTERACTION.into() },
        issued_at,
        expires_at: issued_at + TOKEN_TTL.as_secs(),
        kid: None,
    };
    signer.mint(&grant).map_err(|error| failed(error.to_string()))
}

/// The address to give to clients on this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(address) if address.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        address => address,
    }
}

/// How a program of this workspace is started from here: by its name where that is found, by its path where it lies beside
/// this one, and by cargo where that started this one and the other is not built yet.
fn program(name: &str) -> String {
    let Ok(this) = std::env::current_exe() else { return name.into() };
    let directory = this.parent().unwrap_or(Path::new("/"));
    let is_found = |path: std::ffi::OsString| std::env::split_paths(&path).any(|found| found == directory);
    let path = directory.join(name);
    if std::env::var_os("PATH").is_some_and(is_found) {
        name.into()
    } else if path.exists() {
        let here = std::env::current_dir().unwrap_or_default();
        path.strip_prefix(here).unwrap_or(&path).display().to_string()
    } else if std::env::var_os("CARGO").is_some() {
        let profile = if directory.ends_with("release") { "--release " } else { "" };
        format!("cargo run {profile}-p {name} --")
    } else {
        name.into()
    }
}

/// Where the node can be reached.
struct Places {
    node: SocketAddr,
    admin: Option<SocketAddr>,
}

/// What a person reads who has just started it. `programs` start exo-ingest and exo-load.
fn greeting(settings: &Settings, places: &Places, private: &Path, token: Option<&str>, programs: &[String; 2]) -> String {
    let [ingest, load] = programs;
    let address = places.node;
    let url = format!("ws://{address}/v1/ingest");
    let (admin, scrapes) = places.admin.map_or_else(Default::default, |admin| {
        let line = format!("  admin  http://{admin}/ready  /metrics  /debug/latency.hgrm\n");
        (line, format!("  curl http://{admin}/ready http://{admin}/metrics\n"))
    });
    let Some(token) = token else {
        return format!(
            "
  url    {url}
  token  none: sign one that fits the keys, issuer and audience you gave
{admin}
Try, in another terminal:
  curl http://{address}/health
{scrapes}
"
        );
    };
    let scope = match settings.claim_match {
        ClaimMatch::Strict => "tenant dev, interaction call-1 only",
        ClaimMatch::Tenant => "tenant dev, any interaction",
        ClaimMatch::Off => "any tenant, any interaction",
    };
    let key = private.display();
    let export = settings.data_dir.as_ref().filter(|_| !settings.no_journal).map_or(String::new(), |data_dir| {
        format!("  {ingest} calls export {TENANT}/{PLAYED} --data-dir {} -o call.wav\n", data_dir.display())
    });
    format!(
        "
  url    {url}
  token  {token}
         good for {scope}, for 24 hours
  key    {key} (signs more tokens)
{admin}
Try, in another terminal:
  curl http://{address}/health
{scrapes}  {load} run --url {url} --key {key} --tenant {TENANT} --interaction-prefix call- --calls 1 --duration 10s
  {ingest} token mint --key {key} --tenant {TENANT} --interaction call-2
{export}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_private_and_made_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("exo-dev");
        let (private, public) = (directory.join("private.pem"), directory.join("public.pem"));
        make_keys(&directory, &private, &public).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&private)), (0o700, 0o600));
        assert_eq!(std::fs::read_to_string(directory.join(".gitignore")).unwrap(), "*\n");
        let before = std::fs::read(&private).unwrap();
        make_keys(&directory, &private, &public).unwrap();
        assert_eq!(std::fs::read(&private).unwrap(), before);
        std::fs::remove_file(&public).unwrap();
        let error = make_keys(&directory, &private, &public).unwrap_err().to_string();
        assert!(error.contains("private.pem") && error.contains("remove"), "{error}");
    }

    #[test]
    fn an_unspecified_address_is_shown_as_one_that_can_be_reached() {
        for (address, shown) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")] {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), shown);
        }
    }

    #[test]
    fn the_greeting_says_what_the_token_is_good_for() {
        let address = "127.0.0.1:8443".parse().unwrap();
        let programs = ["exo-ingest".to_owned(), "cargo run -p exo-load --".to_owned()];
        let places = Places { node: address, admin: Some("127.0.0.1:9464".parse().unwrap()) };
        let text = greeting(&Settings::default(), &places, Path::new("exo-dev/private.pem"), Some("a.b.c"), &programs);
        for words in [
            "ws://127.0.0.1:8443/v1/ingest",
            "a.b.c",
            "call-1 only",
            "curl http://127.0.0.1:8443/health",
            "-p exo-load -- run",
            "http://127.0.0.1:9464/ready",
        ] {
            assert!(text.contains(words), "{words}");
        }
        let places = Places { admin: None, ..places };
        let text = greeting(&Settings::default(), &places, Path::new("k"), None, &programs);
        assert!(!text.contains("mint") && !text.contains("/ready"), "{text}");
    }
}
