#![forbid(unsafe_code)]
//! `exo-ingest dev`: a local node in one command, with keys and a token made for it.

use super::Failure;
use super::flags::SettingFlags;
use super::keygen::{KeyBits, KeyFiles, generate_into};
use super::launch::{self, Launch};
use crate::auth::{Grant, Signer};
use crate::call::CallIdentity;
use crate::config::settings::Settings;
use crate::session::ingest::ClaimMatch;
use clap::Args;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Run a local node to try things with: makes keys on first use and prints a token
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DevArgs {
    /// Directory for the keys; made on first use
    #[arg(long, value_name = "DIR", default_value = "exo-dev")]
    dir: PathBuf,
    #[command(flatten)]
    flags: SettingFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest dev
  exo-ingest dev --listen 127.0.0.1:0 --dir /tmp/exo-dev

Unless told otherwise, dev listens on 127.0.0.1:8443, runs one reactor with a small frame ring, keeps audio in memory \
only (--no-journal), runs without registered memory where locked memory is short (--allow-unregistered), drains for \
2 seconds, and compares only the tenant of token and start (--claim-match tenant), so that the one token it prints \
plays as many calls as you like. `serve` compares the interaction as well.";

/// The tenant of the token that is printed.
const TENANT: &str = "dev";

/// Its interaction.
const INTERACTION: &str = "call-1";

/// How long it is good for: a day of trying things.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A dev node has a few calls, and leaves the machine its memory.
const RING_SIZE: &str = "16MiB";

/// Makes what is missing, serves until a signal ends it.
pub(super) fn dev(args: &DevArgs) -> Result<(), Failure> {
    let KeyFiles { private, public, .. } = KeyFiles::in_dir(&args.dir);
    let command = vec![
        ("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)).to_string()),
        ("jwt.key", public.display().to_string()),
        ("claim_match", "tenant".into()),
        ("shards", "1".into()),
        ("no_journal", "true".into()),
        ("drain", "2s".into()),
        ("allow_unregistered", "true".into()),
        ("limits.ring_size", RING_SIZE.into()),
    ];
    let mut config = args.flags.load("dev", command)?;
    launch::require_supported(&config)?;
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
    let text = greeting(&config.settings, reachable(launch.address()), &private, token.as_deref());
    // Whoever closed standard error does not want to read it.
    let _ = std::io::stderr().write_all(text.as_bytes());
    launch.run()
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

/// What a person reads who has just started it.
fn greeting(settings: &Settings, address: SocketAddr, private: &Path, token: Option<&str>) -> String {
    let url = format!("ws://{address}/v1/ingest");
    let Some(token) = token else {
        return format!(
            "
  url    {url}
  token  none: sign one that fits the keys, issuer and audience you gave

Try, in another terminal:
  curl http://{address}/health

"
        );
    };
    let scope = match settings.claim_match {
        ClaimMatch::Strict => "tenant dev, interaction call-1 only",
        ClaimMatch::Tenant => "tenant dev, any interaction",
        ClaimMatch::Off => "any tenant, any interaction",
    };
    let key = private.display();
    format!(
        "
  url    {url}
  token  {token}
         good for {scope}, for 24 hours
  key    {key} (signs more tokens)

Try, in another terminal:
  curl http://{address}/health
  exo-load run --url {url} --key {key} --calls 1 --duration 10s
  exo-ingest token mint --key {key} --tenant {TENANT} --interaction call-2

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
        let text = greeting(&Settings::default(), address, Path::new("exo-dev/private.pem"), Some("a.b.c"));
        for words in
            ["ws://127.0.0.1:8443/v1/ingest", "a.b.c", "call-1 only", "curl http://127.0.0.1:8443/health", "exo-load run"]
        {
            assert!(text.contains(words), "{words}");
        }
        assert!(!greeting(&Settings::default(), address, Path::new("k"), None).contains("mint"));
    }
}
