//! Names of objects in an archive.
//!
//! ```text
//! v1/<node>/run-<boot>-<started_at>-<pid>/<shard>/<first lsn>-<end lsn>.exo       a slice
//!                                                 <first lsn>-<end lsn>.expired   a note: retention
//!                                                                                 was faster
//!                                                 <first lsn>-<end lsn>.lost      a note: the node
//!                                                                                 had lost it
//!                                                 <end lsn>-<end lsn>.ended       a note: no more
//!                                                                                 will come
//! ```
//! Lsns are 16 hex digits, so names sort as positions do. The end is the position after the last
//! byte. Together the objects of a shard cover its journal without a hole.

#![forbid(unsafe_code)]

use crate::archive::layout::RunName;
use crate::format::Lsn;
use std::fmt;

/// First part of every name: the version of the layout.
pub(crate) const VERSION: &str = "v1";

/// The name of a node in an archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// Most bytes of a name.
    pub const SIZE_MAX: usize = 128;

    /// Accepts letters, digits, `.`, `-` and `_`: they need no encoding in any store.
    pub fn parse(name: &str) -> Result<NodeName, String> {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let is_good = (1..=NodeName::SIZE_MAX).contains(&name.len())
            && name.bytes().all(is_plain)
            && !name.starts_with('.');
        if is_good {
            return Ok(NodeName(name.into()));
        }
        Err("a node's name has 1 to 128 letters, digits, dots, hyphens or underscores, and does not \
             begin with a dot"
            .into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What an object says about its range of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// It has the bytes.
    Slice,
    /// The node's retention had removed it before it was sent.
    Expired,
    /// It was lost, or could not be read, before it was sent.
    Lost,
    /// The shard's journal ends here.
    Ended,
}

impl ObjectKind {
    const ALL: [ObjectKind; 4] =
        [ObjectKind::Slice, ObjectKind::Expired, ObjectKind::Lost, ObjectKind::Ended];

    /// The ending of the name.
    pub fn extension(self) -> &'static str {
        match self {
            ObjectKind::Slice => "exo",
            ObjectKind::Expired => "expired",
            ObjectKind::Lost => "lost",
            ObjectKind::Ended => "ended",
        }
    }
}

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The node.
    pub node: NodeName,
    /// The run.
    pub run: RunName,
    /// The shard.
    pub shard: u16,
    /// Where its range begins.
    pub first: Lsn,
    /// Where its range ends.
    pub end: Lsn,
    /// What it is.
    pub kind: ObjectKind,
}

impl ObjectName {
    /// Reads a name, below the prefix of the archive. `None`: it is another object.
    pub fn parse(path: &str) -> Option<ObjectName> {
        let mut parts = path.split('/');
        if parts.next()? != VERSION {
            return None;
        }
        let node = NodeName::parse(parts.next()?).ok()?;
        let run = RunName::parse(parts.next()?)?;
        let shard: u16 = parts.next()?.parse().ok()?;
        let (range, extension) = parts.next()?.split_once('.')?;
        let (first, end) = range.split_once('-')?;
        let lsn = |digits: &str| u64::from_str_radix(digits, 16).ok().map(Lsn);
        let kind = ObjectKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let name = ObjectName { node, run, shard, first: lsn(first)?, end: lsn(end)?, kind };
        // One object has one name.
        (parts.next().is_none() && name.to_string() == path).then_some(name)
    }

    /// What the names of a shard's objects begin with.
    pub fn shard_prefix(node: &NodeName, run: &RunName, shard: u16) -> String {
        format!("{VERSION}/{node}/{run}/{shard}")
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = ObjectName::shard_prefix(&self.node, &self.run, self.shard);
        let (first, end, extension) = (self.first.0, self.end.0, self.kind.extension());
        write!(formatter, "{prefix}/{first:016x}-{end:016x}.{extension}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let path = "v1/node-7.example/run-3-1800000000000001-4711/12/0000000000001000-00000000010f3000.exo";
        let name = ObjectName::parse(path).unwrap();
        assert_eq!(name.to_string(), path);
        assert_eq!((name.shard, name.first, name.end), (12, Lsn(0x1000), Lsn(0x10f_3000)));
        for kind in ObjectKind::ALL {
            let name = ObjectName { kind, ..name.clone() };
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
        for other in [
            path.replace("v1", "v2"),
            path.replace("exo", "wav"),
            path.replace("/12/", "/012/"),
            path.replace("10f3", "10F3"),
            path.replace("run-3", "run-03"),
            format!("{path}/x"),
            format!("x/{path}"),
        ] {
            assert_eq!(ObjectName::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn node_names_need_no_encoding() {
        for good in ["a", "node-1", "10.0.0.7", "A_b.c", &"x".repeat(128)] {
            assert_eq!(NodeName::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
    }
}
