//! `exo-ingest token mint` and `token verify`.

#![forbid(unsafe_code)]

use crate::auth::{
    Claims, Grant, KeyError, KeySet, MintError, Signer, TokenError, TokenPolicy, Verifier,
};
use crate::call::CallIdentity;
use crate::clock::UnixMicros;
use crate::constants::TOKEN_SIZE_MAX;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MINT_EXAMPLE: &str = "Example:
  JWT_TOKEN=$(exo-ingest token mint --key keys/private.pem \\
    --tenant acme --interaction call-1 --ttl 8h)";

const VERIFY_EXAMPLE: &str = "Example:
  exo-ingest token verify --jwt-key keys/public.pem \"$JWT_TOKEN\"
  echo \"$JWT_TOKEN\" | exo-ingest token verify --jwt-key keys/jwks.json -";

/// Bytes to read of a key file: one more than the largest JWKS, so that a larger file is detected.
const KEY_FILE_READ_MAX: u64 = 1024 * 1024 + 1;

/// Bytes to read from standard input: enough for a token of the largest size, one more byte, and
/// white space around it.
const STDIN_READ_MAX: u64 = 2 * TOKEN_SIZE_MAX as u64;

/// Mint and check tokens
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Sign a token and print it
    Mint(MintArgs),
    /// Check a token as a node would: prints its claims as JSON, or fails with the reason and exit
    /// status 1
    Verify(VerifyArgs),
}

/// Arguments of `token mint`.
#[derive(Debug, clap::Args)]
#[command(after_help = MINT_EXAMPLE)]
pub(crate) struct MintArgs {
    /// Private key as PEM (PKCS#8 or PKCS#1)
    #[arg(long, value_name = "PRIVATE.pem")]
    pub(crate) key: PathBuf,
    /// The claim tenant_id
    #[arg(long, value_name = "T")]
    pub(crate) tenant: String,
    /// The claim interaction_id
    #[arg(long, value_name = "I")]
    pub(crate) interaction: String,
    /// How long the token is valid, from now
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    pub(crate) ttl: Duration,
    /// Name of the key (kid), for nodes that have several
    #[arg(long, value_name = "K")]
    pub(crate) kid: Option<String>,
}

/// Arguments of `token verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = VERIFY_EXAMPLE)]
pub(crate) struct VerifyArgs {
    /// The node's key file: a PEM public key or a JWKS
    #[arg(long, value_name = "FILE", env = "EXO_INGEST_JWT_KEY")]
    pub(crate) jwt_key: PathBuf,
    /// The required issuer (iss)
    #[arg(long, value_name = "ISS", env = "EXO_INGEST_JWT_ISSUER")]
    pub(crate) jwt_issuer: Option<String>,
    /// The required audience (aud)
    #[arg(long, value_name = "AUD", env = "EXO_INGEST_JWT_AUDIENCE")]
    pub(crate) jwt_audience: Option<String>,
    /// Clock tolerance for exp, nbf and iat
    #[arg(long, value_name = "TIME", env = "EXO_INGEST_JWT_LEEWAY", default_value = "5s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) jwt_leeway: Duration,
    /// The token; read from standard input if it is `-` or absent
    #[arg(value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

/// Why a `token` command failed.
#[derive(Debug)]
pub(crate) enum TokenCommandError {
    /// The key file could not be read.
    Read(PathBuf, io::Error),
    /// The key file was refused.
    Key(PathBuf, KeyError),
    /// The token was not signed.
    Mint(MintError),
    /// Standard input could not be read.
    Stdin(io::Error),
    /// The token is not valid.
    Token(TokenError),
    /// Standard output could not be written.
    Print(io::Error),
}

/// Runs a `token` command: prints the token, or its claims, to stdout.
pub(crate) fn run(command: &TokenCommand) -> Result<(), TokenCommandError> {
    let line = match command {
        TokenCommand::Mint(args) => mint(args, now())?,
        TokenCommand::Verify(args) => verify(args, &mut io::stdin().lock(), now())?,
    };
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        // A reader that has read enough is not a failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(TokenCommandError::Print),
    }
}

fn mint(args: &MintArgs, now: UnixMicros) -> Result<String, TokenCommandError> {
    let text = read_key_file(&args.key)?;
    let signer =
        Signer::from_pem(&text).map_err(|error| TokenCommandError::Key(args.key.clone(), error))?;
    let identity = CallIdentity {
        tenant: args.tenant.as_str().into(),
        interaction: args.interaction.as_str().into(),
    };
    let issued_at = now.as_secs();
    let expires_at = issued_at.saturating_add(args.ttl.as_secs());
    let grant = Grant { identity: &identity, issued_at, expires_at, kid: args.kid.as_deref() };
    signer.mint(&grant).map_err(TokenCommandError::Mint)
}

fn verify(
    args: &VerifyArgs,
    stdin: &mut dyn Read,
    now: UnixMicros,
) -> Result<String, TokenCommandError> {
    let text = read_key_file(&args.jwt_key)?;
    let keys = KeySet::parse(&text)
        .map_err(|error| TokenCommandError::Key(args.jwt_key.clone(), error))?;
    for key in keys.skipped().iter().filter(|key| key.is_faulty()) {
        // If standard error is closed, there is no reader.
        let _ = writeln!(io::stderr(), "note: {key}");
    }
    let token = match args.token.as_deref() {
        None | Some("-") => read_token(stdin)?,
        Some(token) => token.to_owned(),
    };
    let policy = TokenPolicy {
        issuer: args.jwt_issuer.clone(),
        audience: args.jwt_audience.clone(),
        leeway: args.jwt_leeway,
    };
    let claims =
        Verifier::new(keys, policy).verify(&token, now).map_err(TokenCommandError::Token)?;
    Ok(claims_json(&claims))
}

fn claims_json(claims: &Claims) -> String {
    serde_json::json!({
        "tenant_id": claims.identity.tenant,
        "interaction_id": claims.identity.interaction,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
    })
    .to_string()
}

fn read_key_file(path: &Path) -> Result<Vec<u8>, TokenCommandError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEY_FILE_READ_MAX).read_to_end(&mut text))
        .map_err(|error| TokenCommandError::Read(path.to_owned(), error))?;
    Ok(text)
}

/// Reads a token, without the line end that `echo` and editors add.
fn read_token(stdin: &mut dyn Read) -> Result<String, TokenCommandError> {
    let mut text = Vec::new();
    stdin.take(STDIN_READ_MAX).read_to_end(&mut text).map_err(TokenCommandError::Stdin)?;
    match std::str::from_utf8(text.trim_ascii()) {
        Ok(token) => Ok(token.to_owned()),
        Err(_) => Err(TokenCommandError::Token(TokenError::Encoding)),
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl >= Duration::from_secs(1) => Ok(ttl),
        Ok(_) => Err("a token must be valid for at least 1s".to_owned()),
        Err(error) => Err(format!("{error}; write a time such as 90s, 15m or 1h")),
    }
}

fn now() -> UnixMicros {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
}

impl fmt::Display for TokenCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenCommandError::Read(path, error) => {
                write!(
                    f,
                    "cannot read the key file {} ({error}): name a file you may read",
                    path.display()
                )
            }
            TokenCommandError::Key(path, error) => write!(f, "{}: {error}", path.display()),
            TokenCommandError::Mint(error) => error.fmt(f),
            TokenCommandError::Stdin(error) => {
                write!(f, "cannot read the token from standard input ({error})")
            }
            TokenCommandError::Token(error) => error.fmt(f),
            TokenCommandError::Print(error) => {
                write!(f, "cannot write to standard output ({error})")
            }
        }
    }
}

impl std::error::Error for TokenCommandError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::keygen::{KeyBits, generate_into};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: TokenCommand,
    }

    fn mint_args(arguments: &[&str]) -> Result<MintArgs, clap::Error> {
        match Cli::try_parse_from(
            [&["token", "mint", "--tenant", "acme", "--interaction", "call/1"], arguments].concat(),
        )? {
            Cli { command: TokenCommand::Mint(args) } => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn verify_args(arguments: &[&str]) -> VerifyArgs {
        match Cli::try_parse_from([&["token", "verify"], arguments].concat()).expect("arguments") {
            Cli { command: TokenCommand::Verify(args) } => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_minted_token_verifies_until_it_expires() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = generate_into(dir.path(), KeyBits::Bits2048).expect("a pair");
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (private, public, jwks) =
            (path(&files.private), path(&files.public), path(&files.jwks));
        let issued = UnixMicros(1_700_000_000_400_000);
        let token =
            mint(&mint_args(&["--key", &private, "--ttl", "10m"]).expect("arguments"), issued)
                .expect("a token");

        let expected =
            r#"{"exp":1700000600,"iat":1700000000,"interaction_id":"call/1","tenant_id":"acme"}"#;
        let args = verify_args(&["--jwt-key", &public, &token]);
        assert_eq!(verify(&args, &mut io::empty(), issued).expect("claims"), expected);
        for arguments in [&["--jwt-key", &jwks][..], &["--jwt-key", &jwks, "-"]] {
            let piped = format!("{token}\n");
            assert_eq!(
                verify(&verify_args(arguments), &mut piped.as_bytes(), issued).expect("claims"),
                expected
            );
        }
        let late = UnixMicros(1_700_000_605_000_000);
        assert!(verify(&args, &mut io::empty(), UnixMicros(late.0 - 1)).is_ok());
        let error = verify(&args, &mut io::empty(), late).expect_err("it has expired");
        assert_eq!(error.to_string(), "the token has expired: get a new one");
        let args = verify_args(&["--jwt-key", &public, "--jwt-issuer", "us", &token]);
        assert!(matches!(
            verify(&args, &mut io::empty(), issued),
            Err(TokenCommandError::Token(TokenError::Issuer))
        ));
        let args = verify_args(&["--jwt-key", &private, &token]);
        let error = verify(&args, &mut io::empty(), issued).expect_err("a private key");
        assert!(error.to_string().contains("give the public key"), "{error}");
        let error = mint(&mint_args(&["--key", &public]).expect("arguments"), issued)
            .expect_err("a public key");
        assert!(error.to_string().contains("give the private one"), "{error}");
    }

    #[test]
    fn errors_name_the_fault_in_the_input() {
        let args = verify_args(&["--jwt-key", "/nonexistent/key.pem", "x"]);
        let error = verify(&args, &mut io::empty(), UnixMicros(0)).expect_err("no such file");
        assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
        assert!(matches!(
            read_token(&mut &b"\xff"[..]),
            Err(TokenCommandError::Token(TokenError::Encoding))
        ));
        assert!(
            read_token(&mut io::repeat(b'x')).expect("as much as is read").len() > TOKEN_SIZE_MAX
        );
        assert_eq!(mint_args(&["--key", "k"]).expect("the default").ttl, Duration::from_secs(3600));
        for ttl in ["0s", "1", "-1h", "500ms", "1x", "99999999999999999999y"] {
            assert!(mint_args(&["--key", "k", "--ttl", ttl]).is_err(), "{ttl}");
        }
    }
}
