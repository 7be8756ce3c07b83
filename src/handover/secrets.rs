//! Hides secrets before something is printed: in URLs, in options of stores, in messages of
//! libraries.

#![forbid(unsafe_code)]

/// What is printed in place of a secret.
const HIDDEN: &str = "***";

/// An option whose name has one of these words holds a secret. The words are between `_`, `-` and
/// `.`, so that `token` is found in `aws_session_token`, and not in `tokenizer`.
const SECRET_WORDS: [&str; 8] =
    ["secret", "token", "password", "passphrase", "sas", "credentials", "bearer", "signature"];

/// Names that end with `key` hold a secret, unless they end with one of these.
const PUBLIC_KEYS: [&str; 3] = ["kms_key", "partition_key", "public_key"];

/// A URL without its password: `nats://user:***@host:4222`. Several may stand there, separated by
/// commas. A user without a password is hidden too, since it may be a token.
pub fn hide_in_url(url: &str) -> String {
    hide(url)
}

/// An option `KEY=VALUE`, without its value if that is a secret.
pub fn hide_in_option(option: &str) -> String {
    match option.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}={HIDDEN}"),
        Some(_) => hide(option),
        // The rest of a value with a comma.
        None => HIDDEN.to_owned(),
    }
}

/// A sentence without the passwords in its URLs, and without the signatures in their queries.
pub fn hide(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let ends = |letter: char| {
            letter.is_whitespace() || matches!(letter, '/' | '?' | '#' | ',' | '"' | '\'' | ')')
        };
        let end = after.find(ends).unwrap_or(after.len());
        rest = match after[..end].rsplit_once('@') {
            Some((user, host)) => {
                if let Some((name, _)) = user.split_once(':') {
                    shown.push_str(name);
                    shown.push(':');
                }
                shown.push_str(HIDDEN);
                shown.push('@');
                &after[end - host.len()..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    hide_queries(&shown)
}

/// Hides the values of secret parameters: `?sig=…&X-Amz-Signature=…`.
fn hide_queries(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['?', '&']) {
        let (before, after) = rest.split_at(at + 1);
        shown.push_str(before);
        let ends = |letter: char| {
            letter.is_whitespace() || matches!(letter, '&' | '#' | '"' | '\'' | ')' | ',')
        };
        let end = after.find(ends).unwrap_or(after.len());
        match after[..end].split_once('=') {
            Some((key, _)) if is_secret(key) || is_signature(key) => {
                shown.push_str(&format!("{key}={HIDDEN}"));
            }
            _ => shown.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    shown.push_str(rest);
    shown
}

fn is_signature(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key == "sig" || key.ends_with("signature")
}

/// Whether an option of this name holds a secret.
fn is_secret(key: &str) -> bool {
    // A tag is shown by the store to whoever reads it.
    let key = key.trim().to_ascii_lowercase().replace(['-', '.'], "_");
    if key.starts_with("tag_") {
        return false;
    }
    let has_word = key.split('_').any(|word| SECRET_WORDS.contains(&word));
    let is_key = ["key", "key_base64"].iter().any(|end| key.ends_with(end))
        && !PUBLIC_KEYS.iter().any(|name| key.ends_with(name));
    // Where a secret is found is none itself.
    let is_place =
        ["_file", "_path", "_uri", "_url", "_endpoint"].iter().any(|end| key.ends_with(end));
    (has_word || is_key) && !is_place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden_and_the_rest_is_not() {
        for (url, shown) in [
            ("nats://user:pass@host:4222", "nats://user:***@host:4222"),
            ("tls://token@host", "tls://***@host"),
            ("nats://u:p@a:1,nats://u:p:q@b:2", "nats://u:***@a:1,nats://u:***@b:2"),
            ("nats://u:p@ss@host", "nats://u:***@host"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("file:///var/a", "file:///var/a"),
            ("az://c/p?sv=1&sig=abc%3D&se=2", "az://c/p?sv=1&sig=***&se=2"),
            ("no url, a@b", "no url, a@b"),
        ] {
            assert_eq!(hide_in_url(url), shown);
            assert_eq!(hide_in_url(shown), shown, "it stays as it is");
        }
        let told = "cannot reach https://u:p@h/x?X-Amz-Signature=ff (timed out)";
        assert_eq!(hide(told), "cannot reach https://u:***@h/x?X-Amz-Signature=*** (timed out)");
    }

    #[test]
    fn options_that_hold_secrets_are_hidden_and_others_are_not() {
        for key in [
            "secret_access_key",
            "AWS_SECRET_ACCESS_KEY",
            "access_key_id_secret",
            "session_token",
            "aws_session_token",
            "account_key",
            "azure_storage_account_key",
            "sas_key",
            "azure_storage_sas_token",
            "client_secret",
            "bearer_token",
            "password",
            "master_key",
            "access_key",
            "google_service_account_key",
            "aws_sse_customer_key_base64",
        ] {
            assert_eq!(hide_in_option(&format!("{key}=se=cret")), format!("{key}=***"));
        }
        for option in [
            "endpoint=http://127.0.0.1:8333",
            "region=eu-central-1",
            "allow_http=true",
            "access_key_id=AKIA",
            "aws_sse_kms_key_id=arn:1",
            "storage_class=GLACIER_IR",
            "tag.token=x",
            "google_service_account_path=/k.json",
            "azure_federated_token_file=/t",
            "bucket_key_enabled=true",
        ] {
            assert_eq!(hide_in_option(option), option);
        }
        assert_eq!(hide_in_option("rest of a secret"), "***");
        assert_eq!(hide_in_option("endpoint=http://u:p@h/"), "endpoint=http://u:***@h/");
    }
}
