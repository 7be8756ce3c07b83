//! The cgroups of this process, as directories.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

/// A directory of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// It belongs to version 2, where all controllers share one directory.
    pub(crate) is_second: bool,
}

/// The directories in which a controller may limit this process. The parents of a cgroup limit it
/// too. `memberships` is `/proc/self/cgroup`; `root` is where cgroups are mounted.
///
/// In a container the path may be that of the host, which is not mounted there. Then the root is
/// the container's own cgroup.
pub(crate) fn directories(memberships: &str, root: &Path, controller: &str) -> Vec<Directory> {
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_second = controllers.is_empty();
        let mounts: &[&str] = match controllers {
            // A kernel with both versions mounts the second one under the first one.
            "" => &["", "unified"],
            first if first.split(',').any(|name| name == controller) => &[controller],
            _ => continue,
        };
        let below: PathBuf = Path::new(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        for mount in mounts {
            let mount = root.join(mount);
            let directories = below.ancestors().map(|directory| mount.join(directory));
            found.extend(directories.map(|path| Directory { path, is_second }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_its_cgroup_and_all_parents_of_both_versions() {
        let both = "4:hugetlb,memory:/a/b\n2:cpu:/other\n0::/c\n";
        let found = directories(both, Path::new("/r"), "memory");
        let shown: Vec<_> = found
            .iter()
            .map(|directory| (directory.path.to_str().unwrap(), directory.is_second))
            .collect();
        let first = [("/r/memory/a/b", false), ("/r/memory/a", false), ("/r/memory/", false)];
        let second = [("/r/c", true), ("/r/", true), ("/r/unified/c", true), ("/r/unified/", true)];
        assert_eq!(shown, [&first[..], &second[..]].concat());
        assert_eq!(directories("", Path::new("/r"), "memory"), []);
    }
}
