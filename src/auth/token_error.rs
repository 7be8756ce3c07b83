//! Why a token was refused.

use std::fmt;

/// Declares each reason once, so that variants, labels and sentences always agree.
macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident = $label:literal: $sentence:literal, )+) => {
        /// Why a token was refused: a label for a counter, and a sentence for the operator, never
        /// for the peer. It repeats nothing of the token.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum TokenError {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl TokenError {
            /// Every reason, in the order of [`TokenError::index`].
            pub const ALL: [TokenError; TokenError::COUNT] = [$( TokenError::$name, )+];

            /// The number of reasons.
            pub(crate) const COUNT: usize = [$( $label, )+].len();

            /// Label of the reason in metrics.
            pub const fn label(self) -> &'static str {
                match self { $( TokenError::$name => $label, )+ }
            }

            const fn sentence(self) -> &'static str {
                match self { $( TokenError::$name => $sentence, )+ }
            }
        }
    };
}

reasons! {
    /// Larger than [`TOKEN_SIZE_MAX`](crate::constants::TOKEN_SIZE_MAX).
    TooLarge = "too_large": "the token is over 4 KiB: remove claims from it",
    /// Not three parts with two dots between them: JWE, JSON serialisation, or not a token at all.
    Parts = "parts": "the token is not three parts with dots between them \
                      (header.claims.signature)",
    /// A part is not base64url: a foreign character, white space, padding, or bits set after the
    /// last byte.
    Encoding = "encoding": "a part of the token is not base64url without padding",
    /// The header is not a JSON object, or `kid`, `typ`, `cty` or `b64` has a wrong type.
    Header = "header": "the token's header is not a JSON object with members of the right types",
    /// A member appears twice in the header or in the claims, at any depth.
    Duplicate = "duplicate_member": "a member appears twice in the token's header or claims",
    /// `alg` is absent, or is not `RS256`.
    Algorithm = "algorithm": "the token's alg is not RS256: sign it with RS256",
    /// `crit`, or `b64: false`: an extension that we do not know and must not ignore (RFC 7515
    /// §4.1.11, RFC 7797).
    Critical = "critical": "the token requires an extension (crit, or b64 false), and none is \
                            supported",
    /// `cty` says that the payload is another token (RFC 7519 §5.2).
    Nested = "nested": "the token holds another token (cty is JWT): send the inner one",
    /// The node has several keys, and `kid` is absent or names none of them.
    UnknownKey = "unknown_key": "the token's kid is absent or names none of the node's keys",
    /// The signature was not made by the node's key.
    Signature = "signature": "the signature does not match: the token was changed, or signed with \
                              another key",
    /// The claims are not a JSON object.
    Claims = "claims": "the token's claims are not a JSON object",
    /// `tenant_id` is absent or not a valid id.
    TenantId = "tenant_id":
        "the claim tenant_id is absent, or not a string of 1 to 256 bytes without control \
         characters",
    /// `interaction_id` is absent or not a valid id.
    InteractionId = "interaction_id":
        "the claim interaction_id is absent, or not a string of 1 to 256 bytes without control \
         characters",
    /// `iat` is absent, or not a number of at least 0.
    IssuedAt = "iat": "the claim iat is absent, or not a number of seconds since 1970",
    /// `exp` is absent, or not a number of at least 0.
    ExpiresAt = "exp": "the claim exp is absent, or not a number of seconds since 1970",
    /// `nbf` is not a number of at least 0.
    NotBefore = "nbf": "the claim nbf is not a number of seconds since 1970",
    /// `exp` has passed.
    Expired = "expired": "the token has expired: get a new one",
    /// `nbf` is in the future.
    NotYetValid = "not_yet_valid": "the token is not valid yet: its nbf is in the future (compare \
                                    the clocks)",
    /// `iat` is in the future.
    IssuedInFuture = "issued_in_future": "the token's iat is in the future (compare the clocks; \
                                          it counts seconds)",
    /// `iss` is not the required one.
    Issuer = "issuer": "the token's iss is not the issuer that this node requires",
    /// `aud` does not contain the required one.
    Audience = "audience": "the token's aud does not hold the audience that this node requires",
    /// The key may not sign for this tenant.
    TenantNotAllowed = "tenant_not_allowed": "the key that signed the token is not allowed to \
                                              sign for this tenant",
}

impl TokenError {
    /// Index in [`TokenError::ALL`], for an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.sentence())
    }
}

impl std::error::Error for TokenError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reasons_are_in_order_and_have_labels() {
        for (position, reason) in TokenError::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert!(
                reason.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{reason:?}"
            );
            assert!(reason.to_string().len() > 20, "{reason:?}");
        }
        let labels: HashSet<_> = TokenError::ALL.into_iter().map(TokenError::label).collect();
        assert_eq!(labels.len(), TokenError::COUNT);
    }
}
