//! Who the node is for the engine: from a file, or from the URL.
//!
//! The file is read again for each connection. So credentials can be changed while a node runs: the
//! engine closes the connections of the old ones, and the client comes back with the new ones.

#![forbid(unsafe_code)]

use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use std::path::Path;

/// Around the token and the key of a `.creds` file are lines that begin like this.
const RULE: &str = "---";

/// What proves who a client is.
#[derive(PartialEq, Eq)]
enum Credentials {
    /// A token of NATS for a user, and the seed of the user's key.
    User {
        jwt: String,
        seed: String,
    },
    Password {
        user: String,
        password: String,
    },
}

/// Options with the credentials of a file, or of the first address that has them.
pub(super) fn options(
    file: Option<&Path>,
    addresses: &[ServerAddr],
) -> Result<ConnectOptions, String> {
    let Some(path) = file else {
        for address in addresses {
            if let Some((user, password)) = of_address(address)? {
                return Ok(ConnectOptions::with_user_and_password(user, password));
            }
        }
        return Ok(ConnectOptions::new());
    };
    // What is wrong with the file is told before there is a connection.
    read(path)?;
    let path = path.to_owned();
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let auth = read(&path).and_then(|credentials| credentials.auth(&nonce));
        async move { auth.map_err(AuthError::new) }
    }))
}

fn read(path: &Path) -> Result<Credentials, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the credentials {}: {error}", path.display()))?;
    parse(&text).ok_or_else(|| {
        format!(
            "{} holds no credentials: they are a .creds file of NATS, or one line USER:PASSWORD",
            path.display()
        )
    })
}

/// The credentials in the text of a file.
fn parse(text: &str) -> Option<Credentials> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let [line] = lines[..] {
        let (user, password) = line.split_once(':')?;
        return Some(Credentials::Password { user: user.into(), password: password.into() });
    }
    // What stands between two rules: first the token, then the seed.
    let is_rule = |line: &str| line.starts_with(RULE);
    let mut between = lines
        .windows(3)
        .filter(|lines| is_rule(lines[0]) && !is_rule(lines[1]) && is_rule(lines[2]));
    let (jwt, seed) = (between.next()?[1], between.next()?[1]);
    nkeys::KeyPair::from_seed(seed).ok()?;
    Some(Credentials::User { jwt: jwt.into(), seed: seed.into() })
}

/// The user and password in an address: `nats://USER:PASSWORD@HOST`.
fn of_address(address: &ServerAddr) -> Result<Option<(String, String)>, String> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match (address.username(), address.password()) {
        (None, _) => Ok(None),
        (Some(user), Some(password)) => Ok(Some((decoded(user), decoded(password)))),
        (Some(_), None) => Err("the URL has a user without a password: write \
             nats://USER:PASSWORD@HOST, or name a file with --credentials (for serve: \
             live.credentials)"
            .into()),
    }
}

impl Credentials {
    /// What the engine gets, signed for this connection.
    fn auth(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Credentials::User { jwt, seed } => {
                let key = nkeys::KeyPair::from_seed(seed).map_err(|error| error.to_string())?;
                auth.signature = Some(key.sign(nonce).map_err(|error| error.to_string())?);
                auth.jwt = Some(jwt.clone());
            }
            Credentials::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
        }
        Ok(auth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> String {
        nkeys::KeyPair::new_user().seed().unwrap()
    }

    #[test]
    fn a_file_of_nats_has_a_token_and_a_key() {
        let seed = seed();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\r\neyJ0.x-y_z.q\r\n------END NATS USER JWT------\r\n\r\n\
             *** IMPORTANT ***\nNKEYs are sensitive.\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n\
             ------END USER NKEY SEED------\n\n****\n"
        );
        let parsed = parse(&text).unwrap();
        assert!(parsed == Credentials::User { jwt: "eyJ0.x-y_z.q".into(), seed: seed.clone() });
        let auth = parsed.auth(b"nonce").unwrap();
        let key = nkeys::KeyPair::from_seed(&seed).unwrap();
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        assert!(parse(&text.replace(&seed, "SUAnothing")).is_none());
    }

    #[test]
    fn one_line_is_a_user_and_a_password() {
        let expected = Credentials::Password { user: "exo".into(), password: "a:b c".into() };
        assert!(parse("exo:a:b c\n").unwrap() == expected);
        for text in ["", "\n", "exo\n", "a:b\nc:d\n"] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn an_address_has_a_user_and_a_password() {
        let of = |text: &str| of_address(&text.parse().unwrap());
        let expected = Ok(Some(("exo".to_owned(), "a@b/c".to_owned())));
        assert_eq!(of("nats://exo:a%40b%2Fc@host:4222"), expected);
        assert!(of("tls://s3cret@host").unwrap_err().contains("without a password"));
        assert_eq!(of("nats://host"), Ok(None));
    }
}
