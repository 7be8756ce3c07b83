//! Descriptors that a parent process passed by number.

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Lowest number that is accepted. The lower ones are standard input, output and error, which this
/// process uses.
const NUMBER_MIN: RawFd = 3;

/// Takes over the descriptor `number`. Call it at the start of the process, before anything is
/// opened: later the number may be one of ours. The error says why it cannot be used.
pub(crate) fn claim(number: RawFd) -> std::io::Result<File> {
    if number < NUMBER_MIN {
        return Err(Error::new(ErrorKind::InvalidInput, "the number has to be 3 or more"));
    }
    // SAFETY: the borrow ends with this function, and nothing here closes the descriptor. If it is
    // not open, the calls on it fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed)
        .map_err(|_| Error::new(ErrorKind::NotFound, "no such descriptor was passed"))?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open (F_GETFD succeeded), and nothing else in this process owns it. The caller
    // runs before anything is opened, so the parent passed it for this purpose.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Number of the first socket that systemd passes (sd_listen_fds(3)).
pub(crate) const FIRST_PASSED: RawFd = 3;

/// The listening socket that systemd has passed to this process, if any. Call it as early as
/// [`claim`]. The error says why it cannot be used.
pub(crate) fn claim_listener() -> std::io::Result<Option<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // The variables may be meant for a parent of this process.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        Some(1) => claim(FIRST_PASSED).map(|file| Some(OwnedFd::from(file))),
        Some(0) | None => Ok(None),
        Some(count) => {
            let reason =
                format!("{count} sockets were passed: leave one ListenStream= in the .socket unit");
            Err(Error::new(ErrorKind::InvalidInput, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_passed_descriptor_is_taken_over_and_others_are_refused() {
        for number in [-1, 0, 2, 1_000_000] {
            assert!(claim(number).is_err(), "{number}");
        }
        let mut file = tempfile::tempfile().unwrap();
        let number = file.try_clone().unwrap().into_raw_fd();
        let mut claimed = claim(number).unwrap();
        claimed.write_all(b"ready").unwrap();
        drop(claimed);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ready");
    }
}
