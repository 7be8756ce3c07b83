//! One segment: opened, locked as readers do, and read batch by batch up to its end.
//!
//! A bad batch before a sound one is damage. A bad batch with nothing after it is the end, unless
//! the next segment says that this one went further. Nothing in a damaged batch is guessed: what
//! cannot be read counts as absent, and its promised frames are reported as missing.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::format::{
    BATCH_SIZE_MAX, BLOCK_SIZE, BatchHeader, Fault, Kind, LINE_SIZE, RecordHeader, SegmentHeader,
};
use super::window::{self, Window};

/// A segment that is open for reading.
#[derive(Debug)]
pub struct Segment {
    /// Its path.
    pub path: PathBuf,
    /// Its number in its name.
    pub id: u64,
    /// Its first block, or the fault in it. None if the file was allocated and not used yet.
    pub header: Option<Result<SegmentHeader, Fault>>,
    file: File,
    size: u64,
}

/// A record with a sound header.
#[derive(Debug)]
pub struct Record<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether payload and padding are what was written.
    pub is_sound: Result<(), Fault>,
}

/// Takes what a scan finds.
pub trait Sink {
    /// Takes a batch with a sound header. Its records follow.
    fn batch(&mut self, batch: &BatchHeader);
    /// Takes a record, `offset` bytes into the file.
    fn record(&mut self, record: &Record<'_>, path: &Path, offset: u64);
    /// Takes a fault, and what follows from it.
    fn damage(&mut self, path: &Path, offset: u64, what: &str);
}

impl Segment {
    /// Opens `path` and takes a reader's lock. If the lock is refused, the node is writing the
    /// segment: it is read without one, because all acknowledged frames are complete. None if
    /// retention has removed the file.
    pub fn open(path: &Path, (run, shard, id): (u64, u16, u64)) -> io::Result<Option<Self>> {
        let file = match window::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) | Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        let open = file.metadata()?;
        let named = fs::metadata(path)
            .ok()
            .filter(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
        if named.is_none() {
            return Ok(None); // removed or recycled between opening and locking
        }
        let mut window = Window::new(BLOCK_SIZE);
        let block = window.bytes(&file, 0, BLOCK_SIZE)?;
        let header = match SegmentHeader::decode(block) {
            // A recycled file that is not used yet holds the header of its former use.
            Ok(header) if (header.run, header.shard, header.id) != (run, shard, id) => None,
            Err(_) if !block.is_empty() && block.iter().all(|byte| *byte == 0) => None,
            decoded => Some(decoded),
        };
        Ok(Some(Self { path: path.to_owned(), id, header, file, size: open.len() }))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When its first batch was sealed, Unix time in microseconds. All batches of earlier segments
    /// were sealed before.
    pub fn first_sealed_at(&self, window: &mut Window) -> io::Result<Option<u64>> {
        let Some(Ok(header)) = self.header else { return Ok(None) };
        window.forget();
        Ok(self.batch_at(BLOCK_SIZE as u64, &header, 0, window)?.ok().map(|batch| batch.sealed_at))
    }

    /// Reads all batches, up to `end` where the next segment names it. Returns the bytes that were
    /// read.
    pub fn scan(
        &self,
        end: Option<u64>,
        window: &mut Window,
        sink: &mut impl Sink,
    ) -> io::Result<u64> {
        let Some(Ok(header)) = self.header else { return Ok(0) };
        window.forget();
        let ends_at = end.map(|end| end.wrapping_sub(header.start));
        let limit = ends_at.map_or(self.size, |end| end.min(self.size));
        let mut offset = BLOCK_SIZE as u64;
        let mut last_number = 0;
        while offset < limit {
            let fault = match self.batch_at(offset, &header, last_number, window)? {
                Ok(batch) => {
                    if last_number > 0 && batch.number > last_number + 1 {
                        sink.damage(
                            &self.path,
                            offset,
                            &format!(
                                "batches {} to {} are missing",
                                last_number + 1,
                                batch.number - 1
                            ),
                        );
                    }
                    last_number = batch.number;
                    sink.batch(&batch);
                    self.read_batch(&batch, offset, window, sink)?;
                    offset += batch.size as u64;
                    continue;
                }
                Err(fault) => fault,
            };
            match self.find_batch(
                offset + BLOCK_SIZE as u64,
                limit,
                &header,
                last_number,
                window,
            )? {
                Some(next) => {
                    sink.damage(
                        &self.path,
                        offset,
                        &format!("{fault}; the next sound batch is {} bytes on", next - offset),
                    );
                    offset = next;
                }
                None => break,
            }
        }
        if let Some(end) = ends_at.filter(|end| *end > offset) {
            sink.damage(
                &self.path,
                offset,
                &format!("{} bytes are missing up to its end", end - offset),
            );
        }
        Ok(offset.min(self.size))
    }

    /// The header of the batch at `offset`, if it was written for this place in this segment.
    fn batch_at(
        &self,
        offset: u64,
        segment: &SegmentHeader,
        last_number: u64,
        window: &mut Window,
    ) -> io::Result<Result<BatchHeader, Fault>> {
        let batch = match BatchHeader::decode(window.bytes(&self.file, offset, BLOCK_SIZE)?) {
            Ok(batch) => batch,
            Err(fault) => return Ok(Err(fault)),
        };
        // A batch of the file's former use, or one that was written for another place, is not ours.
        let is_ours =
            batch.segment == segment.uuid && batch.lsn == segment.start.wrapping_add(offset);
        let is_next = last_number == 0 || batch.number > last_number;
        let is_whole = offset + batch.size as u64 <= self.size;
        Ok(match (is_ours && is_next, is_whole) {
            (true, true) => Ok(batch),
            (true, false) => Err("batch cut off"),
            (false, _) => Err("batch of another place"),
        })
    }

    fn find_batch(
        &self,
        from: u64,
        limit: u64,
        segment: &SegmentHeader,
        last_number: u64,
        window: &mut Window,
    ) -> io::Result<Option<u64>> {
        let mut offset = from;
        while offset < limit {
            if self.batch_at(offset, segment, last_number, window)?.is_ok() {
                return Ok(Some(offset));
            }
            offset += BLOCK_SIZE as u64;
        }
        Ok(None)
    }

    fn read_batch(
        &self,
        batch: &BatchHeader,
        offset: u64,
        window: &mut Window,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let bytes = window.bytes(&self.file, offset, batch.size)?;
        // Check all headers before any payload: their common checksum fails where an older batch
        // shows through.
        let (mut chain, mut count) = (0, 0u32);
        let walked = walk(bytes, batch, |_, header| {
            chain = crc32c::crc32c_append(chain, &header.chained_crc.to_le_bytes());
            count += u32::from(header.kind != Kind::Pad);
        });
        match walked {
            Err((at, fault)) => {
                sink.damage(
                    &self.path,
                    offset + at as u64,
                    &format!("{fault}; the rest of the batch cannot be read"),
                );
            }
            Ok(()) if chain != batch.records_crc => {
                sink.damage(
                    &self.path,
                    offset,
                    "checksum over the record headers is wrong; the batch is not used",
                );
                return Ok(());
            }
            Ok(()) if count != u32::from(batch.record_count) => {
                sink.damage(&self.path, offset, "number of records wrong")
            }
            Ok(()) => {}
        }
        // Records before a bad header have their own checksums, and can be read.
        let _ = walk(bytes, batch, |at, header| {
            let content = &bytes[at + LINE_SIZE..at + header.record_size()];
            let (payload, padding) = content.split_at(header.length);
            let is_sound = header.check_payload(payload, padding);
            sink.record(
                &Record { header: *header, payload, is_sound },
                &self.path,
                offset + at as u64,
            );
        });
        Ok(())
    }
}

/// Calls `each` for each record of a batch. The error is the place and fault of a bad header.
fn walk(
    bytes: &[u8],
    batch: &BatchHeader,
    mut each: impl FnMut(usize, &RecordHeader),
) -> Result<(), (usize, Fault)> {
    let mut at = LINE_SIZE;
    while at < batch.size {
        let header = RecordHeader::decode(bytes.get(at..).unwrap_or_default())
            .map_err(|fault| (at, fault))?;
        if header.batch != batch.number as u32 {
            return Err((at, "record of another batch"));
        }
        if header.length > BATCH_SIZE_MAX || at + header.record_size() > bytes.len() {
            return Err((at, "record of an impossible size"));
        }
        each(at, &header);
        at += header.record_size();
    }
    Ok(())
}

/// Opens and locks the segments of a shard, oldest first. Other files are ignored.
pub fn open_all(directory: &Path, run: u64, shard: u16) -> io::Result<Vec<Segment>> {
    /// Retention may remove segments meanwhile. Then we start again with those that are left.
    const ATTEMPTS_MAX: usize = 10;
    let mut segments = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        segments.clear();
        let opened = ids(directory)?.into_iter().try_for_each(|id| {
            let path = directory.join(format!("{id:016x}.segment"));
            match Segment::open(&path, (run, shard, id)) {
                Ok(Some(segment)) => segments.push(segment),
                Ok(None) => return ControlFlow::Break(Ok(())),
                Err(error) => return ControlFlow::Break(Err(error)),
            }
            ControlFlow::Continue(())
        });
        match opened {
            ControlFlow::Continue(()) => break,
            ControlFlow::Break(Err(error)) => return Err(error),
            ControlFlow::Break(Ok(())) => {}
        }
    }
    Ok(segments)
}

fn ids(directory: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name
            .to_str()
            .and_then(|name| name.strip_suffix(".segment"))
            .filter(|digits| digits.len() == 16);
        ids.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}
