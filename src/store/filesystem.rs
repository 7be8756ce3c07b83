#![forbid(unsafe_code)]
//! Kinds of filesystems on which a sync is not what it is on a local disk.

use crate::ack_level::AckLevel;
use rustix::fs::statfs;
use std::io;
use std::path::Path;

/// What an ACK is worth on a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// As the disk is.
    Disk,
    /// As the reason says.
    Doubtful { kind: &'static str, reason: &'static str },
    /// Nothing outlives the machine.
    None { kind: &'static str },
}

/// Magic numbers (`statfs(2)`), names and reasons.
const DOUBTFUL: [(u64, &str, &str); 13] = [
    (0x6969, "NFS", NETWORK),
    (0xFF53_4D42, "CIFS", NETWORK),
    (0xFE53_4D42, "SMB2", NETWORK),
    (0x517B, "SMB", NETWORK),
    (0x0102_1997, "9P", NETWORK),
    (0x5346_414F, "AFS", NETWORK),
    (0x00C3_6400, "Ceph", NETWORK),
    (0x0BD0_0BD0, "Lustre", NETWORK),
    (0x4750_4653, "GPFS", NETWORK),
    (0x6573_5546, "FUSE", "its program decides what a sync means"),
    (0x794C_7630, "overlay", "a container's own layer is lost with the container"),
    (0x786F_4256, "VirtualBox shared folder", NETWORK),
    (0xF15F, "eCryptfs", "the filesystem below it decides what a sync means"),
];

const NETWORK: &str = "its server decides what a sync means, and each ACK waits for the network";

/// Filesystems in memory.
const IN_MEMORY: [(u64, &str); 3] =
    [(0x0102_1994, "tmpfs"), (0x8584_58F6, "ramfs"), (0x9584_58F6, "hugetlbfs")];

/// What the filesystem of a directory is worth.
pub(super) fn durability(directory: &Path) -> io::Result<Durability> {
    // The type of the field depends on the architecture. Magic numbers have 32 bits.
    Ok(judge(u64::from(statfs(directory)?.f_type as u32)))
}

/// Refuses a promise that the filesystem of a directory cannot keep. Says why another is doubtful.
pub(super) fn require_durability(directory: &Path, level: AckLevel) -> io::Result<Option<String>> {
    if level != AckLevel::Durable {
        return Ok(None);
    }
    match durability(directory)? {
        Durability::Disk => Ok(None),
        Durability::Doubtful { kind, reason } => {
            Ok(Some(format!("on {kind}: {reason}. Use a local disk for durable ACKs")))
        }
        Durability::None { kind } => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{kind} is in memory, and a restart of the machine empties it"),
        )),
    }
}

fn judge(magic: u64) -> Durability {
    if let Some((_, kind)) = IN_MEMORY.into_iter().find(|(known, _)| *known == magic) {
        return Durability::None { kind };
    }
    let found = DOUBTFUL.into_iter().find(|(known, _, _)| *known == magic);
    found.map_or(Durability::Disk, |(_, kind, reason)| Durability::Doubtful { kind, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_networks_are_told_from_disks() {
        assert_eq!(judge(0x0102_1994), Durability::None { kind: "tmpfs" });
        assert!(matches!(judge(0x6969), Durability::Doubtful { kind: "NFS", .. }));
        // ext4, XFS, Btrfs, ZFS.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1] {
            assert_eq!(judge(magic), Durability::Disk);
        }
        if std::fs::metadata("/dev/shm").is_ok_and(|found| found.is_dir()) {
            let found = durability(Path::new("/dev/shm")).unwrap();
            assert!(matches!(found, Durability::None { .. }), "{found:?}");
            let shm = Path::new("/dev/shm");
            let error = require_durability(shm, AckLevel::Durable).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert_eq!(require_durability(shm, AckLevel::Written).unwrap(), None);
        }
    }
}
