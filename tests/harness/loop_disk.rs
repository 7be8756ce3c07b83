//! A small ext4 for one test, in a file on a loop device. It can be cut off from its disk, frozen
//! and filled.

use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// `_IOR('X', 125, __u32)`, fs/ext4/ext4.h.
const EXT4_IOC_SHUTDOWN: Opcode = 0x8004_587d;
/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`, include/uapi/linux/fs.h.
const FIFREEZE: Opcode = 0xc004_5877;
const FITHAW: Opcode = 0xc004_5878;

/// Longest wait until a filesystem is no longer in use: a killed process may still have operations
/// under way.
const RELEASE_WAIT: Duration = Duration::from_secs(20);

/// What happens to ext4's own journal when the filesystem is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is written first: the metadata of all work so far survives.
    LogFlush = 1,
    /// Its part in memory is lost, as at a power cut.
    NoLogFlush = 2,
}

/// A mounted ext4. When it is dropped, it is unmounted and its image is deleted.
#[derive(Debug)]
pub struct LoopDisk {
    directory: tempfile::TempDir,
    options: &'static str,
    is_mounted: bool,
}

impl LoopDisk {
    /// Makes and mounts a filesystem of `size` bytes with these mount options. `None` without root
    /// or loop devices: this prints the reason, and the test must return.
    pub fn make(size: u64, options: &'static str) -> Option<LoopDisk> {
        let skipped = |reason: &str| {
            println!("SKIPPED, nothing was tested: {reason}");
            eprintln!("SKIPPED, nothing was tested: {reason}");
        };
        if !rustix::process::geteuid().is_root() {
            skipped("only root can mount a filesystem; run the test as root");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut disk = LoopDisk { directory, options, is_mounted: false };
        std::fs::create_dir(disk.path()).expect("a directory");
        File::create(disk.image()).and_then(|image| image.set_len(size)).expect("a sparse file");
        for (what, done) in
            [("mkfs.ext4", disk.format()), ("mounting a loop device", disk.try_mount())]
        {
            if let Err(reason) = done {
                skipped(&format!("{what}: {reason}"));
                return None;
            }
        }
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn format(&self) -> Result<(), String> {
        // A small filesystem would get blocks of 1 KiB, which no disk of a node has. With those
        // ext4 discards 7 MiB for each segment that is written, used again or not (Linux 6.18).
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(self.image()))
    }

    fn try_mount(&mut self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", self.options])
            .arg(self.image())
            .arg(self.path()))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Mounts it again: ext4 replays its journal.
    pub fn mount(&mut self) {
        self.try_mount().expect("what was mounted before can be mounted");
    }

    /// Unmounts it as soon as it is no longer in use.
    pub fn unmount(&mut self) {
        let start = Instant::now();
        while let Err(error) = run(Command::new("umount").arg(self.path())) {
            assert!(start.elapsed() < RELEASE_WAIT, "it is in use: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.is_mounted = false;
    }

    /// Cuts it off from its disk now: no later write reaches the disk, and nothing can be read.
    pub fn shut_down(&self, cut: Cut) {
        let root = File::open(self.path()).expect("it is mounted");
        // SAFETY: the request takes a pointer to a `__u32`, which `Setter` passes; it changes no
        // memory of ours.
        let done = unsafe { ioctl(root, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(cut as u32)) };
        done.expect("ext4 can be shut down by root");
    }

    /// Stops all writes: they wait until the returned guard is dropped.
    pub fn freeze(&self) -> Frozen {
        let root = File::open(self.path()).expect("it is mounted");
        // SAFETY: the kernel does not look at the argument of this request.
        let done = unsafe { ioctl(&root, IntegerSetter::<FIFREEZE>::new_usize(0)) };
        done.expect("ext4 can be frozen by root");
        Frozen { root }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if !self.is_mounted {
            return;
        }
        let start = Instant::now();
        while run(Command::new("umount").arg(self.path())).is_err() {
            if start.elapsed() >= RELEASE_WAIT {
                // Its user ends at some time. Then the mount, the loop device and the image are
                // removed.
                let _ = run(Command::new("umount").arg("--lazy").arg(self.path()));
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The guard of a frozen filesystem.
#[derive(Debug)]
pub struct Frozen {
    root: File,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: the kernel does not look at the argument of this request.
        let done = unsafe { ioctl(&self.root, IntegerSetter::<FITHAW>::new_usize(0)) };
        assert!(done.is_ok() || std::thread::panicking(), "it cannot be thawed: {done:?}");
    }
}

/// Makes a file that takes `size` bytes of room.
pub fn fill(path: &Path, size: u64) {
    let file = File::create(path).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)
        .expect("so much room");
}

/// Runs a command; the error is what it says.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
