//! The canonical WAV header: 44 bytes, no other chunk.
//!
//! ```text
//!  0  "RIFF"                      20  u16 format       1 (PCM)      34  u16 bits   16
//!  4  u32 data size + 36          22  u16 channels     1            36  "data"
//!  8  "WAVE"                      24  u32 sample rate  Hz           40  u32 data size
//! 12  "fmt "                      28  u32 bytes/s      2 × rate     44  samples
//! 16  u32 16                      32  u16 bytes/sample 2
//! ```

#![forbid(unsafe_code)]

/// Size of the header, bytes.
pub(in crate::cli) const HEADER_SIZE: usize = 44;

/// Most bytes of samples that the header can describe: its sizes have 32 bits, and samples two
/// bytes.
pub(in crate::cli) const DATA_SIZE_MAX: u64 = (u32::MAX as u64 - 36) / 2 * 2;

/// The header for `data_size` bytes of samples, at most [`DATA_SIZE_MAX`].
pub(in crate::cli) fn header(sample_rate: u32, data_size: u64) -> [u8; HEADER_SIZE] {
    let data_size = u32::try_from(data_size.min(DATA_SIZE_MAX)).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_SIZE];
    let fields: [(usize, &[u8]); 13] = [
        (0, b"RIFF"),
        (4, &(data_size + 36).to_le_bytes()),
        (8, b"WAVE"),
        (12, b"fmt "),
        (16, &16u32.to_le_bytes()),
        (20, &1u16.to_le_bytes()),
        (22, &1u16.to_le_bytes()),
        (24, &sample_rate.to_le_bytes()),
        (28, &sample_rate.saturating_mul(2).to_le_bytes()),
        (32, &2u16.to_le_bytes()),
        (34, &16u16.to_le_bytes()),
        (36, b"data"),
        (40, &data_size.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        header[at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_follows_the_format() {
        let expected = b"RIFF\x04\x01\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\
                         \xc0\x5d\0\0\x80\xbb\0\0\x02\0\x10\0data\xe0\0\0\0";
        assert_eq!(&header(24_000, 224), expected);
        assert_eq!(header(8_000, DATA_SIZE_MAX)[4..8], (u32::MAX - 1).to_le_bytes());
    }
}
