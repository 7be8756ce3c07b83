//! A directory on a disk with bad sectors: a small FUSE filesystem that passes everything on to a
//! directory, and answers EIO where a test says that the disk cannot read.
//!
//! It speaks the kernel's protocol itself (include/uapi/linux/fuse.h, version 7.31): the crates for
//! that bring a dozen others.

use crate::loop_disk::run;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Size of the largest write, and so of the largest request without its header, bytes.
const WRITE_SIZE_MAX: u32 = 128 * 1024;

/// Pages of the largest read.
const READ_PAGES_MAX: u16 = 256;

/// The bytes of files that cannot be read, by path below the directory.
type Unreadable = Arc<Mutex<Vec<(PathBuf, Range<u64>)>>>;

/// A mounted directory whose disk has bad sectors. Dropped, it is unmounted.
#[derive(Debug)]
pub struct BadDisk {
    mounted: PathBuf,
    unreadable: Unreadable,
    thread: Option<JoinHandle<()>>,
}

impl BadDisk {
    /// Mounts `directory` again at `mounted`, an empty directory. `None` without root or FUSE: this
    /// prints the reason, and the test must return.
    pub fn mount(directory: &Path, mounted: &Path) -> Option<BadDisk> {
        let skipped = |reason: &str| {
            println!("SKIPPED, nothing was tested: {reason}");
            eprintln!("SKIPPED, nothing was tested: {reason}");
        };
        let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                skipped(&format!("/dev/fuse: {error}"));
                return None;
            }
        };
        // The command passes the open device on to the kernel.
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,nosuid,nodev",
            device.as_raw_fd()
        );
        fcntl_setfd(&device, FdFlags::empty()).expect("an open file");
        let mut command = Command::new("mount");
        let command = command.args(["-i", "-t", "fuse", "-o", &options, "exo-ingest-test"]);
        let done = run(command.arg(mounted));
        fcntl_setfd(&device, FdFlags::CLOEXEC).expect("an open file");
        if let Err(error) = done {
            skipped(&format!("mounting FUSE: {error}; run the test as root"));
            return None;
        }
        let unreadable = Unreadable::default();
        let mut server = Server {
            device,
            directory: directory.to_owned(),
            paths: vec![PathBuf::new()],
            nodes: HashMap::from([(PathBuf::new(), 1)]),
            unreadable: Arc::clone(&unreadable),
        };
        let thread = std::thread::spawn(move || server.serve());
        Some(BadDisk { mounted: mounted.to_owned(), unreadable, thread: Some(thread) })
    }

    /// From now on no read may touch these bytes of a file, or list this directory; `path` is
    /// relative to the directory that is mounted.
    pub fn damage(&self, path: &Path, bytes: Range<u64>) {
        self.unreadable.lock().expect("no panic").push((path.to_owned(), bytes));
    }

    /// Everything can be read again.
    pub fn heal(&self) {
        self.unreadable.lock().expect("no panic").clear();
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg("--lazy").arg(&self.mounted));
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Operations of the protocol, in the order of their numbers.
mod operation {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RENAME: u32 = 12;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// Size of a request's header, bytes.
const HEADER_SIZE: usize = 40;

struct Server {
    device: File,
    directory: PathBuf,
    /// The path of each node; node 1, the root, is the first.
    paths: Vec<PathBuf>,
    nodes: HashMap<PathBuf, u64>,
    unreadable: Unreadable,
}

/// The fields of a request, by their offset.
struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The names from `at` on, each with a zero at its end.
    fn names(&self, at: usize) -> Vec<PathBuf> {
        let names = self.0[at..].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))).collect()
    }
}

impl Server {
    fn serve(&mut self) {
        let mut memory = vec![0; WRITE_SIZE_MAX as usize + 4_096];
        loop {
            let size = match self.device.read(&mut memory) {
                Ok(size) => size,
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return,
                // A request was interrupted before it was read.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let request = Request(&memory[..size]);
            let (operation, unique) = (request.u32(4), request.u64(8));
            if matches!(
                operation,
                operation::FORGET | operation::BATCH_FORGET | operation::INTERRUPT
            ) {
                continue;
            }
            let (error, body) = match self.answer(operation, &request) {
                Ok(body) => (0, body),
                Err(error) => (error.raw_os_error().unwrap_or(5), Vec::new()),
            };
            let mut reply = ((16 + body.len()) as u32).to_le_bytes().to_vec();
            reply.extend((-error).to_le_bytes());
            reply.extend(unique.to_le_bytes());
            reply.extend(body);
            // If the kernel has forgotten the request, nobody waits for the answer.
            let _ = self.device.write(&reply);
        }
    }

    fn answer(&mut self, operation: u32, request: &Request<'_>) -> io::Result<Vec<u8>> {
        let node = request.u64(16);
        let body = HEADER_SIZE;
        match operation {
            operation::INIT => Ok(init()),
            operation::LOOKUP => {
                let path = self.below(node, request, body);
                self.entry(&path)
            }
            operation::GETATTR => {
                let mut out = vec![0; 16];
                out.extend(attributes(node, &self.real(node).symlink_metadata()?));
                Ok(out)
            }
            operation::SETATTR => {
                let (valid, size) = (request.u32(body), request.u64(body + 16));
                let path = self.real(node);
                if valid & (1 << 3) != 0 {
                    OpenOptions::new().write(true).open(&path)?.set_len(size)?;
                }
                let mut out = vec![0; 16];
                out.extend(attributes(node, &path.symlink_metadata()?));
                Ok(out)
            }
            operation::UNLINK => {
                let path = self.below(node, request, body);
                std::fs::remove_file(self.directory.join(&path))?;
                self.nodes.remove(&path);
                Ok(Vec::new())
            }
            operation::RENAME => {
                let names = request.names(body + 8);
                let (old, new) =
                    (self.path(node).join(&names[0]), self.path(request.u64(body)).join(&names[1]));
                std::fs::rename(self.directory.join(&old), self.directory.join(&new))?;
                if let Some(moved) = self.nodes.remove(&old) {
                    self.paths[moved as usize - 1].clone_from(&new);
                    self.nodes.insert(new, moved);
                }
                Ok(Vec::new())
            }
            operation::OPEN | operation::OPENDIR => Ok(vec![0; 16]),
            operation::READ => self.read(node, request.u64(body + 8), request.u32(body + 16)),
            operation::WRITE => {
                let (offset, size) = (request.u64(body + 8), request.u32(body + 16));
                let bytes = &request.0[body + 40..body + 40 + size as usize];
                let file = OpenOptions::new().write(true).open(self.real(node))?;
                file.write_all_at(bytes, offset)?;
                Ok([size.to_le_bytes(), [0; 4]].concat())
            }
            operation::READDIR => self.list(node, request.u64(body + 8), request.u32(body + 16)),
            operation::CREATE => {
                let path = self.below(node, request, body + 16);
                let mode = request.u32(body + 4) & 0o777;
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(false).mode(mode);
                options.open(self.directory.join(&path))?;
                let mut out = self.entry(&path)?;
                out.extend([0; 16]);
                Ok(out)
            }
            operation::RELEASE
            | operation::RELEASEDIR
            | operation::FLUSH
            | operation::FSYNC
            | operation::FSYNCDIR => Ok(Vec::new()),
            _ => Err(Errno::NOSYS.into()),
        }
    }

    fn path(&self, node: u64) -> &Path {
        &self.paths[node as usize - 1]
    }

    fn real(&self, node: u64) -> PathBuf {
        self.directory.join(self.path(node))
    }

    /// The file in the directory `node` whose name is in the request at `at`.
    fn below(&self, node: u64, request: &Request<'_>, at: usize) -> PathBuf {
        self.path(node).join(&request.names(at)[0])
    }

    fn entry(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let metadata = self.directory.join(path).symlink_metadata()?;
        let next = self.paths.len() as u64 + 1;
        let node = *self.nodes.entry(path.to_owned()).or_insert(next);
        if node == next {
            self.paths.push(path.to_owned());
        }
        let mut out = node.to_le_bytes().to_vec();
        out.resize(40, 0);
        out.extend(attributes(node, &metadata));
        Ok(out)
    }

    fn read(&self, node: u64, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size as usize];
        let read = File::open(self.real(node))?.read_at(&mut bytes, offset)?;
        let (path, end) = (self.path(node), offset + read as u64);
        let unreadable = self.unreadable.lock().expect("no panic");
        let is_bad =
            |(of, bad): &(PathBuf, Range<u64>)| of == path && bad.start < end && offset < bad.end;
        if unreadable.iter().any(is_bad) {
            return Err(Errno::IO.into());
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn list(&self, node: u64, from: u64, size: u32) -> io::Result<Vec<u8>> {
        let unreadable = self.unreadable.lock().expect("no panic");
        if unreadable.iter().any(|(of, _)| of == self.path(node)) {
            return Err(Errno::IO.into());
        }
        drop(unreadable);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.real(node))? {
            let entry = entry?;
            names.push((entry.file_name(), entry.file_type()?.is_dir()));
        }
        names.sort();
        let mut out = Vec::new();
        for (place, (name, is_dir)) in names.iter().enumerate().skip(from as usize) {
            let size_next = (24 + name.len()).next_multiple_of(8);
            if out.len() + size_next > size as usize {
                break;
            }
            // A listing need not say which node an entry is.
            out.extend(u64::MAX.to_le_bytes());
            out.extend((place as u64 + 1).to_le_bytes());
            out.extend((name.len() as u32).to_le_bytes());
            out.extend(if *is_dir { 4u32 } else { 8 }.to_le_bytes());
            out.extend(name.as_bytes());
            out.resize(out.len().next_multiple_of(8), 0);
        }
        Ok(out)
    }
}

/// The answer to the first request.
fn init() -> Vec<u8> {
    /// Reads of more pages than usual.
    const MAX_PAGES: u32 = 1 << 22;
    let mut out = Vec::new();
    for word in [7, 31, 128 * 1024, MAX_PAGES] {
        out.extend(u32::to_le_bytes(word));
    }
    out.extend([16u16.to_le_bytes(), 12u16.to_le_bytes()].concat());
    out.extend(WRITE_SIZE_MAX.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(READ_PAGES_MAX.to_le_bytes());
    out.resize(64, 0);
    out
}

fn attributes(node: u64, metadata: &Metadata) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [node, metadata.size(), metadata.blocks()] {
        out.extend(number.to_le_bytes());
    }
    for seconds in [metadata.atime(), metadata.mtime(), metadata.ctime()] {
        out.extend(seconds.to_le_bytes());
    }
    out.resize(60, 0);
    for number in [metadata.mode(), metadata.nlink() as u32, metadata.uid(), metadata.gid()] {
        out.extend(number.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    out.extend(4_096u32.to_le_bytes());
    out.resize(88, 0);
    out
}
