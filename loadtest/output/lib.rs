//! Files that commands write.
//!
//! | the target is | what happens |
//! | --- | --- |
//! | missing, or a regular file | written under a random name (`O_EXCL`, 0600), then renamed |
//! | a symbolic link | resolved first: the link stays, its target is made or replaced |
//! | a device, a fifo, a terminal | opened and written to |
//! | `/dev/stdout`, `/dev/fd/N` | the open descriptor is written to |
//! | a directory | an error |
//!
//! A planted name beside the target is not followed: the temporary file must be new. A link that
//! another user made in a shared directory is refused. The kernel does the same
//! (`fs.protected_symlinks`), but not for a rename.

#![forbid(unsafe_code)]

use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

#[cfg(test)]
mod tests;

/// Mode of recordings and private keys.
pub const PRIVATE: u32 = 0o600;

/// Mode of everything else, before the umask.
pub const PUBLIC: u32 = 0o666;

/// Links that are followed one after the other: as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Mode bits of a directory like `/tmp`: every user may make files, and only the owner may remove
/// one.
const SHARED_DIRECTORY: u32 = 0o1002;

/// What a command writes to.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A file that gets its name at the end. Without that it is removed when this is dropped.
    New { file: NamedTempFile, target: PathBuf, mode: u32 },
    /// Something that exists and is no regular file.
    AsItIs { file: File, is_stdout: bool },
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A regular file, or nothing yet. Not a link.
    Regular(PathBuf),
    /// Something else that can be opened. Not a link.
    Other(PathBuf),
    /// An open descriptor of a process, by its path below `/proc`.
    Descriptor(PathBuf),
}

impl Output {
    /// Opens what `path` leads to. A new file ends with `mode`, less the umask.
    pub fn create(path: &Path, mode: u32) -> io::Result<Output> {
        let kind = match resolve(path)? {
            Target::Regular(target) => Kind::New { file: temporary(&target)?, target, mode },
            Target::Other(path) => Kind::AsItIs { file: open_other(&path)?, is_stdout: false },
            Target::Descriptor(path) => open_descriptor(&path)?,
        };
        Ok(Output { kind })
    }

    /// The file that is written to.
    pub fn file(&self) -> &File {
        match &self.kind {
            Kind::New { file, .. } => file.as_file(),
            Kind::AsItIs { file, .. } => file,
        }
    }

    /// Whether it is a new file, in which any place can be written again.
    pub fn is_new(&self) -> bool {
        matches!(self.kind, Kind::New { .. })
    }

    /// Whether it is this process's standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.kind, Kind::AsItIs { is_stdout: true, .. })
    }

    /// Gives a new file its name. After that it is durable under this name.
    pub fn finish(self) -> io::Result<()> {
        self.keep(|file, target| file.persist(target))
    }

    /// As [`Output::finish`], but an error if there is a file of that name by now.
    pub fn finish_new(self) -> io::Result<()> {
        self.keep(|file, target| file.persist_noclobber(target))
    }

    fn keep(
        self,
        name: impl FnOnce(NamedTempFile, &Path) -> Result<File, tempfile::PersistError>,
    ) -> io::Result<()> {
        let Kind::New { file, target, mode } = self.kind else { return Ok(()) };
        let mode = mode & !umask();
        if mode != PRIVATE {
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
        }
        file.as_file().sync_all()?;
        name(file, &target)?;
        sync_directory(directory(&target))
    }
}

/// Writes a whole file to where `path` leads.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let output = Output::create(path, mode)?;
    output.file().write_all(bytes)?;
    output.finish()
}

/// Writes a whole new file. It is an error if a file or a link has this name.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let output = Output::create(path, mode)?;
    output.file().write_all(bytes)?;
    output.finish_new()
}

fn resolve(path: &Path) -> io::Result<Target> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(is_a_directory());
    }
    let mut path = path.to_owned();
    for _ in 0..=LINKS_MAX {
        if is_descriptor(&path) {
            return Ok(Target::Descriptor(path));
        }
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Target::Regular(path)),
            found => found?,
        };
        if !found.is_symlink() {
            return if found.is_dir() {
                Err(is_a_directory())
            } else if found.is_file() {
                Ok(Target::Regular(path))
            } else {
                Ok(Target::Other(path))
            };
        }
        refuse_foreign_link(&path, &found)?;
        path = directory(&path).join(path.read_link()?);
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn is_a_directory() -> io::Error {
    io::Error::new(ErrorKind::IsADirectory, "it is a directory: name a file in it")
}

/// The kernel's rule for opening: a link in a shared directory is followed only if it belongs to us
/// or to the owner of the directory.
fn refuse_foreign_link(link: &Path, found: &Metadata) -> io::Result<()> {
    let shared = directory(link).metadata()?;
    let is_shared = shared.mode() & SHARED_DIRECTORY == SHARED_DIRECTORY;
    let is_trusted =
        found.uid() == rustix::process::geteuid().as_raw() || found.uid() == shared.uid();
    if is_shared && !is_trusted {
        let text =
            "it is a link that another user left in a shared directory: name what it points to";
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// Whether a path names an open descriptor: `/proc/PID/fd/N`.
fn is_descriptor(path: &Path) -> bool {
    let Ok(directory) = directory(path).canonicalize() else { return false };
    let is_number = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    directory.starts_with("/proc")
        && directory.file_name().is_some_and(|name| name == "fd")
        && path.file_name().is_some_and(|name| is_number(name.as_bytes()))
}

/// Our own standard descriptors are used as they are: writing goes on at their position, as the
/// shell set it up. Others are opened again.
fn open_descriptor(path: &Path) -> io::Result<Kind> {
    let own = format!("/proc/{}/fd", std::process::id());
    let is_own = directory(path).canonicalize()? == Path::new(&own);
    let number = path.file_name().unwrap_or_default();
    if is_own && number == "1" {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        return Ok(Kind::AsItIs { file, is_stdout: true });
    }
    let file = if is_own && number == "2" {
        File::from(io::stderr().as_fd().try_clone_to_owned()?)
    } else {
        OpenOptions::new().write(true).open(path)?
    };
    Ok(Kind::AsItIs { file, is_stdout: false })
}

fn open_other(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?.file_type();
    // It may have changed between the first look and the opening.
    if found.is_fifo() || found.is_char_device() || found.is_block_device() {
        return Ok(file);
    }
    Err(io::Error::other("it changed while it was opened: try again"))
}

fn temporary(target: &Path) -> io::Result<NamedTempFile> {
    if target.file_name().is_none() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it names no file"));
    }
    let directory = directory(target);
    let made = tempfile::Builder::new()
        .prefix(".exo-")
        .suffix(".part")
        .rand_bytes(16)
        .tempfile_in(directory);
    made.map_err(|error| {
        let (kind, code) = (error.kind(), error.raw_os_error());
        let error = code.map_or(error, io::Error::from_raw_os_error);
        io::Error::new(kind, format!("no file can be made in {}: {error}", directory.display()))
    })
}

/// The directory of a name.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Syncs a directory, which makes a rename in it durable. A directory that we may not read cannot
/// be synced.
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error)
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// The umask, from `/proc`. To set it, which returns the old one, would change it for other
/// threads.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}
