//! How many descriptors a node needs, and how many connections they allow.
#![forbid(unsafe_code)]

use super::NodeConfig;
use crate::constants::{VISITORS_MIN, connections_within};
use crate::io::probe::{HostError, raise_open_files};
use crate::limits::Limits;

/// Descriptors that a node needs besides its shards. They are the standard streams, rings and
/// sockets of the control plane, key files, files that the store opens for a moment, and 32
/// connections of its admin listener.
const OPEN_FILES_OF_NODE: u64 = 64 + 32;

/// Descriptors that each shard needs besides its connections: its ring, listener and eventfd; the
/// segment it writes, the next one, and the last one until it is sealed; and two for failed
/// segments.
const OPEN_FILES_OF_SHARD: u64 = 3 + 3 + 2;

/// A shard with fewer sockets is of no use.
const SOCKETS_OF_SHARD_MIN: u64 = 2 * VISITORS_MIN as u64;

/// Raises the limit on open files, and reduces the connections of a shard to its share of it.
pub(super) fn fit(config: &NodeConfig) -> Result<Limits, HostError> {
    let mut limits = config.limits.clone();
    let shards = config.shards.len() as u64;
    let open_files = raise_open_files(open_files_wanted(limits.calls_max as u64, shards))?;
    let share = usize::try_from(sockets_of_shard(open_files, shards)).unwrap_or(usize::MAX);
    limits.connections_max = limits.connections_max.min(connections_within(share));
    Ok(limits)
}

/// Descriptors that a node needs at its start: those that are not sockets, a socket for each call,
/// and some for requests on each shard.
pub(crate) fn open_files_wanted(calls_max: u64, shards: u64) -> u64 {
    let sockets = (calls_max + VISITORS_MIN as u64 * shards).max(SOCKETS_OF_SHARD_MIN * shards);
    OPEN_FILES_OF_NODE + OPEN_FILES_OF_SHARD * shards + sockets
}

/// Sockets of each shard. They leave the descriptors of segments free, however many there are.
fn sockets_of_shard(open_files: u64, shards: u64) -> u64 {
    open_files.saturating_sub(OPEN_FILES_OF_NODE + OPEN_FILES_OF_SHARD * shards) / shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::visitors_max;

    #[test]
    fn sockets_and_files_of_all_shards_stay_within_the_limit() {
        for shards in [1, 2, 8, 32, 64] {
            for calls_max in [1, 100, 114, 2000, 16_000] {
                let wanted = open_files_wanted(calls_max, shards);
                for open_files in [wanted, wanted + 1, wanted + 1000, 2450, 65_536, 1 << 20] {
                    if open_files < wanted {
                        continue;
                    }
                    let connections =
                        connections_within(sockets_of_shard(open_files, shards) as usize);
                    let sockets = (connections + visitors_max(connections)) as u64;
                    let used = OPEN_FILES_OF_NODE + shards * (OPEN_FILES_OF_SHARD + sockets);
                    assert!(
                        used <= open_files,
                        "{shards} shards, {open_files} files: {used} are used"
                    );
                    assert!(
                        connections >= VISITORS_MIN,
                        "{shards} shards, {open_files} files: {connections}"
                    );
                    // The unused rest is too small for another socket on each shard, and requests
                    // get no more than they need.
                    assert!(
                        open_files - used < 2 * shards,
                        "{shards} shards, {open_files} files: {used} are used"
                    );
                    assert!(
                        connections as u64 * shards + shards >= calls_max / 2,
                        "{shards} {open_files}"
                    );
                }
            }
        }
    }

    #[test]
    fn thirty_two_shards_with_2450_descriptors_leave_room_for_their_segments() {
        let sockets = sockets_of_shard(2450, 32);
        assert_eq!((sockets, connections_within(sockets as usize)), (65, 32));
        assert!(2450 - 32 * sockets >= OPEN_FILES_OF_NODE + 32 * OPEN_FILES_OF_SHARD);
    }
}
