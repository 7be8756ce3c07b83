//! `exo-ingest keygen`: an RS256 key pair as files.
//!
//! Only this file uses the `rsa` crate, because ring cannot generate RSA keys. Nothing here signs
//! or decrypts for a peer, so the crate's timing advisory (RUSTSEC-2023-0071) does not apply. A
//! test keeps the crate out of all other files.

#![forbid(unsafe_code)]

use crate::auth::{KeyError, MintError, Signer};
use exo_output::{PRIVATE, PUBLIC};
use jsonwebtoken::jwk::JwkSet;
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLE: &str = "Example:
  exo-ingest keygen --out keys
  exo-ingest serve --jwt-key keys/public.pem --no-journal
  exo-ingest token mint --key keys/private.pem --tenant acme --interaction call-1";

/// Make an RS256 key pair: two PEM files, and the public part as a JWKS
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct KeygenArgs {
    /// Directory for private.pem, public.pem and jwks.json; created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Length of the RSA key
    #[arg(long, value_enum, default_value_t)]
    pub(crate) bits: KeyBits,
}

/// Lengths of RSA keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyBits {
    /// 2048 bits: the cheapest to verify, and secure until 2030 (NIST SP 800-57).
    #[default]
    #[value(name = "2048", help = "cheapest to verify, good until 2030")]
    Bits2048,
    /// 3072 bits.
    #[value(name = "3072", help = "good beyond 2030")]
    Bits3072,
    /// 4096 bits.
    #[value(name = "4096", help = "four times the cost of 2048 per token")]
    Bits4096,
}

impl KeyBits {
    const fn count(self) -> usize {
        match self {
            KeyBits::Bits2048 => 2048,
            KeyBits::Bits3072 => 3072,
            KeyBits::Bits4096 => 4096,
        }
    }
}

/// The files of a key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// PKCS#8, mode 0600.
    pub private: PathBuf,
    /// SPKI.
    pub public: PathBuf,
    /// The public part as a JWKS; its `kid` is the key's thumbprint (RFC 7638).
    pub jwks: PathBuf,
}

impl KeyFiles {
    /// The files of a pair in `dir`, whether they exist or not.
    pub(crate) fn in_dir(dir: &Path) -> KeyFiles {
        KeyFiles {
            private: dir.join("private.pem"),
            public: dir.join("public.pem"),
            jwks: dir.join("jwks.json"),
        }
    }

    fn paths(&self) -> [&Path; 3] {
        [&self.private, &self.public, &self.jwks]
    }
}

/// Why no key pair was made.
#[derive(Debug)]
pub enum KeygenError {
    /// A file exists already.
    Exists(PathBuf),
    /// A file or directory could not be written.
    Write(PathBuf, io::Error),
    /// The rsa crate failed.
    Generate(rsa::Error),
    /// The key cannot be encoded.
    Encode,
    /// ring does not accept the key.
    Key(KeyError),
    /// The public part of the key cannot be encoded.
    Jwk(MintError),
    /// The paths could not be printed.
    Print(io::Error),
}

/// Runs `keygen`: prints the paths to stdout, one per line.
pub fn run(args: &KeygenArgs) -> Result<(), KeygenError> {
    let files = generate_into(&args.out, args.bits)?;
    let paths: String = files.paths().iter().map(|path| format!("{}\n", path.display())).collect();
    let mut stdout = io::stdout().lock();
    match stdout.write_all(paths.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has read enough is not a failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(KeygenError::Print)?,
    }
    // If standard error is closed, there is no reader.
    let advice = "Keep private.pem where tokens are signed. Give a node public.pem or jwks.json \
                  with --jwt-key.";
    let _ = writeln!(io::stderr(), "{advice}");
    Ok(())
}

/// Makes a key pair and writes its three files into `dir`, which is created if missing. It never
/// overwrites a file, and after a failure none of the three is left.
pub fn generate_into(dir: &Path, bits: KeyBits) -> Result<KeyFiles, KeygenError> {
    let files = KeyFiles::in_dir(dir);
    // Checked here, before seconds are spent on a key. The writes also refuse existing files.
    if let Some(path) = files.paths().into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(KeygenError::Exists(path.to_owned()));
    }
    fs::create_dir_all(dir).map_err(|error| KeygenError::Write(dir.to_owned(), error))?;

    let key =
        RsaPrivateKey::new(&mut rand_core::OsRng, bits.count()).map_err(KeygenError::Generate)?;
    let private_pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeygenError::Encode)?;
    let public_pem =
        key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|_| KeygenError::Encode)?;
    // The code that will sign with the key loads it. So a key that ring would refuse never reaches
    // the disk.
    let signer = Signer::from_pem(private_pem.as_bytes()).map_err(KeygenError::Key)?;
    let jwks = JwkSet { keys: vec![signer.public_jwk().map_err(KeygenError::Jwk)?] };
    let mut jwks = serde_json::to_string_pretty(&jwks).map_err(|_| KeygenError::Encode)?;
    jwks.push('\n');

    let texts = [
        (private_pem.as_bytes(), PRIVATE),
        (public_pem.as_bytes(), PUBLIC),
        (jwks.as_bytes(), PUBLIC),
    ];
    let mut written = Vec::new();
    for (path, (text, mode)) in files.paths().into_iter().zip(texts) {
        if let Err(error) = write_new(path, text, mode) {
            for path in written {
                // Best effort: the first error is the one that matters.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        written.push(path);
    }
    Ok(files)
}

/// Creates `path`, complete or not at all. It never replaces a file and never follows a link.
fn write_new(path: &Path, text: &[u8], mode: u32) -> Result<(), KeygenError> {
    exo_output::write_new(path, text, mode).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeygenError::Exists(path.to_owned()),
        _ => KeygenError::Write(path.to_owned(), error),
    })
}

impl fmt::Display for KeygenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeygenError::Exists(path) => {
                write!(
                    f,
                    "{} exists and is not overwritten: choose another --out or move it away",
                    path.display()
                )
            }
            KeygenError::Write(path, error) => {
                write!(
                    f,
                    "cannot write {} ({error}): choose an --out you may write to",
                    path.display()
                )
            }
            KeygenError::Generate(error) => write!(f, "no key was made ({error}): try again"),
            KeygenError::Encode => f.write_str("the new key cannot be encoded: try again"),
            KeygenError::Key(error) => {
                write!(f, "the key that was made is not usable ({error}): try again")
            }
            KeygenError::Jwk(error) => {
                write!(f, "the key that was made is not usable ({error}): try again")
            }
            KeygenError::Print(error) => {
                write!(f, "cannot print the paths ({error}), but the key pair was written")
            }
        }
    }
}

impl std::error::Error for KeygenError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::KeySet;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_is_written_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("new/keys");
        let files = generate_into(&dir, KeyBits::Bits2048).expect("a pair");
        let mode = fs::metadata(&files.private).expect("private.pem").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let private = fs::read(&files.private).expect("private.pem");
        assert!(private.starts_with(b"-----BEGIN PRIVATE KEY-----"));
        for path in [&files.public, &files.jwks] {
            let keys = KeySet::parse(&fs::read(path).expect("a public file")).expect("a key");
            assert_eq!((keys.key_count(), keys.skipped().len()), (1, 0));
        }
        let jwks: serde_json::Value =
            serde_json::from_slice(&fs::read(&files.jwks).expect("jwks.json")).expect("JSON");
        let key = &jwks["keys"][0];
        assert_eq!(
            (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
            (Some("RSA"), Some("RS256"), Some("sig"))
        );
        assert_eq!(key["kid"].as_str().map(str::len), Some(43));
        assert!(key.get("d").is_none());

        let error = generate_into(&dir, KeyBits::Bits2048).expect_err("the pair exists");
        assert!(error.to_string().contains("private.pem exists"), "{error}");
        assert_eq!(fs::read(&files.private).expect("private.pem"), private);
    }

    #[test]
    fn an_existing_file_stops_it_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/nonexistent/elsewhere", dir.path().join("jwks.json"))
            .expect("a link");
        let error = generate_into(dir.path(), KeyBits::Bits2048).expect_err("jwks.json is a link");
        assert!(
            matches!(&error, KeygenError::Exists(path) if path.ends_with("jwks.json")),
            "{error}"
        );
        assert!(!dir.path().join("private.pem").exists());

        let error = generate_into(Path::new("/proc/none"), KeyBits::Bits2048)
            .expect_err("no directory can be made there");
        assert!(matches!(error, KeygenError::Write(..)), "{error}");

        let path = dir.path().join("there");
        fs::write(&path, "before").expect("a file");
        assert!(matches!(write_new(&path, b"after", 0o600), Err(KeygenError::Exists(_))));
        assert_eq!(fs::read(&path).expect("the file"), b"before");
    }
}
