//! Names of recordings in a directory: `TENANT/INTERACTION-EPOCH.wav`.
//!
//! Ids come from callers. In a name, everything is encoded that could leave the directory or hide a
//! file: no part has a `/`, and none begins with a dot.

#![forbid(unsafe_code)]

use super::super::name::encoded;
use super::Recording;
use crate::call::CallIdentity;
use std::fmt::Write;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Most bytes of an encoded id in a name. Filesystems take names of 255 bytes, and the temporary
/// name, the number and the extension need some.
const PART_SIZE_MAX: usize = 200;

/// The directory of a tenant's recordings.
pub(super) fn tenant_dir(dir: &Path, identity: &CallIdentity) -> PathBuf {
    // The interaction does not matter: all calls of a tenant share the directory.
    let tenant = CallIdentity { tenant: identity.tenant.clone(), interaction: "".into() };
    dir.join(part(&identity.tenant, &tenant))
}

/// The file of a recording.
pub(super) fn file_path(dir: &Path, recording: &Recording) -> PathBuf {
    let identity = &recording.identity;
    let name = format!("{}-{}.wav", part(&identity.interaction, identity), recording.number());
    tenant_dir(dir, identity).join(name)
}

/// An id as a part of a path. If it is too long, its end is replaced by a hash.
pub(in crate::cli) fn part(id: &str, identity: &CallIdentity) -> String {
    let mut part = encoded(id);
    if part.starts_with('.') {
        part.replace_range(..1, "%2E");
    }
    if part.len() > PART_SIZE_MAX {
        part.truncate(part.floor_char_boundary(PART_SIZE_MAX - 33));
        // Writing to a string cannot fail.
        let _ = write!(part, "~{:032x}", identity.key().0);
    }
    part
}

/// Makes a directory that only this user can read, unless it is there. A link is refused where we
/// make the names: it may lead anywhere.
pub(super) fn make_dir(dir: &Path, may_be_link: bool) -> io::Result<()> {
    let made = DirBuilder::new().recursive(may_be_link).mode(0o700).create(dir);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let found = if may_be_link { dir.metadata()? } else { dir.symlink_metadata()? };
    if found.is_dir() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotADirectory, "it is there, and is no directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(tenant: &str, interaction: &str) -> String {
        let identity = CallIdentity { tenant: tenant.into(), interaction: interaction.into() };
        let path = file_path(Path::new("d"), &Recording { identity, epochs: Vec::new() });
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn no_id_leads_out_of_its_directory() {
        for (tenant, interaction, expected) in [
            ("acme", "call-1", "d/acme/call-1-0.wav"),
            ("..", "../../etc/passwd", "d/%2E./%2E.%2F..%2Fetc%2Fpasswd-0.wav"),
            (".", ".hidden", "d/%2E/%2Ehidden-0.wav"),
            ("/", "100%", "d/%2F/100%25-0.wav"),
            ("Zürich", "a b", "d/Zürich/a%20b-0.wav"),
        ] {
            assert_eq!(path(tenant, interaction), expected);
        }
    }

    #[test]
    fn long_ids_have_short_names_that_differ() {
        let long = |end: &str| format!("{}{end}", "/é".repeat(85));
        let (one, other) = (path(&long("a"), &long("a")), path(&long("a"), &long("b")));
        assert_ne!(one, other);
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<String>>();
        let (one, other) = (parts(&one), parts(&other));
        assert_eq!((one.len(), &one[1]), (3, &other[1]));
        assert!(one.iter().all(|part| part.len() <= 210), "{one:?}");
    }
}
