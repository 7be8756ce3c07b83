//! Descriptors that a parent process passed by number.

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Lowest number that is taken: those below are standard input, output and error, which others in this process use.
const NUMBER_MIN: RawFd = 3;

/// Takes over the descriptor `number`. To be called at the start of the process, before anything has been opened: from then
/// on a number may be ours. The error says why it cannot be used.
pub fn claim(number: RawFd) -> std::io::Result<File> {
    if number < NUMBER_MIN {
        return Err(Error::new(ErrorKind::InvalidInput, "the number has to be 3 or more"));
    }
    // SAFETY: the borrow ends with this function, and nothing here closes the descriptor; if it is not open, the calls on it
    // fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|_| Error::new(ErrorKind::NotFound, "no such descriptor was passed"))?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open (F_GETFD answered) and nobody else in this process owns it: the caller runs before anything is
    // opened, so the parent passed it, and passed it for this.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
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
