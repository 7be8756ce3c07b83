//! Tokens for test nodes, and the two key pairs that sign them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use exo_ingest::auth::{Grant, KeySet, Signer, TokenPolicy, Verifier};
use exo_ingest::call::CallIdentity;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The tenant of every token that does not name another.
pub const TENANT: &str = "acme";

/// The interaction of every token that does not name another.
pub const INTERACTION: &str = "call-1";

/// A key pair of `tests/keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The pair that nodes start with.
    First,
    /// A pair for key changes.
    Second,
}

impl Keys {
    fn private_pem(self) -> &'static [u8] {
        match self {
            Keys::First => include_bytes!("../keys/first-private.pem"),
            Keys::Second => include_bytes!("../keys/second-private.pem"),
        }
    }

    /// The public part, in the form of a node's key file.
    pub fn public_pem(self) -> &'static [u8] {
        match self {
            Keys::First => include_bytes!("../keys/first-public.pem"),
            Keys::Second => include_bytes!("../keys/second-public.pem"),
        }
    }

    /// A signer with this pair.
    pub fn signer(self) -> Signer {
        Signer::from_pem(self.private_pem()).expect("a private key")
    }

    /// A verifier for this pair.
    pub fn verifier(self, policy: TokenPolicy) -> Arc<Verifier> {
        Arc::new(Verifier::new(KeySet::parse(self.public_pem()).expect("a public key"), policy))
    }

    /// A token for a call, good for an hour.
    pub fn mint(self, tenant: &str, interaction: &str) -> String {
        let identity = CallIdentity { tenant: tenant.into(), interaction: interaction.into() };
        let grant = Grant {
            identity: &identity,
            issued_at: now_secs(),
            expires_at: now_secs() + 3600,
            kid: None,
        };
        self.signer().mint(&grant).expect("a token")
    }
}

/// A good token of the first pair for a call.
pub fn mint(tenant: &str, interaction: &str) -> String {
    Keys::First.mint(tenant, interaction)
}

/// Any header and claims, with a good signature of the first pair.
pub fn sign(header: &str, claims: &str) -> String {
    let der = pem::parse(Keys::First.private_pem()).expect("a PEM");
    let pair = RsaKeyPair::from_pkcs8(der.contents()).expect("a private key");
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .expect("a signature");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Seconds since 1970.
pub fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
