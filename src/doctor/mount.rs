//! The mount and the drive that a directory is on.

use super::root::Root;
use std::path::{Path, PathBuf};

/// A mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(super) point: PathBuf,
    /// Its type, such as `ext4`.
    pub(super) kind: String,
    /// Of the mount and of the filesystem.
    pub(super) options: Vec<String>,
    /// Bytes of the whole drive, not of the partition; `None`: unknown, or not one drive.
    pub(super) disk_size: Option<u64>,
}

impl Mount {
    /// The mount of a directory. `None`: it cannot be told.
    pub(super) fn of(root: &Root, directory: &Path) -> Option<Mount> {
        let directory = directory.canonicalize().ok()?;
        let text = root.text("proc/self/mountinfo")?;
        // Of two mounts on one point the later one is seen.
        let (mut mount, device) = text
            .lines()
            .filter_map(parse)
            .filter(|(mount, _)| directory.starts_with(&mount.point))
            .max_by_key(|(mount, _)| mount.point.components().count())?;
        mount.disk_size = disk_size(root, &device);
        Some(mount)
    }
}

/// A line of `/proc/self/mountinfo` (proc(5)): `36 35 8:1 / /data rw,noatime - ext4 /dev/sda1 rw`.
fn parse(line: &str) -> Option<(Mount, String)> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    let options = before.get(5)?.split(',').chain(after.get(2)?.split(','));
    let mount = Mount {
        point: unescape(before.get(4)?).into(),
        kind: (*after.first()?).to_owned(),
        options: options.map(str::to_owned).collect(),
        disk_size: None,
    };
    Some((mount, (*before.get(2)?).to_owned()))
}

/// The kernel writes space, tab, newline and backslash as `\040` and so on.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Bytes of the drive with this device number. A partition's directory is below its drive's.
fn disk_size(root: &Root, device: &str) -> Option<u64> {
    let directory = format!("sys/dev/block/{device}");
    let is_partition = root.text(&format!("{directory}/partition")).is_some();
    let above = if is_partition { "/.." } else { "" };
    let sectors: u64 = root.number(&format!("{directory}{above}/size"))?;
    Some(sectors.saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_and_its_drive_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, data) = (directory.path().join("tree"), directory.path().join("my data"));
        let write = |name: &str, text: &str| {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        std::fs::create_dir(&data).unwrap();
        let point = data.canonicalize().unwrap().display().to_string().replace(' ', "\\040");
        write(
            "proc/self/mountinfo",
            &format!(
                "1 0 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,discard\n\
                 2 1 8:1 / {point} rw,noatime - xfs /dev/sda1 rw,attr2\n"
            ),
        );
        write("sys/dev/block/8:1/partition", "1\n");
        write("sys/dev/block/8:1/size", "1000\n");
        write("sys/dev/block/size", "4000\n");
        let root = Root::copy(&tree);
        let mount = Mount::of(&root, &data).unwrap();
        assert_eq!((mount.kind.as_str(), mount.disk_size), ("xfs", Some(4_000 * 512)));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "attr2"]);
        let outer = Mount::of(&root, directory.path()).unwrap();
        assert!(outer.kind == "ext4" && outer.options.contains(&"discard".to_owned()));
        assert_eq!(outer.disk_size, None);
    }
}
