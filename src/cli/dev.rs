#![forbid(unsafe_code)]
//! `exo-ingest dev`: a local node with one command, which makes its keys and a token.

use super::Failure;
use super::certificate::{self, CertificateFiles};
use super::flags::{SettingFlags, with_default};
use super::keygen::{KeyBits, KeyFiles, generate_into};
use super::launch::{self, Launch};
use crate::auth::{Grant, Signer};
use crate::call::CallIdentity;
use crate::config::settings::Settings;
use crate::control::signals;
use crate::session::ingest::ClaimMatch;
use clap::Args;
use rustix::process::{Resource, getrlimit};
use std::fs::DirBuilder;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Run a local node for experiments: makes keys on first use and prints a token
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_args(|arg| with_default(arg, DEFAULTS)))]
pub(super) struct DevArgs {
    /// Directory for keys and recordings; created on first use
    #[arg(long, value_name = "DIR", default_value = "exo-dev")]
    dir: PathBuf,
    /// Serve wss:// with a certificate for localhost, created on first use
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    flags: SettingFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest dev
  exo-ingest dev --tls
  exo-ingest dev --listen 127.0.0.1:0 --dir /tmp/exo-dev

Prints a token for the tenant `dev`, which is valid for a day. You can use the token for many \
calls: dev compares only the tenant of token and start, while `serve` compares the interaction \
too. The flags above show the other defaults that differ from `serve`. The frame ring has 16MiB. \
Calls are recorded in the same directory, and the last 1 GiB is kept.";

/// Defaults of dev: keys and texts. `jwt.key` and `data_dir` also belong to them, and depend on
/// `--dir`.
const DEFAULTS: &[(&str, &str)] = &[
    ("listen", "127.0.0.1:8443"),
    ("claim_match", "tenant"),
    ("shards", "1"),
    ("journal.retain_bytes", RETAIN_BYTES),
    ("journal.segment_size", SEGMENT_SIZE),
    ("journal.reserve", RESERVE),
    ("drain", "2s"),
    // No load balancer sends calls to it.
    ("drain_grace", "0s"),
    ("allow_unregistered", "true"),
    // A dev node has few calls and should use little memory.
    ("limits.ring_size", "16MiB"),
];

/// Tenant of the token that is printed.
const TENANT: &str = "dev";

/// Interaction of that token.
const INTERACTION: &str = "call-1";

/// The first call of the load generator with the prefix `call-`.
const PLAYED: &str = "call-0";

/// How long the token is valid: a day of experiments.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Open files that are not for calls: more than the node needs for itself.
const OPEN_FILES_KEPT: usize = 256;

/// A few days of experiments: 6 hours of audio.
const RETAIN_BYTES: &str = "1GiB";

/// Small compared with what is retained, so that retention goes in small steps.
const SEGMENT_SIZE: &str = "16MiB";

/// So that dev also runs on a laptop with a nearly full disk.
const RESERVE: &str = "64MiB";

/// Makes what is missing, then serves until a signal.
pub(super) fn dev(args: &DevArgs) -> Result<(), Failure> {
    signals::survive_early_hangup();
    let KeyFiles { private, public, .. } = KeyFiles::in_dir(&args.dir);
    let mut command: Vec<_> =
        DEFAULTS.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
    command.push(("jwt.key", public.display().to_string()));
    command.push(("data_dir", args.dir.join("data").display().to_string()));
    let certificate = CertificateFiles::in_dir(&args.dir);
    if args.tls {
        command.push(("tls.cert", certificate.certificate.display().to_string()));
        command.push(("tls.key", certificate.key.display().to_string()));
    }
    command.extend(fewer_calls().map(|calls| ("limits.calls_max", calls.to_string())));
    let mut config = args.flags.load("dev", command)?;
    launch::require_data_dir(&config)?;
    // The warnings are for production nodes. The ring of dev is small on purpose.
    config.warnings.clear();
    let own_keys = config.settings.jwt_key.as_ref() == Some(&public);
    if own_keys {
        make_keys(&args.dir, &private, &public)?;
    }
    let own_certificate =
        args.tls && config.settings.tls.certs == [certificate.certificate.clone()];
    if own_certificate {
        make_certificate(&args.dir, &certificate)?;
    }
    // Our token names no issuer and no audience, so a node that requires one would refuse it.
    let demands_more = config.settings.token_policy.issuer.is_some()
        || config.settings.token_policy.audience.is_some();
    let token = if own_keys && !demands_more { Some(mint(&private)?) } else { None };
    let launch = Launch::start(&config, None, None)?;
    launch.announce();
    let place = Place::here();
    let programs = ["exo-ingest", "exo-load"].map(|name| place.command(name));
    let places = Places {
        node: reachable(launch.address()),
        admin: launch.admin_address().map(reachable),
        here: place.here,
        has_tls: !config.settings.tls.certs.is_empty(),
        ca: own_certificate.then_some(certificate.ca),
    };
    let text = greeting(&config.settings, &places, &private, token.as_deref(), &programs);
    // If standard error is closed, there is no reader.
    let _ = std::io::stderr().write_all(text.as_bytes());
    launch.run()
}

/// As many calls as the hard limit on open files allows, if that is too low for the default.
/// `serve` refuses such a host, but for experiments with a few calls it is good enough.
fn fewer_calls() -> Option<usize> {
    let limit =
        getrlimit(Resource::Nofile).maximum.and_then(|limit| usize::try_from(limit).ok())?;
    let calls = limit.saturating_sub(OPEN_FILES_KEPT).max(1);
    (calls < Settings::default().limits.calls_max).then_some(calls)
}

/// Makes a key pair in `directory`, unless there is one.
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
    make_directory(directory)?;
    // It takes seconds if finding primes takes many tries.
    let _ = writeln!(
        std::io::stderr(),
        "making a key pair in {} (on first use only)",
        directory.display()
    );
    generate_into(directory, KeyBits::Bits2048).map_err(|error| Failure::Run(error.to_string()))?;
    Ok(())
}

/// Makes a certificate in `directory`, unless there is one.
fn make_certificate(directory: &Path, files: &CertificateFiles) -> Result<(), Failure> {
    make_directory(directory)?;
    if files.make()? {
        let advice = "made a CA and a certificate for localhost in";
        let _ = writeln!(
            std::io::stderr(),
            "{advice} {}: tell clients to trust the CA",
            directory.display()
        );
    }
    Ok(())
}

/// Creates the directory, private, and kept out of repositories.
fn make_directory(directory: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Run(format!("cannot make {}: {error}", directory.display()))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // Keys do not belong in a repository, not even these. If the file exists, we must not change
    // it.
    let _ = exo_output::write_new(&directory.join(".gitignore"), b"*\n", exo_output::PRIVATE);
    Ok(())
}

/// A token for [`TENANT`], valid from now.
fn mint(private: &Path) -> Result<String, Failure> {
    let failed =
        |reason: String| Failure::Run(format!("cannot sign with {}: {reason}", private.display()));
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
        SocketAddr::V4(address) if address.ip().is_unspecified() => {
            (Ipv4Addr::LOCALHOST, address.port()).into()
        }
        SocketAddr::V6(address) if address.ip().is_unspecified() => {
            (Ipv6Addr::LOCALHOST, address.port()).into()
        }
        address => address,
    }
}

/// Places from which the programs of this workspace can be started.
struct Place {
    /// Directory of this program.
    programs: PathBuf,
    /// Directory in which the user will paste the commands.
    here: PathBuf,
    /// `PATH`.
    path: Vec<PathBuf>,
}

impl Place {
    /// The place of this process.
    fn here() -> Self {
        let this = std::env::current_exe().unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self {
            programs: this.parent().map_or_else(PathBuf::new, Path::to_owned),
            here: std::env::current_dir().unwrap_or_default(),
            path: std::env::split_paths(&path).collect(),
        }
    }

    /// Words that start a program when a user pastes them; `None` if nothing here can start it.
    ///
    /// The first choice is the program next to this one, because it has the same version. It is
    /// shown by its name alone if the shell finds exactly that file. The next choice is whatever
    /// the shell finds. The last is cargo, which builds it.
    fn command(&self, name: &str) -> Option<String> {
        let beside = Some(self.programs.join(name)).filter(|path| is_program(path));
        let found =
            self.path.iter().map(|directory| directory.join(name)).find(|path| is_program(path));
        let is_same = |one: &PathBuf, other: &PathBuf| {
            matches!(
                (one.canonicalize(), other.canonicalize()),
                (Ok(one), Ok(other)) if one == other
            )
        };
        match (beside, found) {
            (Some(beside), Some(found)) if is_same(&beside, &found) => Some(name.to_owned()),
            (Some(beside), _) => Some(self.shown(&beside)),
            (None, Some(_)) => Some(name.to_owned()),
            (None, None) => self.cargo(name),
        }
    }

    /// Cargo builds and starts it, if this program is in the `target` directory of its workspace.
    fn cargo(&self, name: &str) -> Option<String> {
        let is_cargo = self.path.iter().any(|directory| is_program(&directory.join("cargo")));
        let root = self
            .programs
            .ancestors()
            .nth(2)
            .filter(|root| is_cargo && root.join("loadtest/Cargo.toml").exists())?;
        let profile = if self.programs.ends_with("release") { "--release " } else { "" };
        let manifest = root.join("Cargo.toml");
        let manifest = if self.here.starts_with(root) {
            String::new()
        } else {
            format!("--manifest-path {} ", quoted(&manifest))
        };
        Some(format!("cargo run {profile}{manifest}-p {name} --"))
    }

    /// The shortest form of a path. A shell looks a bare name up in `PATH`, so such a path keeps
    /// its directory.
    fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.here) {
            Ok(short) if short.components().count() > 1 => quoted(short),
            Ok(short) => quoted(&Path::new(".").join(short)),
            Err(_) => quoted(path),
        }
    }
}

/// Whether it is a file that can be started.
fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A path, quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-+=:@%,".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Addresses of the node.
struct Places {
    node: SocketAddr,
    admin: Option<SocketAddr>,
    /// The directory that relative paths start from.
    here: PathBuf,
    /// The port speaks TLS.
    has_tls: bool,
    /// The CA of a certificate that dev made.
    ca: Option<PathBuf>,
}

impl Places {
    /// A URL of the node; `scheme` is `http` or `ws`.
    fn url(&self, scheme: &str, path: &str) -> String {
        let secure = if self.has_tls { "s" } else { "" };
        format!("{scheme}{secure}://{}{path}", self.node)
    }

    /// The commands that check whether the node is up, one for each kind of client that must trust
    /// a CA.
    fn health(&self) -> String {
        match &self.ca {
            None => format!("  curl {}\n", self.url("http", "/health")),
            Some(ca) => certificate::trust(&quoted(ca), self.node)
                .into_iter()
                .map(|(client, command)| format!("  {command}   # {client}\n"))
                .collect(),
        }
    }

    /// Flags for exo-load to trust the CA.
    fn load_flags(&self) -> String {
        self.ca.as_ref().map_or(String::new(), |ca| format!(" --ca {}", quoted(ca)))
    }
}

/// The text for a user after the start of the node. `programs` start exo-ingest and exo-load, if
/// anything can.
fn greeting(
    settings: &Settings,
    places: &Places,
    private: &Path,
    token: Option<&str>,
    programs: &[Option<String>; 2],
) -> String {
    let [ingest, load] = programs;
    let ingest = ingest.as_deref().unwrap_or("exo-ingest");
    let url = places.url("ws", "/v1/ingest");
    let health = places.health();
    let (admin, scrapes) = places.admin.map_or_else(Default::default, |admin| {
        let line = format!("  admin  http://{admin}/ shows the node live; /ready  /metrics\n");
        let top = format!("  {ingest} top --admin {admin}\n");
        (line, top + &format!("  curl http://{admin}/ready http://{admin}/metrics\n"))
    });
    let Some(token) = token else {
        return format!(
            "
  url    {url}
  token  none: sign one for the keys, issuer and audience that you gave
{admin}
Try, in another terminal:
{health}{scrapes}
"
        );
    };
    let scope = match settings.claim_match {
        ClaimMatch::Strict => "tenant dev, interaction call-1 only",
        ClaimMatch::Tenant => "tenant dev, any interaction",
        ClaimMatch::Off => "any tenant, any interaction",
    };
    let key = quoted(private);
    // Another terminal may be in another directory, and these paths are relative.
    let change_directory = format!("cd {}\n", quoted(&places.here));
    let trusted = places.load_flags();
    let played = format!(
        "run --url {url}{trusted} --key {key} --tenant {TENANT} --interaction-prefix call- \
         --calls 1 --duration 10s"
    );
    let load = match load {
        Some(load) => format!("  {load} {played}\n"),
        // A shell ignores this line if it is pasted with the others.
        None => {
            format!(
                "  # build exo-load first (cargo install --path loadtest in its sources), \
                 then: exo-load {played}\n"
            )
        }
    };
    let export = settings.data_dir.as_ref().filter(|_| !settings.no_journal).map_or(
        String::new(),
        |data_dir| {
            format!(
                "  {ingest} calls export {TENANT}/{PLAYED} --data-dir {} -o call.wav\n",
                quoted(data_dir)
            )
        },
    );
    format!(
        "
  url    {url}
  token  {token}
         good for {scope}, for 24 hours
  key    {key} (signs more tokens)
{admin}
Try, in another terminal:
  {change_directory}{health}{scrapes}{load}  {ingest} token mint --key {key} --tenant {TENANT} \
--interaction call-2
{export}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_unspecified_address_is_shown_as_a_reachable_one() {
        for (address, shown) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), shown);
        }
    }

    #[test]
    fn the_greeting_says_what_the_token_is_valid_for() {
        let address = "127.0.0.1:8443".parse().unwrap();
        let programs = [Some("exo-ingest".to_owned()), Some("cargo run -p exo-load --".to_owned())];
        let places = Places {
            node: address,
            admin: Some("127.0.0.1:9464".parse().unwrap()),
            here: "/home/a b".into(),
            has_tls: false,
            ca: None,
        };
        let text = greeting(
            &Settings::default(),
            &places,
            Path::new("exo-dev/private.pem"),
            Some("a.b.c"),
            &programs,
        );
        for words in [
            "ws://127.0.0.1:8443/v1/ingest",
            "a.b.c",
            "call-1 only",
            "curl http://127.0.0.1:8443/health",
            "-p exo-load -- run",
            "http://127.0.0.1:9464/ready",
            "  cd '/home/a b'\n  curl ",
        ] {
            assert!(text.contains(words), "{words}");
        }
        let places = Places { admin: None, ..places };
        let text = greeting(&Settings::default(), &places, Path::new("k"), None, &programs);
        assert!(!text.contains("mint") && !text.contains("/ready"), "{text}");
        let unbuilt = [programs[0].clone(), None];
        let text = greeting(&Settings::default(), &places, Path::new("k"), Some("a.b.c"), &unbuilt);
        let line = text.lines().find(|line| line.contains("exo-load run")).unwrap();
        assert!(
            line.trim_start().starts_with('#') && line.contains("cargo install --path loadtest"),
            "{line}"
        );
    }

    #[test]
    fn commands_run_as_printed() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let at = |name: &str| root.path().join(name);
        let place = |here: &str| Place {
            programs: at("target/debug"),
            here: at(here),
            path: vec![at("bin")],
        };
        // Its directory is on the PATH, but exo-load is not in it.
        assert_eq!(Place { path: vec![at("target/debug")], ..place("") }.command("exo-load"), None);
        make("bin/cargo", 0o755);
        assert_eq!(place("").command("exo-load"), None, "there is nothing to build it from");
        make("loadtest/Cargo.toml", 0o644);
        assert_eq!(place("").command("exo-load").unwrap(), "cargo run -p exo-load --");
        let elsewhere = place("")
            .cargo("exo-load")
            .map(|_| Place { here: "/".into(), ..place("") }.command("exo-load"));
        let manifest = at("Cargo.toml");
        assert_eq!(
            elsewhere.flatten().unwrap(),
            format!("cargo run --manifest-path {} -p exo-load --", manifest.display())
        );
        let release = Place { programs: at("target/release"), ..place("") };
        assert_eq!(release.command("exo-load").unwrap(), "cargo run --release -p exo-load --");
        make("bin/exo-load", 0o644);
        assert!(
            place("").command("exo-load").unwrap().starts_with("cargo"),
            "no program, only a file of that name"
        );
        make("bin/exo-load", 0o755);
        assert_eq!(place("").command("exo-load").unwrap(), "exo-load");
        // A program of this build is preferred to one that was installed earlier.
        let beside = make("target/debug/exo-load", 0o755);
        assert_eq!(place("").command("exo-load").unwrap(), "target/debug/exo-load");
        assert_eq!(place("target/debug").command("exo-load").unwrap(), "./exo-load");
        assert_eq!(place("bin").command("exo-load").unwrap(), beside.display().to_string());
        let both = Place { path: vec![at("target/debug"), at("bin")], ..place("") };
        assert_eq!(both.command("exo-load").unwrap(), "exo-load");
    }

    #[test]
    fn a_shell_reads_quoted_paths_unchanged() {
        for (path, shown) in [
            ("exo-dev/k.pem", "exo-dev/k.pem"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
