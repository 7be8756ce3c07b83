//! Errors of the medium: the device works, and does not give these bytes.

#![forbid(unsafe_code)]

use rustix::io::Errno;
use std::io;

/// Whether the medium does not give these bytes, although the device works. Then other bytes and
/// files can still be read.
pub(crate) fn is_of_medium(error: &io::Error) -> bool {
    let of_medium =
        [Errno::IO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|error| of_medium.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_medium_are_told_from_others() {
        for (errno, expected) in [
            (Errno::IO, true),
            (Errno::BADMSG, true),
            (Errno::UCLEAN, true),
            (Errno::NODEV, false),
            (Errno::ACCESS, false),
        ] {
            assert_eq!(is_of_medium(&errno.into()), expected, "{errno}");
        }
    }
}
