//! Keys and certificates: whether a node can use them, and for how long.

use super::check::{Check, Severity, Source, Topic};
use crate::tls::certificate::KeyKind;
use crate::tls::load::LoadedCertificate;
use std::path::PathBuf;

static TOKEN_KEYS: Topic = Topic {
    id: "keys.tokens",
    severity: Severity::Fatal,
    condition: "The file of token keys can be read, and has a key that can be used",
    why: "A node without a key admits no call, and serve does not start.",
    by_hand: "exo-ingest serve --check …   (the line token keys)",
    fix: "give --jwt-key a PEM or JWKS file; `exo-ingest keygen` makes one",
    reference: "docs/configuration.md, Keys and tokens",
    source: Source::Node(
        "src/control/mod.rs",
        "`serve` reads the file in the same way, and does not start without a key",
    ),
};

static TLS_FILES: Topic = Topic {
    id: "tls.files",
    severity: Severity::Fatal,
    condition: "Certificates and keys can be read, and belong together",
    why: "Otherwise serve does not start.",
    by_hand: "exo-ingest serve --check …   (the lines TLS and certificate)",
    fix: "give --tls-cert the chain of the server, and --tls-key its key",
    reference: "docs/configuration.md, TLS",
    source: Source::Node(
        "src/tls/load.rs",
        "`serve` reads the files in the same way, and does not start if they do not belong \
         together",
    ),
};

static EXPIRY: Topic = Topic {
    id: "tls.expiry",
    severity: Severity::Warning,
    condition: "Each certificate is valid now, and for two weeks more",
    why: "Clients refuse an expired certificate, and so all new calls fail.",
    by_hand: "openssl x509 -in CERT -noout -dates",
    fix: "renew the certificate and replace the file: the node reads it by itself",
    reference: "docs/operations.md, TLS",
    source: Source::Choice(
        "because certificates of 90 days are usually renewed 30 days before they expire: with two \
         weeks left, a renewal has failed. src/control/expiry.rs has the same two weeks",
    ),
};

static KEY_KIND: Topic = Topic {
    id: "tls.key_kind",
    severity: Severity::Info,
    condition: "The keys of the certificates are ECDSA P-256",
    why: "A full TLS 1.3 handshake took 921 µs of CPU with RSA-2048. When all clients connect \
          again, a core then takes 1,085 of them a second.",
    by_hand: "openssl x509 -in CERT -noout -text | grep 'Public Key Algorithm'",
    fix: "ask for a certificate with an ECDSA P-256 key",
    reference: "docs/performance/b564169.md; docs/configuration.md, TLS",
    source: Source::Measured(
        "docs/performance/b564169.md",
        "CPU time of a full handshake with P-256 and with RSA-2048",
    ),
};

static KEY_MODE: Topic = Topic {
    id: "tls.key_mode",
    severity: Severity::Warning,
    condition: "Only the owner can read the private keys",
    why: "Whatever reads the key can pass for this node.",
    by_hand: "stat -c '%a %U %n' KEY",
    fix: "chmod 0600 KEY",
    reference: "docs/configuration.md, TLS",
    source: Source::Choice(
        "because a private key that others can read is no secret. A key from systemd's credentials \
         or a secret mount passes, as it has such a mode",
    ),
};

pub(super) static TOPICS: [&Topic; 5] = [&TOKEN_KEYS, &TLS_FILES, &EXPIRY, &KEY_KIND, &KEY_MODE];

const DAY_SECS: u64 = 24 * 60 * 60;

/// As the node's own warnings: see `src/control/expiry.rs`.
const NOTICE_DAYS: u64 = 14;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileFacts {
    /// How many keys are used, or why the file is refused. `None`: not given or not read.
    pub(crate) token_keys: Option<Result<usize, String>>,
    /// The certificates, or why they are refused. `None`: no TLS, or not read.
    pub(crate) certificates: Option<Result<Vec<LoadedCertificate>, String>>,
    /// Files with private keys, and their modes.
    pub(crate) secrets: Vec<(PathBuf, u32)>,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

pub(super) fn checks(facts: &FileFacts) -> Vec<Check> {
    vec![token_keys(facts), tls_files(facts), expiry(facts), key_kind(facts), key_mode(facts)]
}

fn token_keys(facts: &FileFacts) -> Check {
    let check = Check::of(&TOKEN_KEYS).required("at least 1 key");
    match &facts.token_keys {
        None => check.skipped("give --jwt-key FILE to look at it"),
        Some(Ok(count)) => check.current(format!("{count} used")).holds(*count > 0),
        Some(Err(error)) => check.current("refused").fix(error).holds(false),
    }
}

const NO_TLS: &str = "there is no TLS: give --tls-cert and --tls-key to look at them";

fn tls_files(facts: &FileFacts) -> Check {
    let check = Check::of(&TLS_FILES).required("valid");
    match &facts.certificates {
        None => check.skipped(NO_TLS),
        Some(Ok(found)) => {
            let names: Vec<String> = found.iter().map(|it| it.certificate.label()).collect();
            check.current(names.join(", ")).holds(true)
        }
        Some(Err(error)) => check.current("refused").fix(error).holds(false),
    }
}

/// Ends a check with the certificates, at least one, or skips it.
fn judged(
    facts: &FileFacts,
    check: Check,
    judge: impl FnOnce(&[LoadedCertificate], Check) -> Check,
) -> Check {
    match &facts.certificates {
        Some(Ok(found)) if !found.is_empty() => judge(found, check),
        Some(Err(_)) => check.skipped("the certificates are refused"),
        _ => check.skipped(NO_TLS),
    }
}

fn expiry(facts: &FileFacts) -> Check {
    let check = Check::of(&EXPIRY).required(format!("{NOTICE_DAYS} days"));
    judged(facts, check, |certificates, check| {
        let invalid = certificates
            .iter()
            .map(|it| &it.certificate)
            .find(|it| !(it.not_before..=it.not_after).contains(&facts.now));
        if let Some(it) = invalid {
            let word = if facts.now < it.not_before { "is not valid yet" } else { "has expired" };
            let current = format!("{} {word}", it.label());
            return check.current(current).severity(Severity::Fatal).holds(false);
        }
        let left = |it: &LoadedCertificate| (it.certificate.not_after - facts.now) / DAY_SECS;
        match certificates.iter().min_by_key(|it| left(it)) {
            None => check.skipped(NO_TLS),
            Some(next) => check
                .current(format!("{} days ({})", left(next), next.certificate.label()))
                .holds(left(next) >= NOTICE_DAYS),
        }
    })
}

fn key_kind(facts: &FileFacts) -> Check {
    let check = Check::of(&KEY_KIND).required("P-256");
    judged(facts, check, |certificates, check| {
        let mut certificates = certificates.iter().map(|it| &it.certificate);
        match certificates.find(|it| it.key_kind != KeyKind::P256) {
            None => check.current("P-256").holds(true),
            Some(it) => {
                check.current(format!("{} ({})", it.key_kind.name(), it.label())).holds(false)
            }
        }
    })
}

fn key_mode(facts: &FileFacts) -> Check {
    let mut check = Check::of(&KEY_MODE).required("0600");
    if facts.secrets.is_empty() {
        return check.skipped(NO_TLS);
    }
    let open: Vec<_> = facts.secrets.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    for (path, _) in &open {
        let quoted = path.display().to_string().replace('\'', "'\\''");
        check = check.fixed_by(format!("chmod 0600 '{quoted}'"));
    }
    match open.first() {
        None => check.current("0600").holds(true),
        Some((path, mode)) => {
            check.current(format!("{:04o} {}", mode & 0o7777, path.display())).holds(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};
    use crate::tls::certificate::Certificate;

    fn certificate(kind: KeyKind) -> LoadedCertificate {
        let der = exo_ingest_harness::certificates::named("exo", &["exo.example"], &[]);
        let mut certificate = Certificate::parse(&der).unwrap();
        (certificate.not_before, certificate.not_after) = (1_000 * DAY_SECS, 1_090 * DAY_SECS);
        certificate.key_kind = kind;
        LoadedCertificate { path: "exo.pem".into(), certificate }
    }

    fn good(day: u64) -> FileFacts {
        FileFacts {
            token_keys: Some(Ok(1)),
            certificates: Some(Ok(vec![certificate(KeyKind::P256)])),
            secrets: vec![("key.pem".into(), 0o100_600)],
            now: day * DAY_SECS,
        }
    }

    #[test]
    fn each_check_passes_and_fails() {
        for topic in TOPICS {
            assert_passes(checks(&good(1_010)), topic.id);
            assert_skips(checks(&FileFacts::default()), topic.id);
        }
        let refused = FileFacts {
            token_keys: Some(Err("it holds no key".into())),
            certificates: Some(Err("it is not PEM".into())),
            secrets: vec![("it's.pem".into(), 0o100_644)],
            ..good(1_010)
        };
        for id in ["keys.tokens", "tls.files", "tls.key_mode"] {
            assert_fails(checks(&refused), id);
        }
        let check = find(checks(&refused), "tls.key_mode");
        assert_eq!(check.commands, [r"chmod 0600 'it'\''s.pem'"]);
        let rsa = Some(Ok(vec![certificate(KeyKind::Rsa)]));
        assert_fails(checks(&FileFacts { certificates: rsa, ..good(1_010) }), "tls.key_kind");
        let severity = |day| {
            let check = find(checks(&good(day)), "tls.expiry");
            [Severity::Warning, Severity::Fatal].into_iter().find(|it| check.has_failed(*it))
        };
        assert_eq!(severity(1_076), None, "14 days are left");
        assert_eq!(severity(1_077), Some(Severity::Warning));
        assert_eq!(severity(1_091), Some(Severity::Fatal), "expired");
        assert_eq!(severity(999), Some(Severity::Fatal), "not valid yet");
    }
}
