//! The name of a call on the command line: `TENANT/INTERACTION`, or two flags.

#![forbid(unsafe_code)]

use super::Failure;
use crate::call::{CallIdentity, valid_id};
use clap::Args;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Characters that are encoded in `TENANT/INTERACTION`: those with another meaning there or for a
/// shell.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'$')
    .add(b'%')
    .add(b'&')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'/')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b'`')
    .add(b'|')
    .add(b'!');

/// Name of a call.
#[derive(Debug, Args)]
pub(in crate::cli) struct CallName {
    /// The call, as `calls list` shows it; write a `/` within an id as %2F
    #[arg(
        value_name = "TENANT/INTERACTION",
        required_unless_present_all = ["tenant", "interaction"]
    )]
    call: Option<String>,
    /// The tenant without encoding, instead of TENANT/INTERACTION
    #[arg(long, value_name = "T", requires = "interaction", conflicts_with = "call")]
    tenant: Option<String>,
    /// The interaction without encoding
    #[arg(long, value_name = "I", requires = "tenant")]
    interaction: Option<String>,
}

impl CallName {
    /// The ids that were given.
    pub(in crate::cli) fn identity(&self) -> Result<CallIdentity, Failure> {
        match (&self.call, &self.tenant, &self.interaction) {
            (Some(call), ..) => parse(call),
            (None, Some(tenant), Some(interaction)) => {
                identity(tenant.clone(), interaction.clone())
            }
            _ => Err(Failure::Usage(
                "name the call: TENANT/INTERACTION, or --tenant and --interaction".into(),
            )),
        }
    }
}

/// The call of `TENANT/INTERACTION`.
pub(in crate::cli) fn parse(call: &str) -> Result<CallIdentity, Failure> {
    let (tenant, interaction) = split(call)?;
    identity(tenant, interaction)
}

/// An error for an id that no call has.
pub(super) const BAD_ID: &str = "an id has 1 to 256 bytes and no control characters; `exo-ingest \
                                 calls list` shows them";

/// The ids as those of a call, if they can be that.
pub(super) fn identity(tenant: String, interaction: String) -> Result<CallIdentity, Failure> {
    if !valid_id(&tenant) || !valid_id(&interaction) {
        return Err(Failure::Usage(BAD_ID.into()));
    }
    Ok(CallIdentity { tenant: tenant.into(), interaction: interaction.into() })
}

/// The two ids in `TENANT/INTERACTION`.
pub(super) fn split(call: &str) -> Result<(String, String), Failure> {
    let usage = || {
        Failure::Usage(format!(
            "{call:?} does not name a call: write TENANT/INTERACTION with a / within an id as \
             %2F, or use --tenant and --interaction"
        ))
    };
    let (tenant, interaction) = call
        .split_once('/')
        .filter(|(_, interaction)| !interaction.contains('/'))
        .ok_or_else(usage)?;
    let decoded = |id| percent_decode_str(id).decode_utf8().map(|id| id.into_owned());
    match (decoded(tenant), decoded(interaction)) {
        (Ok(tenant), Ok(interaction)) => Ok((tenant, interaction)),
        _ => Err(usage()),
    }
}

/// The name, as commands accept it.
pub(in crate::cli) fn display(identity: &CallIdentity) -> String {
    format!("{}/{}", encoded(&identity.tenant), encoded(&identity.interaction))
}

/// An id without characters that have another meaning in names, in paths, or for a shell. Letters
/// of other scripts stay readable, because a shell takes them as they are.
pub(crate) fn encoded(id: &str) -> String {
    let mut buffer = [0; 4];
    id.chars().fold(String::new(), |mut text, letter| {
        match letter.is_ascii() {
            true => text.extend(utf8_percent_encode(letter.encode_utf8(&mut buffer), ENCODED)),
            false => text.push(letter),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(call: &str) -> Result<CallIdentity, Failure> {
        CallName { call: Some(call.into()), tenant: None, interaction: None }.identity()
    }

    #[test]
    fn the_shown_name_is_accepted() {
        for (tenant, interaction) in [
            ("acme", "call-1"),
            ("a/b", "c/d/e"),
            ("100%", "%2F"),
            ("Zürich ☎", "a b"),
            ("a", "2026-01-01T10:00:00+01:00"),
        ] {
            let identity = CallIdentity { tenant: tenant.into(), interaction: interaction.into() };
            assert_eq!(name(&display(&identity)).unwrap(), identity, "{}", display(&identity));
        }
        let identity = CallIdentity { tenant: "Zürich".into(), interaction: "a/b c".into() };
        assert_eq!(display(&identity), "Zürich/a%2Fb%20c");
    }

    #[test]
    fn errors_of_names_say_what_to_write() {
        for call in [
            "acme",
            "acme/a/b",
            "",
            "/",
            "acme/",
            "/x",
            "acme/%00",
            "acme/%FF",
            &format!("a/{}", "x".repeat(257)),
        ] {
            let failure = name(call).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{call}");
        }
        assert!(name("a/b/c").unwrap_err().to_string().contains("%2F"));
    }
}
