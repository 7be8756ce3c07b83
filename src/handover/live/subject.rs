//! The subjects of the message engine, and how ids become parts of them.
//!
//! ```text
//! exo.audio.<slot>.<tenant>.<interaction>     audio of a call
//! exo.events.<tenant>.<interaction>           events of a call
//! ```
//! A subject has no frame numbers and no epochs: the engine keeps memory for each subject. The
//! slot spreads calls over several streams, since a stream has one leader. It is a hash of the ids,
//! so that any reader can compute it.

#![forbid(unsafe_code)]

use crate::call::CallIdentity;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What an id may hold as part of a subject. The engine gives a meaning to `.`, `*`, `>` and
/// spaces; the rest is encoded so that the subject is printable ASCII.
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Beginning of all subjects of audio.
pub(crate) const AUDIO: &str = "exo.audio";

/// Beginning of all subjects of events.
pub(crate) const EVENTS: &str = "exo.events";

/// An id as a part of a subject.
pub(crate) fn token(id: &str) -> String {
    utf8_percent_encode(id, TOKEN).to_string()
}

/// The subject for audio of a call, with this number of slots.
pub(crate) fn audio(identity: &CallIdentity, slots: u16) -> String {
    format!("{AUDIO}.{}.{}", slot(identity, slots), call(identity))
}

/// The subject for audio of a call in whichever slot.
pub(crate) fn audio_in_any_slot(identity: &CallIdentity) -> String {
    format!("{AUDIO}.*.{}", call(identity))
}

/// The subject for events of a call.
pub(crate) fn events(identity: &CallIdentity) -> String {
    format!("{EVENTS}.{}", call(identity))
}

/// The two last parts of a subject.
pub(crate) fn call(identity: &CallIdentity) -> String {
    format!("{}.{}", token(&identity.tenant), token(&identity.interaction))
}

/// The slot of a call, from 0 on.
pub(crate) fn slot(identity: &CallIdentity, slots: u16) -> u16 {
    // The upper half of the key chooses the home shard; this is a part of the lower one.
    (identity.key().record_number() % u64::from(slots.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    fn identity_of(tenant: &str, interaction: &str) -> CallIdentity {
        CallIdentity { tenant: tenant.into(), interaction: interaction.into() }
    }

    /// The call that a subject names, as a reader in another language finds it.
    fn identity(subject: &str) -> Option<CallIdentity> {
        let mut tokens = subject.rsplit('.');
        let (interaction, tenant) = (tokens.next()?, tokens.next()?);
        let decode = |token: &str| Some(percent_decode_str(token).decode_utf8().ok()?.into());
        Some(CallIdentity { tenant: decode(tenant)?, interaction: decode(interaction)? })
    }

    #[test]
    fn ids_lose_what_the_engine_gives_a_meaning() {
        let call = identity_of("acme.eu", "a b/*>é%");
        assert_eq!(events(&call), "exo.events.acme%2Eeu.a%20b%2F%2A%3E%C3%A9%25");
        assert_eq!(identity(&events(&call)), Some(call));
    }

    #[test]
    fn a_slot_depends_on_the_call_and_stays_below_their_number() {
        let call = identity_of("acme", "call-1");
        assert_eq!(slot(&call, 0), 0);
        assert_eq!(audio(&call, 1), "exo.audio.0.acme.call-1");
        let calls = (0..400).map(|number| identity_of("acme", &format!("call-{number}")));
        let mut counts = [0; 4];
        calls.for_each(|call| counts[usize::from(slot(&call, 4))] += 1);
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_id_comes_back(tenant in "\\PC{1,20}", interaction in "\\PC{1,20}") {
            let call = identity_of(&tenant, &interaction);
            let subject = audio(&call, 8);
            prop_assert_eq!(subject.split('.').count(), 5);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.%".contains(&byte);
            prop_assert!(subject.bytes().all(plain));
            prop_assert_eq!(identity(&subject), Some(call));
        }
    }
}
