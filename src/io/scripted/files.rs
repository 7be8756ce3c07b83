//! Files of a simulated world: their content, what would survive a power loss, and their scripted
//! faults.

use super::World;
use super::event::Event;
use super::file::{File, FileOperation, SECTOR_SIZE, Source, Write, lay};
use super::state::State;
use crate::io::{FileHandle, UserData};
use rustix::io::Errno;
use std::cell::RefMut;
use std::ops::Range;
use std::rc::Rc;

impl World {
    /// An empty file of `size` bytes, all durable.
    pub fn create_file(&self, size: usize) -> FileHandle {
        let mut state = self.state();
        let handle = FileHandle(1 + state.files.len() as i32);
        state.files.insert(
            handle.0,
            File { live: vec![0; size], durable: vec![0; size], ..File::default() },
        );
        state.note(|| Event::Created { file: handle, size });
        handle
    }

    /// What a read of the file would return now.
    pub fn live_image(&self, file: FileHandle) -> Vec<u8> {
        self.state().files[&file.0].live.clone()
    }

    /// The least that a power loss now would leave: the file as of its last successful sync.
    pub fn durable_image(&self, file: FileHandle) -> Vec<u8> {
        self.state().files[&file.0].durable.clone()
    }

    /// What a power loss now might leave: everything durable, and those sectors of later writes for
    /// which `survives` returns true. Writes in progress are included.
    pub fn crash_image(&self, file: FileHandle, mut survives: impl FnMut() -> bool) -> Vec<u8> {
        let state = self.state();
        let mut image = state.files[&file.0].durable.clone();
        let under_way = state.held.iter().filter_map(|(_, operation)| match operation {
            FileOperation::Write(of, write, ..) if *of == file => Some(write),
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

    /// The next write to the file takes at most `size` bytes.
    pub fn shorten_write(&self, file: FileHandle, size: usize) {
        self.file(file).write_size_max = Some(size);
    }

    /// The next sync of the file fails, and what it should have made durable is lost. Later syncs
    /// succeed without it, like those of the kernel.
    pub fn fail_sync(&self, file: FileHandle, error: Errno) {
        self.file(file).sync_error = Some(error);
    }

    /// Number of syncs of the file that were submitted.
    pub fn sync_count(&self, file: FileHandle) -> usize {
        self.file(file).sync_count
    }

    /// From now on, writes and syncs complete only with [`World::finish_file_operation`], or at
    /// once again.
    pub fn hold_file_operations(&self, hold: bool) {
        self.state().holds_files = hold;
    }

    /// Number of writes and syncs in progress.
    pub fn file_operation_count(&self) -> usize {
        self.state().held.len()
    }

    /// Completes one of the writes and syncs in progress; 0 is the oldest. Returns `false` if there
    /// is none with that index.
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
        RefMut::map(self.state(), |state| {
            state.files.get_mut(&file.0).expect("the script names a file it created")
        })
    }
}

impl State {
    fn file(&mut self, file: FileHandle) -> &mut File {
        self.files.get_mut(&file.0).expect("the shard names a file it opened")
    }

    pub(super) fn start_write(
        &mut self,
        file: FileHandle,
        write: Write,
        user_data: UserData,
        source: Source,
    ) {
        let range = |(offset, bytes): &Write| *offset..offset + bytes.len();
        let Range { start, end } = range(&write);
        let meets = |(_, operation): &(u64, FileOperation)| match operation {
            FileOperation::Write(of, other, ..) if *of == file => {
                range(other).start < end && start < range(other).end
            }
            FileOperation::Write(..) | FileOperation::Sync(..) => false,
        };
        assert!(!self.held.iter().any(meets), "a byte of a file is written once at a time");
        self.start(FileOperation::Write(file, write, user_data, source));
    }

    pub(super) fn start_sync(&mut self, file: FileHandle, user_data: UserData) {
        let syncs_it = |(_, operation): &(u64, FileOperation)| {
            matches!(
                operation,
                FileOperation::Sync(of, ..) if *of == file
            )
        };
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
            FileOperation::Write(file, (offset, bytes), ..) => Event::Writing {
                operation: number,
                file: *file,
                offset: *offset,
                bytes: Rc::from(&bytes[..]),
            },
            FileOperation::Sync(file, ..) => Event::Syncing { operation: number, file: *file },
        });
        match self.holds_files {
            true => self.held.push_back((number, operation)),
            false => self.finish(number, operation),
        }
    }

    fn finish(&mut self, number: u64, operation: FileOperation) {
        let (user_data, result) = match operation {
            FileOperation::Write(file, (offset, bytes), user_data, source) => {
                if let Some((read, start)) = source {
                    assert!(
                        read(start, bytes.len()) == bytes,
                        "what is being written is not touched"
                    );
                }
                (user_data, self.file(file).write(offset, bytes))
            }
            FileOperation::Sync(file, covered, user_data) => {
                (user_data, self.file(file).sync(covered))
            }
        };
        self.note(|| Event::Done { operation: number, result });
        self.complete(user_data, result);
    }
}
