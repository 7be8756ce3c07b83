#![forbid(unsafe_code)]
//! Structs of settings. Each setting is declared once, in a row with its field, its default, its
//! names, its format, its help, and whether a reload changes it. The struct stands in the room that
//! uses it. `config` makes the table of all settings from the same rows.
//!
//! So the rows are a macro that gives them to another macro:
//!
//! ```text
//!   limit_settings! ──rows──► settings_struct!   here: the struct and its defaults
//!                   └─rows──► settings_rows!     in config/settings.rs: everything else
//! ```
//!
//! A row has these parts. The flag and `reloadable` may be absent. The format is a constant of
//! `config/format.rs` or `config/choices.rs`. The help is a sentence without the full stop; it is
//! also the field's documentation, with the comment above the row.
//!
//! ```text
//!   /// `None` is `off`.
//!   max_ahead: Option<Duration> = Some(Duration::from_secs(30));
//!   { "limits.max_ahead" flag "max-ahead", DURATION_OR_OFF, "How far …", reloadable }
//! ```

/// Declares a struct of settings, and its defaults.
macro_rules! settings_struct {
    (
        $(#[$attribute:meta])*
        $vis:vis struct $name:ident;
        $(
            $(#[doc = $doc:literal])*
            $field:ident: $type:ty = $default:expr; $row:tt
        )+
    ) => {
        $(#[$attribute])*
        $vis struct $name {
            $(
                #[doc = $crate::declare::documentation!($row)]
                $(#[doc = $doc])*
                $vis $field: $type,
            )+
        }

        impl Default for $name {
            /// The defaults of a node.
            fn default() -> Self {
                $name { $( $field: $default, )+ }
            }
        }
    };
}

/// The documentation of a setting's field: its key and its help.
macro_rules! documentation {
    // Rows of another struct.
    ([$($rows:tt)+]) => {
        ""
    };
    ({
        $key:literal $(flag $flag:literal)?, $format:ident, $help:literal $(, $reload:ident)?
    }) => {
        concat!("`", $key, "`: ", $help, ".")
    };
}

pub(crate) use {documentation, settings_struct};
