#![forbid(unsafe_code)]

use super::*;
use proptest::prelude::*;

/// CRC-32C bit by bit, from its definition.
fn reference_crc(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in bytes {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            remainder = (remainder >> 1) ^ (0x82F6_3B78 * (remainder & 1));
        }
    }
    !remainder
}

fn reference(masked: &[u8], key: MaskKey) -> (Vec<u8>, u32) {
    let bytes: Vec<u8> =
        masked.iter().enumerate().map(|(index, byte)| byte ^ key.0[index % 4]).collect();
    let crc = reference_crc(&bytes);
    (bytes, crc)
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// Memory whose offset 0 is aligned to a line.
struct Arena {
    bytes: Vec<u8>,
    start: usize,
}

impl Arena {
    fn new(size: usize) -> Arena {
        let bytes = vec![0; size + LINE_SIZE];
        let start = bytes.as_ptr().align_offset(LINE_SIZE);
        Arena { bytes, start }
    }

    fn slice(&mut self, offset: usize, size: usize) -> &mut [u8] {
        &mut self.bytes[self.start + offset..][..size]
    }
}

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// Runs every kernel with the given misalignments of source and destination. Compares the bytes,
/// the checksum and the bytes around the destination.
fn compare(masked: &[u8], key: MaskKey, from: usize, to: usize, expected: &(Vec<u8>, u32)) {
    let mut source = Arena::new(masked.len() + from);
    source.slice(from, masked.len()).copy_from_slice(masked);
    let mut target = Arena::new(masked.len() + to + 1);
    for kernel in Kernel::available() {
        target.bytes.fill(0xA5);
        let crc = unmask_copy(
            kernel,
            target.slice(to, masked.len()),
            source.slice(from, masked.len()),
            key,
        );
        fence();
        let what =
            || format!("{kernel:?}, {} bytes from {from} to {to}, key {key:?}", masked.len());
        assert_eq!(crc, expected.1, "checksum: {}", what());
        assert!(target.slice(to, masked.len()) == expected.0, "bytes: {}", what());
        assert_eq!(target.slice(to + masked.len(), 1), [0xA5], "wrote past the end: {}", what());
        assert!(
            target.slice(0, to).iter().all(|byte| *byte == 0xA5),
            "wrote before the start: {}",
            what()
        );
    }
}

#[test]
fn the_check_value_of_crc32c_is_right() {
    let mut out = [0; 9];
    for kernel in Kernel::available() {
        assert_eq!(unmask_copy(kernel, &mut out, b"123456789", MaskKey::default()), 0xE306_9283);
    }
    assert_eq!(reference_crc(b"123456789"), 0xE306_9283);
    assert_eq!(reference_crc(b""), 0);
}

#[test]
fn every_length_and_key_rotation_agrees_with_the_reference() {
    let masked = noise(1200, 1);
    for size in 0..=1200 {
        for rotation in 0..4 {
            let key = KEY.advanced(rotation);
            let expected = reference(&masked[..size], key);
            compare(&masked[..size], key, size * 7 % 64, 0, &expected);
            compare(&masked[..size], key, rotation, 1 + size % 63, &expected);
        }
    }
}

#[test]
fn every_misalignment_agrees_with_the_reference() {
    for size in [63, 64, 331, 1600] {
        let masked = noise(size, 2);
        let expected = reference(&masked, KEY);
        for from in 0..64 {
            for to in 0..64 {
                compare(&masked, KEY, from, to, &expected);
            }
        }
    }
}

#[test]
fn short_copies_agree_at_every_length_alignment_and_key_rotation() {
    let masked = noise(300, 6);
    for rotation in 0..4 {
        let key = KEY.advanced(rotation);
        for size in 0..=300 {
            let expected = reference(&masked[..size], key);
            for alignment in 0..LINE_SIZE {
                compare(
                    &masked[..size],
                    key,
                    (alignment * 5 + size) % LINE_SIZE,
                    alignment,
                    &expected,
                );
            }
        }
    }
}

#[test]
fn frames_and_receive_buffers_agree_with_the_reference() {
    for size in [9_600, 16 * 1024, 16 * 1024 + 5, 65_536, 3 * 1024 * 1024 + 17] {
        let masked = noise(size, 3);
        let expected = reference(&masked, KEY);
        compare(&masked, KEY, 0, 0, &expected);
        compare(&masked, KEY, 6, 0, &expected);
        compare(&masked, KEY, 6, 3, &expected);
    }
}

#[test]
fn a_line_is_stored_wherever_it_goes() {
    let line: [u8; LINE_SIZE] = noise(LINE_SIZE, 4).try_into().unwrap();
    for kernel in Kernel::available() {
        for to in [0, 1, 16, 63, 64] {
            let mut target = Arena::new(256);
            store_line(kernel, target.slice(to, LINE_SIZE).try_into().unwrap(), &line);
            fence();
            assert_eq!(target.slice(to, LINE_SIZE), line, "{kernel:?} to {to}");
            assert_eq!(target.slice(to + LINE_SIZE, 64), [0; 64]);
        }
    }
}

#[test]
fn small_payloads_are_unmasked_in_place() {
    let masked = noise(300, 5);
    for size in 0..300 {
        let mut bytes = masked[..size].to_vec();
        unmask_in_place(&mut bytes, KEY);
        assert_eq!(bytes, reference(&masked[..size], KEY).0);
    }
}

#[test]
fn the_fastest_kernel_is_the_last_of_the_available_ones() {
    let kernels = Kernel::available();
    assert_eq!(kernels[0], Kernel::Plain);
    assert_eq!(Some(&Kernel::detect()), kernels.last());
    #[cfg(target_arch = "x86_64")]
    for (name, has) in [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        (
            "avx2-vpclmulqdq",
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("vpclmulqdq"),
        ),
        ("avx512", is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq")),
    ] {
        assert_eq!(kernels.iter().any(|kernel| kernel.name() == name), has, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_copies_agree_with_the_reference(
        size in 0usize..20_000, seed: u64, key: [u8; 4], from in 0usize..64, to in 0usize..64,
    ) {
        let masked = noise(size, seed);
        compare(&masked, MaskKey(key), from, to, &reference(&masked, MaskKey(key)));
    }

    #[test]
    fn a_copy_in_two_pieces_is_the_copy_in_one(
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        cut in 0usize..700,
    ) {
        let cut = cut.min(bytes.len());
        let whole = reference(&bytes, KEY);
        for kernel in Kernel::available() {
            let mut out = vec![0; bytes.len()];
            unmask_copy(kernel, &mut out[..cut], &bytes[..cut], KEY);
            unmask_copy(kernel, &mut out[cut..], &bytes[cut..], KEY.advanced(cut));
            prop_assert_eq!(&out, &whole.0);
        }
    }
}
