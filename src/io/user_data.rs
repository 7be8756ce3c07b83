//! The 64 bits that an operation carries to the kernel and back with its completion.
//!
//! ```text
//!  63      56 55                    32 31                               0
//! +----------+------------------------+----------------------------------+
//! |   kind   |       generation       |              index               |
//! +----------+------------------------+----------------------------------+
//! ```
//! `index` is a slot in a table of the owner. `generation` counts the users of the slot: it
//! identifies a completion that comes after the slot was given to another user.
#![forbid(unsafe_code)]

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// Accept of one connection.
    Accept = 1,
    /// Multishot receive.
    Receive = 2,
    /// Send from a pooled slot.
    Send = 3,
    /// Send of the bytes that a send from a slot left.
    SendRest = 4,
    /// Shutdown of our direction.
    ShutDown = 5,
    /// Cancel of another operation.
    Cancel = 6,
    /// Wake-up by the mailbox.
    Wake = 7,
    /// Write to a file.
    Write = 8,
    /// Sync of a file.
    Sync = 9,
    /// Close; completes only if it failed.
    Close = 10,
    /// A single receive of what a socket holds.
    Read = 11,
}

impl OpKind {
    const ALL: [OpKind; 11] = [
        OpKind::Accept,
        OpKind::Receive,
        OpKind::Send,
        OpKind::SendRest,
        OpKind::ShutDown,
        OpKind::Cancel,
        OpKind::Wake,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Close,
        OpKind::Read,
    ];
}

/// Kind, slot and generation of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserData {
    /// Kind of the operation.
    pub(crate) kind: OpKind,
    /// Slot in the owner's table.
    pub(crate) index: u32,
    /// Which user of the slot; the upper 8 bits are dropped.
    pub(crate) generation: u32,
}

/// Generations count modulo this number.
pub(crate) const GENERATION_COUNT: u32 = 1 << 24;

impl UserData {
    /// For an operation that a shard has only once.
    pub(crate) const fn lone(kind: OpKind) -> Self {
        UserData { kind, index: 0, generation: 0 }
    }

    /// For an operation of a slot that has one user until its completion.
    pub const fn of_slot(kind: OpKind, index: u32) -> Self {
        UserData { kind, index, generation: 0 }
    }

    /// For an operation of a certain user of a slot.
    pub const fn new(kind: OpKind, index: u32, generation: u32) -> Self {
        UserData { kind, index, generation: generation % GENERATION_COUNT }
    }

    /// The value for the kernel.
    pub(crate) const fn pack(self) -> u64 {
        (self.kind as u64) << 56 | (self.generation as u64) << 32 | self.index as u64
    }

    /// From the value that the kernel returned; `None` if no [`UserData`] packs to it.
    pub(crate) fn unpack(bits: u64) -> Option<Self> {
        let kind = OpKind::ALL.into_iter().find(|kind| *kind as u64 == bits >> 56)?;
        Some(UserData {
            kind,
            index: bits as u32,
            generation: (bits >> 32) as u32 % GENERATION_COUNT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_round_trip() {
        for kind in OpKind::ALL {
            let user_data = UserData::new(kind, u32::MAX, GENERATION_COUNT - 1);
            assert_eq!(UserData::unpack(user_data.pack()), Some(user_data));
        }
        assert_eq!(UserData::unpack(0), None);
        assert_eq!(UserData::unpack(u64::MAX), None);
    }

    #[test]
    fn generations_wrap() {
        assert_eq!(UserData::new(OpKind::Send, 1, GENERATION_COUNT).generation, 0);
    }
}
