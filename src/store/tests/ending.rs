//! How a sealed segment's file ends, and which part of it is given back to the filesystem.

use super::*;

const LARGE: u64 = 4 << 20;

#[test]
fn a_small_unused_rest_stays_as_zeros_and_a_large_one_is_given_back() {
    let little = LARGE / 32;
    for (unused, kept) in
        [(0, 0), (4096, 4096), (little, little), (little + 4096, 0), (LARGE - 8192, 0)]
    {
        let mut fixture = Fixture::start(|config| config.segment_size = LARGE);
        assert_eq!(fixture.segment().id, 1);
        let end = LARGE - unused;
        File::options()
            .write(true)
            .open(fixture.path(1))
            .unwrap()
            .write_all_at(&vec![0xCD; end as usize], 0)
            .unwrap();
        fixture.retire_and_wait(1, end);
        let bytes = std::fs::read(fixture.path(1)).unwrap();
        assert_eq!(bytes.len() as u64, end + kept, "{unused} bytes unused");
        assert!(bytes[..end as usize].iter().all(|byte| *byte == 0xCD));
        assert!(bytes[end as usize..].iter().all(|byte| *byte == 0));
        fixture.end();
    }
}
