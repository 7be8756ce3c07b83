//! The audio of the calls: a pool of frames that all calls share. Each frame in it is masked and
//! has its WebSocket header. A file is played from its start, generated audio at different offsets.
//!
//! A send copies one frame of the pool into a buffer (some 250 ns while the pool is in L2). For
//! `prng` the copy mixes eight bytes, the pad, into the whole frame, and writes a stamp at its
//! start. Both follow from the numbers of run, call and frame. So any eight bytes after the stamp
//! occur in that frame only: a piece that got into another frame, call or run is noticed. And the
//! numbers alone tell what a frame must hold ([`Audio::matches`]).
//!
//! RFC 6455 §5.3 requires a fresh, unpredictable mask key for each frame, to protect proxies from
//! scripts in browsers. Here each frame of the pool has one key: no script chooses these bytes, and
//! unmasking costs the node the same.

use std::fmt;
use std::path::{Path, PathBuf};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// Frames in the pool of generated audio: with 9,600-byte frames 614 kB, which stays in a core's
/// L2.
const POOL_COUNT: usize = 64;

/// Bytes at the start of a `prng` frame that name it, little-endian: u32 call, u32 run, u64 frame
/// number.
const STAMP_SIZE: usize = 16;

/// Which audio to play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Pseudo-random bytes, every frame distinct.
    Prng,
    /// A tone.
    Sine,
    /// A WAV file, from its start, repeated.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prng => f.write_str("prng"),
            Self::Sine => f.write_str("sine"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why audio cannot be played.
#[derive(Debug)]
pub enum AudioError {
    /// Not a readable WAV file.
    Unreadable(PathBuf, hound::Error),
    /// Not PCM16 mono at the run's rate.
    Format(PathBuf, String),
    /// No samples in it.
    Empty(PathBuf),
}

impl fmt::Display for AudioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => {
                write!(f, "--audio: cannot read {}: {error}", path.display())
            }
            Self::Format(path, what) => {
                write!(
                    f,
                    "--audio: {} has {what}; give 16-bit mono PCM at --sample-rate",
                    path.display()
                )
            }
            Self::Empty(path) => write!(f, "--audio: {} holds no samples", path.display()),
        }
    }
}

impl std::error::Error for AudioError {}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prng" => Ok(Self::Prng),
            "sine" => Ok(Self::Sine),
            file if file.ends_with(".wav") || Path::new(file).exists() => {
                Ok(Self::File(file.into()))
            }
            _ => Err(format!("'{text}' is neither prng nor sine nor a WAV file that exists")),
        }
    }
}

/// The pool of ready frames.
pub struct Audio {
    frames: Vec<Prepared>,
    /// The run that `prng` frames are made for; none for audio whose frames can be equal.
    run: Option<u32>,
    payload_size: usize,
    /// Every call begins with the first frame of the pool. Else calls begin at different frames.
    from_start: bool,
}

/// One WebSocket frame: header, mask key, masked payload.
struct Prepared {
    bytes: Box<[u8]>,
    key: [u8; 4],
}

impl Audio {
    /// Prepares the pool for frames of `frame_size` bytes (even, at least 16) at `sample_rate`, in
    /// the run `run`.
    pub fn prepare(
        source: &Source,
        sample_rate: u32,
        frame_size: usize,
        run: u32,
    ) -> Result<Self, AudioError> {
        let samples = match source {
            Source::Prng => noise(POOL_COUNT * frame_size),
            Source::Sine => tone(POOL_COUNT * frame_size / 2, sample_rate),
            Source::File(path) => file(path, sample_rate)?,
        };
        let mut keys = noise(4 * samples.len().div_ceil(frame_size)).into_iter();
        let frames = samples
            .chunks(frame_size)
            .map(|chunk| {
                let mut payload = chunk.to_vec();
                payload.resize(frame_size, 0);
                masked_frame(
                    OpCode::Data(Data::Binary),
                    &payload,
                    std::array::from_fn(|_| keys.next().unwrap_or(0x5A)),
                )
            })
            .collect();
        let run = (*source == Source::Prng).then_some(run);
        Ok(Self {
            frames,
            run,
            payload_size: frame_size,
            from_start: matches!(source, Source::File(_)),
        })
    }

    /// The same pool, but each call has an offset of its own in files too: earlier versions played
    /// them like that.
    pub fn at_offsets(self) -> Self {
        Self { from_start: false, ..self }
    }

    /// Writes frame `number` (from 1) of call `call` as it goes over the wire; `out` is replaced.
    pub fn write_frame(&self, call: u64, number: u64, out: &mut Vec<u8>) {
        let prepared = &self.frames[self.place(call, number)];
        let Some(run) = self.run else {
            out.clear();
            out.extend_from_slice(&prepared.bytes);
            return;
        };
        // Buffers come back with a frame in them, so this rarely fills anything with zeros.
        out.resize(prepared.bytes.len(), 0);
        let (header, masked) = prepared.bytes.split_at(prepared.bytes.len() - self.payload_size);
        let (front, payload) = out.split_at_mut(header.len());
        front.copy_from_slice(header);
        mix(masked, pad(run, call, number), payload);
        for (index, (byte, plain)) in payload.iter_mut().zip(stamp(run, call, number)).enumerate() {
            *byte = plain ^ prepared.key[index % 4];
        }
    }

    /// Payload bytes of each frame.
    pub fn payload_size(&self) -> usize {
        self.payload_size
    }

    /// Whether every frame of every call and run is distinct.
    pub fn is_distinct(&self) -> bool {
        self.run.is_some()
    }

    /// Whether `bytes` are what frame `number` of call `call` holds from `offset` on.
    pub fn matches(&self, call: u64, number: u64, offset: usize, bytes: &[u8]) -> bool {
        let prepared = &self.frames[self.place(call, number)];
        let masked = &prepared.bytes[prepared.bytes.len() - self.payload_size..];
        let Some(masked) = offset.checked_add(bytes.len()).and_then(|end| masked.get(offset..end))
        else {
            return false;
        };
        let [a, b, c, d] = prepared.key;
        let mut pad = [a, b, c, d, a, b, c, d];
        let mut stamped = 0;
        if let Some(run) = self.run {
            let mixed = u64::from_le_bytes(pad) ^ self::pad(run, call, number);
            pad = mixed.to_le_bytes();
            let stamp = stamp(run, call, number);
            let stamp = stamp.get(offset..).unwrap_or_default();
            stamped = stamp.len().min(bytes.len());
            if bytes[..stamped] != stamp[..stamped] {
                return false;
            }
        }
        pad.rotate_left((offset + stamped) % 8);
        is_mixed(&masked[stamped..], u64::from_le_bytes(pad), &bytes[stamped..])
    }

    /// The call and frame that a stamp names, if it is a stamp of this run.
    pub fn describe(&self, bytes: &[u8]) -> Option<(u64, u64)> {
        let (call, rest) = bytes.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_first_chunk::<4>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let is_ours = self.run == Some(u32::from_le_bytes(*run));
        is_ours.then(|| (u64::from(u32::from_le_bytes(*call)), u64::from_le_bytes(*number)))
    }

    /// The payload of frame `number` of call `call`.
    #[cfg(test)]
    pub fn payload(&self, call: u64, number: u64) -> Vec<u8> {
        let prepared = &self.frames[self.place(call, number)];
        let masked = &prepared.bytes[prepared.bytes.len() - self.payload_size..];
        let mut payload: Vec<u8> =
            masked.iter().enumerate().map(|(i, byte)| byte ^ prepared.key[i % 4]).collect();
        if let Some(run) = self.run {
            let pad = pad(run, call, number).to_le_bytes();
            payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= pad[i % 8]);
            payload[..STAMP_SIZE].copy_from_slice(&stamp(run, call, number));
        }
        payload
    }

    fn place(&self, call: u64, number: u64) -> usize {
        let offset = if self.from_start { 0 } else { split_mix(call).wrapping_add(1) };
        (offset.wrapping_add(number.saturating_sub(1)) % self.frames.len() as u64) as usize
    }
}

/// Writes `from`, with the pad mixed in, eight bytes at a time.
fn mix(from: &[u8], pad: u64, into: &mut [u8]) {
    let (words, rest) = from.as_chunks::<8>();
    let (into_words, into_rest) = into.as_chunks_mut::<8>();
    for (into, word) in into_words.iter_mut().zip(words) {
        *into = (u64::from_ne_bytes(*word) ^ pad.to_le()).to_ne_bytes();
    }
    for ((into, byte), pad) in into_rest.iter_mut().zip(rest).zip(pad.to_le_bytes()) {
        *into = byte ^ pad;
    }
}

/// Whether `mixed` is `from` with the pad mixed in.
fn is_mixed(from: &[u8], pad: u64, mixed: &[u8]) -> bool {
    let (words, rest) = from.as_chunks::<8>();
    let (mixed_words, mixed_rest) = mixed.as_chunks::<8>();
    let mut differences = 0;
    for (word, mixed) in words.iter().zip(mixed_words) {
        differences |= u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(*mixed) ^ pad.to_le();
    }
    let is_rest = rest
        .iter()
        .zip(mixed_rest)
        .zip(pad.to_le_bytes())
        .all(|((byte, mixed), pad)| byte ^ pad == *mixed);
    differences == 0 && is_rest && from.len() == mixed.len()
}

/// A whole frame as a client sends it.
fn masked_frame(opcode: OpCode, payload: &[u8], key: [u8; 4]) -> Prepared {
    let header = FrameHeader { is_final: true, opcode, mask: Some(key), ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    header.format(payload.len() as u64, &mut bytes).expect("a vector takes every write");
    bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]));
    Prepared { bytes: bytes.into_boxed_slice(), key }
}

fn stamp(run: u32, call: u64, number: u64) -> [u8; STAMP_SIZE] {
    let mut stamp = [0; STAMP_SIZE];
    stamp[..4].copy_from_slice(&(call as u32).to_le_bytes());
    stamp[4..8].copy_from_slice(&run.to_le_bytes());
    stamp[8..].copy_from_slice(&number.to_le_bytes());
    stamp
}

/// Eight bytes that only this frame has. Little-endian, so that they are the same on every machine.
fn pad(run: u32, call: u64, number: u64) -> u64 {
    split_mix(number ^ split_mix(call ^ split_mix(u64::from(run))))
}

/// The output function of SplitMix64. It must not change: a later version verifies what an older
/// one played.
fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn noise(size: usize) -> Vec<u8> {
    let words = (0..size.div_ceil(8) as u64)
        .map(|index| split_mix(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    words.flat_map(u64::to_le_bytes).take(size).collect()
}

/// About 440 Hz at half amplitude. A whole number of periods fits into the pool, so that it repeats
/// without a click.
fn tone(samples: usize, sample_rate: u32) -> Vec<u8> {
    let periods = (440.0 * samples as f64 / f64::from(sample_rate)).round().max(1.0);
    let angle = |index: usize| std::f64::consts::TAU * periods * index as f64 / samples as f64;
    (0..samples).flat_map(|index| ((angle(index).sin() * 16_384.0) as i16).to_le_bytes()).collect()
}

fn file(path: &Path, sample_rate: u32) -> Result<Vec<u8>, AudioError> {
    let unreadable = |error| AudioError::Unreadable(path.to_owned(), error);
    let mut reader = hound::WavReader::open(path).map_err(unreadable)?;
    let spec = reader.spec();
    let fits = spec.channels == 1
        && spec.bits_per_sample == 16
        && spec.sample_format == hound::SampleFormat::Int
        && spec.sample_rate == sample_rate;
    if !fits {
        let what = format!(
            "{} Hz, {} channels, {} bits",
            spec.sample_rate, spec.channels, spec.bits_per_sample
        );
        return Err(AudioError::Format(path.to_owned(), what));
    }
    let samples: Vec<i16> = reader.samples().collect::<Result<_, _>>().map_err(unreadable)?;
    if samples.is_empty() {
        return Err(AudioError::Empty(path.to_owned()));
    }
    Ok(samples.into_iter().flat_map(i16::to_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tungstenite::protocol::frame::FrameSocket;

    use super::*;

    /// Unmasks with tungstenite's header parser and the RFC's formula.
    fn decode(wire: &[u8]) -> Vec<u8> {
        let mut cursor = std::io::Cursor::new(wire);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        assert!(header.is_final && header.opcode == OpCode::Data(Data::Binary));
        let key = header.mask.unwrap();
        let payload = &wire[cursor.position() as usize..];
        assert_eq!(payload.len() as u64, length);
        assert!(FrameSocket::new(wire).read(None).unwrap().is_some());
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    #[test]
    fn what_goes_out_is_what_verification_expects() {
        for source in [Source::Prng, Source::Sine] {
            let audio = Audio::prepare(&source, 24_000, 9_600, 7).unwrap();
            let mut wire = Vec::new();
            for (call, number) in [(0, 1), (0, 64), (0, 65), (3_999, 10), (u64::MAX, u64::MAX)] {
                audio.write_frame(call, number, &mut wire);
                assert_eq!(wire.len(), 9_600 + 8);
                assert_eq!(decode(&wire), audio.payload(call, number));
            }
        }
    }

    #[test]
    fn every_prng_frame_is_distinct() {
        let audio = Audio::prepare(&Source::Prng, 8_000, 32, 7).unwrap();
        let frames: HashSet<Vec<u8>> = (0..50)
            .flat_map(|call| (1..=200).map(move |n| (call, n)))
            .map(|(call, n)| audio.payload(call, n))
            .collect();
        assert_eq!(frames.len(), 50 * 200);
    }

    #[test]
    fn pieces_of_a_frame_are_recognised_and_no_others() {
        for source in [Source::Prng, Source::Sine] {
            let audio = Audio::prepare(&source, 8_000, 100, 7).unwrap();
            let payload = audio.payload(3, 9);
            for from in 0..payload.len() {
                for to in from..=payload.len() {
                    assert!(
                        audio.matches(3, 9, from, &payload[from..to]),
                        "{source:?} {from}..{to}"
                    );
                }
            }
            for at in 0..payload.len() {
                for bit in 0..8 {
                    let mut damaged = payload.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(!audio.matches(3, 9, 0, &damaged), "{source:?} byte {at}");
                    assert!(!audio.matches(3, 9, at, &damaged[at..]), "{source:?} byte {at}");
                }
            }
            assert!(
                !audio.matches(3, 9, 1, &payload) && !audio.matches(3, 9, usize::MAX, &payload)
            );
        }
        let audio = Audio::prepare(&Source::Prng, 8_000, 100, 7).unwrap();
        let payload = audio.payload(3, 9);
        let other_run = Audio::prepare(&Source::Prng, 8_000, 100, 8).unwrap();
        for from in (STAMP_SIZE..92).step_by(4) {
            let piece = &payload[from..from + 8];
            // The same place in the pool: only pad and stamp tell these apart.
            assert!(
                !audio.matches(3, 9 + POOL_COUNT as u64, from, piece),
                "another frame at {from}"
            );
            assert!(!other_run.matches(3, 9, from, piece), "another run at {from}");
        }
        assert_eq!(audio.describe(&payload), Some((3, 9)));
        assert_eq!(other_run.describe(&payload), None);
    }

    #[test]
    fn large_and_tiny_frames_have_valid_headers() {
        for size in [16, 124, 126, 65_534, 65_536, 192_000] {
            let audio = Audio::prepare(&Source::Prng, 24_000, size, 7).unwrap();
            let mut wire = Vec::new();
            audio.write_frame(1, 1, &mut wire);
            assert_eq!(decode(&wire).len(), size);
        }
    }

    #[test]
    fn the_tone_repeats_without_a_click() {
        let bytes = tone(9_600, 24_000);
        let sample =
            |index: usize| i32::from(i16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]));
        let step_max = (1..9_600).map(|i| (sample(i) - sample(i - 1)).abs()).max().unwrap();
        assert!((sample(0) - sample(9_599)).abs() <= step_max);
        assert!(step_max > 0);
    }

    #[test]
    fn wav_files_are_cut_into_frames_and_others_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("speech.wav");
        let write = |channels, count: i16| {
            let spec = hound::WavSpec {
                channels,
                sample_rate: 8_000,
                bits_per_sample: 16,
                sample_format: hound::SampleFormat::Int,
            };
            let mut writer = hound::WavWriter::create(&path, spec).unwrap();
            (0..count).for_each(|sample| writer.write_sample(sample).unwrap());
            writer.finalize().unwrap();
        };
        write(1, 250);
        let audio = Audio::prepare(&Source::File(path.clone()), 8_000, 200, 7).unwrap();
        assert_eq!(audio.frames.len(), 3);
        let expected: Vec<u8> = (0..250i16).flat_map(i16::to_le_bytes).chain([0; 100]).collect();
        for call in 0..8 {
            // The file's end is filled with silence to a whole frame, and then the file comes
            // again.
            let said: Vec<u8> = (1..=6).flat_map(|number| audio.payload(call, number)).collect();
            assert_eq!(said, expected.repeat(2), "call {call}");
        }
        let rate =
            Audio::prepare(&Source::File(path.clone()), 24_000, 200, 7).err().unwrap().to_string();
        assert!(rate.contains("8000 Hz"), "{rate}");
        write(1, 0);
        assert!(matches!(
            Audio::prepare(&Source::File(path.clone()), 8_000, 200, 7),
            Err(AudioError::Empty(_))
        ));
        write(2, 100);
        assert!(matches!(
            Audio::prepare(&Source::File(path), 8_000, 200, 7),
            Err(AudioError::Format(..))
        ));
    }
}
