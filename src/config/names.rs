#![forbid(unsafe_code)]
//! Finds settings by the names that an operator writes, and suggests one for an unknown name.

use super::settings::{SETTINGS, Setting, variable};

/// The setting with this `name`, which is its key or its alias.
pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == name || setting.alias().as_deref() == Some(name))
}

/// The setting whose variable is `name`, made from its key or its alias.
pub(super) fn find_variable(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| {
        setting.variable() == name || setting.alias().is_some_and(|alias| variable(&alias) == name)
    })
}

/// The key or alias, passed through `spell`, that is most similar to `name`, if any is.
pub(super) fn suggest(name: &str, spell: fn(&str) -> String) -> Option<String> {
    let names = SETTINGS
        .iter()
        .flat_map(|setting| [Some(setting.key.to_owned()), setting.alias()])
        .flatten();
    let scored = names.map(|candidate| spell(&candidate)).map(|candidate| {
        // Winkler's bonus for a common start would make every `limits.` key suggest every other
        // one.
        (strsim::normalized_damerau_levenshtein(name, &candidate), candidate)
    });
    scored
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
