//! Files of a scripted world: what has been written, what would survive a power loss, and the faults they are told to have.

use super::World;
use super::log::Event;
use super::state::State;
use crate::io::{FileHandle, UserData};
use rustix::io::Errno;
use std::cell::RefMut;
use std::rc::Rc;

/// What a disk writes as a whole or not at all, bytes.
pub const SECTOR_SIZE: usize = 512;

/// Bytes and where they go.
type Write = (usize, Vec<u8>);

/// One file.
#[derive(Default)]
pub(super) struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes that have completed and that no sync has covered, in order.
    unsynced: Vec<Write>,
    write_error: Option<Errno>,
    write_size_max: Option<usize>,
    sync_error: Option<Errno>,
    sync_count: usize,
}

/// A write or sync that has been submitted and not completed.
pub(super) enum FileOperation {
    Write(FileHandle, Write, UserData),
    /// Covers so many of the file's unsynced writes: those that had completed when it was submitted.
    Sync(FileHandle, usize, UserData),
}

impl World {
    /// An empty file of `size` bytes, all durable.
    pub fn create_file(&self, size: usize) -> FileHandle {
        let mut state = self.state();
        let handle = FileHandle(1 + state.files.len() as i32);
        state.files.insert(handle.0, File { live: vec![0; size], durable: vec![0; size], ..File::default() });
        state.note(|| Event::Created { file: handle, size });
        handle
    }

    /// What reads of the file would see now.
    pub fn live_image(&self, file: FileHandle) -> Vec<u8> {
        self.state().files[&file.0].live.clone()
    }

    /// What a power loss now would leave at the least: the file as of its last successful sync.
    pub fn durable_image(&self, file: FileHandle) -> Vec<u8> {
        self.state().files[&file.0].durable.clone()
    }

    /// What a power loss now might leave: everything durable, and of each write since (those under way included) the sectors
    /// for which `survives` says so.
    pub fn crash_image(&self, file: FileHandle, mut survives: impl FnMut() -> bool) -> Vec<u8> {
        let state = self.state();
        let mut image = state.files[&file.0].durable.clone();
        let under_way = state.held.iter().filter_map(|(_, operation)| match operation {
            FileOperation::Write(of, write, _) if *of == file => Some(write),
            FileOperation::Write(..) | FileOperation::Sync(..) => None,
        });
        for (offset, bytes) in state.files[&file.0].unsynced.iter().chain(under_way) {
            for (index, sector) in bytes.chunks(SECTOR_SIZE).enumerate() {
                if survives() {
                    lay(&mut image, offset + index * SECTOR_SIZE, sector);
                }
            }
        }
        image
    }

    /// The next write to the file fails.
    pub fn fail_write(&self, file: FileHandle, error: Errno) {
        self.file(file).write_error = Some(error);
    }

    /// The next write to the file takes no more than `size` bytes.
    pub fn shorten_write(&self, file: FileHandle, size: usize) {
        self.file(file).write_size_max = Some(size);
    }

    /// The next sync of the file fails, and what it should have made durable is lost: later syncs succeed without it, as the
    /// kernel's do.
    pub fn fail_sync(&self, file: FileHandle, error: Errno) {
        self.file(file).sync_error = Some(error);
    }

    /// Syncs of the file that have been submitted.
    pub fn sync_count(&self, file: FileHandle) -> usize {
        self.file(file).sync_count
    }

    /// Writes and syncs complete only with [`World::finish_file_operation`] from now on, or at once again.
    pub fn hold_file_operations(&self, hold: bool) {
        self.state().holds_files = hold;
    }

    /// Writes and syncs under way.
    pub fn file_operation_count(&self) -> usize {
        self.state().held.len()
    }

    /// Completes one of the writes and syncs under way, 0 being the oldest; `false` if there is none of that number.
    pub fn finish_file_operation(&self, index: usize) -> bool {
        let mut state = self.state();
        match state.held.remove(index) {
            Some((number, operation)) => {
                state.finish(number, operation);
                true
            }
            None => false,
        }
    }

    fn file(&self, file: FileHandle) -> RefMut<'_, File> {
        RefMut::map(self.state(), |state| state.files.get_mut(&file.0).expect("the script names a file it created"))
    }
}

impl State {
    fn file(&mut self, file: FileHandle) -> &mut File {
        self.files.get_mut(&file.0).expect("the shard names a file it opened")
    }

    pub(super) fn start_write(&mut self, file: FileHandle, write: Write, user_data: UserData) {
        self.start(FileOperation::Write(file, write, user_data));
    }

    pub(super) fn start_sync(&mut self, file: FileHandle, user_data: UserData) {
        let syncs_it =
            |(_, operation): &(u64, FileOperation)| matches!(operation, FileOperation::Sync(of, ..) if *of == file);
        assert!(!self.held.iter().any(syncs_it), "one sync of a file is under way at a time");
        let synced = self.file(file);
        synced.sync_count += 1;
        let covered = synced.unsynced.len();
        self.start(FileOperation::Sync(file, covered, user_data));
    }

    fn start(&mut self, operation: FileOperation) {
        self.file_operation_count += 1;
        let number = self.file_operation_count;
        self.note(|| match &operation {
            FileOperation::Write(file, (offset, bytes), _) => {
                Event::Writing { operation: number, file: *file, offset: *offset, bytes: Rc::from(&bytes[..]) }
            }
            FileOperation::Sync(file, ..) => Event::Syncing { operation: number, file: *file },
        });
        match self.holds_files {
            true => self.held.push_back((number, operation)),
            false => self.finish(number, operation),
        }
    }

    fn finish(&mut self, number: u64, operation: FileOperation) {
        let (user_data, result) = match operation {
            FileOperation::Write(file, (offset, bytes), user_data) => (user_data, self.file(file).write(offset, bytes)),
            FileOperation::Sync(file, covered, user_data) => (user_data, self.file(file).sync(covered)),
        };
        self.note(|| Event::Done { operation: number, result });
        self.complete(user_data, result);
    }
}

impl File {
    fn write(&mut self, offset: usize, mut bytes: Vec<u8>) -> Result<u32, Errno> {
        if let Some(error) = self.write_error.take() {
            return Err(error);
        }
        bytes.truncate(self.write_size_max.take().unwrap_or(usize::MAX));
        lay(&mut self.live, offset, &bytes);
        let size = bytes.len() as u32;
        self.unsynced.push((offset, bytes));
        Ok(size)
    }

    fn sync(&mut self, covered: usize) -> Result<u32, Errno> {
        let covered = self.unsynced.drain(..covered);
        if let Some(error) = self.sync_error.take() {
            // The pages that failed are marked clean: they never reach the disk, and no later sync says so.
            drop(covered);
            self.live.clone_from(&self.durable);
            self.unsynced.iter().for_each(|(offset, bytes)| lay(&mut self.live, *offset, bytes));
            return Err(error);
        }
        covered.for_each(|(offset, bytes)| lay(&mut self.durable, offset, &bytes));
        Ok(0)
    }
}

/// Puts bytes into an image, which grows where it has to.
fn lay(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}
