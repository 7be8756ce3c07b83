//! A store of objects: S3, Google Cloud Storage, Azure, or a plain directory.
//!
//! An object is put with *create-only*: the store refuses it if the name is taken. Then the end of
//! the object that is there is compared with ours. The end has the checksum of the whole, so equal
//! ends mean equal objects. A store that ignores create-only replaces an object by the same bytes.
//!
//! Requests that fail for a passing reason are made again, with growing pauses, and each retry is
//! told. A refusal (401, 403) and a bucket that does not exist (404) end the work at once.

#![forbid(unsafe_code)]

use super::slice::{NodeName, ObjectName, SliceError, SliceIndex, SliceTail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, UpdateVersion,
};
use retry::Retry;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod open;
mod retry;

pub(crate) use open::CA;
pub use open::SinkOptions;
pub use retry::OnRetry;

/// Bytes that the first lookup reads from the end of a slice, before it knows how many it needs.
/// Later ones read as much as was needed so far, in steps, but no more than this at once.
const LOOKUP_STEP: u64 = 32 * 1024;
const LOOKUP_MAX: u64 = 512 * 1024;

/// Bytes of a part of a large object. A WAV file of 4 GiB has 512 of them; S3 takes 10,000.
const PART_SIZE: usize = 8 * 1024 * 1024;

/// How often an object is read again because others have replaced it meanwhile.
const CHANGE_ROUNDS: u32 = 20;

/// Why a store could not do something: one sentence that says what to do.
#[derive(Debug)]
pub enum SinkError {
    /// The URL or an option is wrong.
    Usage(String),
    /// The store refused, or does not answer, or has no such place.
    Store(String),
    /// An object of this name is there, with other bytes.
    Differs(String),
}

impl fmt::Display for SinkError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SinkError::Usage(text) | SinkError::Store(text) | SinkError::Differs(text) => {
                formatter.write_str(text)
            }
        }
    }
}

impl std::error::Error for SinkError {}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is there now.
    New,
    /// It was there already, with the same bytes.
    Before,
}

/// What became of an object that was to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<T> {
    /// It was replaced.
    Made(T),
    /// It stays as it was.
    Nothing,
    /// It is not there.
    Gone,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes.
    pub size: u64,
    /// What the store says of its content: it changes with it.
    pub tag: Option<String>,
}

/// A store, opened.
#[derive(Debug)]
pub struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    puts: PutOptions,
    retry: Retry,
    requests: AtomicU64,
    /// Bytes to read from the end of the next slice.
    lookup_guess: AtomicU64,
}

impl ObjectSink {
    /// The URL, as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests that were made so far.
    pub fn request_count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests among them that were made again.
    pub fn retry_count(&self) -> u64 {
        self.retry.count()
    }

    /// The object's path. Its name is taken as it is: ids in it are encoded already.
    fn path(&self, name: &str) -> Path {
        let whole = format!("{}/{name}", self.prefix);
        Path::parse(whole.trim_start_matches('/')).unwrap_or_else(|_| Path::from(whole))
    }

    /// Makes a request, and makes it again after a passing failure. The outer error is one that
    /// more requests do not help with.
    async fn request<T>(
        &self,
        what: &str,
        operation: impl AsyncFn() -> Result<T, Error>,
    ) -> Result<Result<T, Refusal>, SinkError> {
        let counted = async || {
            self.requests.fetch_add(1, Ordering::Relaxed);
            operation().await
        };
        match self.retry.run(what, counted).await {
            Ok(done) => Ok(Ok(done)),
            Err(Error::NotFound { .. }) => Ok(Err(Refusal::NotFound)),
            // SeaweedFS and some others answer 412, S3 answers 412 or 409.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                Ok(Err(Refusal::Exists))
            }
            Err(error) => Err(SinkError::Store(self.retry.sentence(&self.url, what, &error))),
        }
    }

    /// Stores an object whose last `tail_size` bytes tell it from any other.
    pub async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        tail_size: usize,
    ) -> Result<Stored, SinkError> {
        let path = self.path(name);
        let put = async || {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.store.put_opts(&path, payload, self.puts.clone()).await
        };
        match self.request(&format!("put {name}"), put).await? {
            Ok(_) => Ok(Stored::New),
            Err(Refusal::NotFound) => Err(self.no_such_place()),
            Err(Refusal::Exists) => self.compare(name, &bytes, tail_size).await,
        }
    }

    async fn compare(
        &self,
        name: &str,
        bytes: &Bytes,
        tail_size: usize,
    ) -> Result<Stored, SinkError> {
        let differs = || {
            SinkError::Differs(format!(
                "{name} is in {} already, with other bytes: if audio was deleted from the journal \
                 after it was sent, delete the call from the archive too; if two nodes have the \
                 same name, give each its own --node",
                self.url
            ))
        };
        let tail_size = tail_size.min(bytes.len());
        match self.tail(name, tail_size as u64).await? {
            // Removed since.
            None => Err(self.no_such_place()),
            Some((tail, size)) => {
                let ours = &bytes[bytes.len() - tail_size..];
                let is_same = size == bytes.len() as u64 && tail == ours;
                if is_same { Ok(Stored::Before) } else { Err(differs()) }
            }
        }
    }

    fn no_such_place(&self) -> SinkError {
        SinkError::Store(format!(
            "{} does not exist: create the bucket or container, or correct the URL (404)",
            self.url
        ))
    }

    /// The last `size` bytes of an object, and how many it has. `None`: it is not there.
    async fn tail(&self, name: &str, size: u64) -> Result<Option<(Bytes, u64)>, SinkError> {
        let path = self.path(name);
        let get = async || {
            let options =
                GetOptions { range: Some(GetRange::Suffix(size)), ..GetOptions::default() };
            let found = self.store.get_opts(&path, options).await?;
            let whole = found.meta.size;
            Ok((found.bytes().await?, whole))
        };
        Ok(self.request(&format!("get the end of {name}"), get).await?.ok())
    }

    /// The index of a slice. `None`: it is not there.
    pub async fn slice_index(
        &self,
        name: &ObjectName,
    ) -> Result<Option<Result<SliceIndex, SliceError>>, SinkError> {
        let end = self.slice_end(name).await?;
        Ok(end.map(|(bytes, size)| SliceIndex::decode(&bytes, size)))
    }

    /// The end of a slice with its index, and how many bytes the slice has. `None`: it is not there.
    pub(super) async fn slice_end(
        &self,
        name: &ObjectName,
    ) -> Result<Option<(Bytes, u64)>, SinkError> {
        let name = name.to_string();
        let guess = self.lookup_guess.load(Ordering::Relaxed);
        let Some((mut end, size)) = self.tail(&name, guess).await? else { return Ok(None) };
        if let Ok(found) = SliceTail::decode(&end)
            && found.object_size == size
        {
            let needed = found.lookup_size();
            if needed > end.len() as u64 {
                match self.tail(&name, needed).await? {
                    Some((again, _)) => end = again,
                    None => return Ok(None),
                }
            }
            // Slices of an archive are like each other.
            let next = needed.next_multiple_of(LOOKUP_STEP);
            self.lookup_guess.fetch_max(next.min(LOOKUP_MAX), Ordering::Relaxed);
            end = end.slice(end.len() - (end.len() as u64).min(needed) as usize..);
        }
        Ok(Some((end, size)))
    }

    /// A whole object. `None`: it is not there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, SinkError> {
        let path = self.path(name);
        let get = async || self.store.get(&path).await?.bytes().await;
        Ok(self.request(&format!("get {name}"), get).await?.ok())
    }

    /// Parts of an object. `None`: it is not there.
    pub async fn get_ranges(
        &self,
        name: &str,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, SinkError> {
        let path = self.path(name);
        let get = async || self.store.get_ranges(&path, ranges).await;
        Ok(self.request(&format!("get parts of {name}"), get).await?.ok())
    }

    /// Stores an object in place of the one of that name.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), SinkError> {
        let path = self.path(name);
        let put = async || {
            let puts = PutOptions { mode: PutMode::Overwrite, ..self.puts.clone() };
            self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), puts).await
        };
        match self.request(&format!("replace {name}"), put).await? {
            Ok(_) => Ok(()),
            Err(_) => Err(self.no_such_place()),
        }
    }

    /// Replaces an object by what `make` makes of it, and returns what `make` says of that. If the
    /// object was replaced since it was read, as by another command that erases another call, it
    /// is read again. Directories, and stores that do not know this condition, replace it even so.
    /// `make` may leave it as it is.
    pub(super) async fn change<T, E>(
        &self,
        name: &str,
        make: impl Fn(&[u8]) -> Result<Option<(Bytes, T)>, E>,
    ) -> Result<Result<Change<T>, E>, SinkError> {
        let path = self.path(name);
        for _ in 0..CHANGE_ROUNDS {
            let get = async || {
                let found = self.store.get(&path).await?;
                let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
                Ok((found.bytes().await?, UpdateVersion { e_tag, version }))
            };
            let Ok((before, version)) = self.request(&format!("get {name}"), get).await? else {
                return Ok(Ok(Change::Gone));
            };
            let (bytes, made) = match make(&before) {
                Ok(Some(made)) => made,
                Ok(None) => return Ok(Ok(Change::Nothing)),
                Err(error) => return Ok(Err(error)),
            };
            let put = async |mode| {
                let puts = PutOptions { mode, ..self.puts.clone() };
                self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), puts).await
            };
            let put = async || match put(PutMode::Update(version.clone())).await {
                Err(Error::NotImplemented { .. }) => put(PutMode::Overwrite).await,
                done => done,
            };
            if self.request(&format!("replace {name}"), put).await?.is_ok() {
                return Ok(Ok(Change::Made(made)));
            }
        }
        Err(SinkError::Store(format!(
            "{name} in {} is replaced by others all the time: try again when they are done",
            self.url
        )))
    }

    /// Removes an object. Returns whether there was one, where the store says so.
    pub async fn remove(&self, name: &str) -> Result<bool, SinkError> {
        let path = self.path(name);
        let remove = async || self.store.delete(&path).await;
        Ok(self.request(&format!("remove {name}"), remove).await?.is_ok())
    }

    /// Whether an object is there.
    pub async fn has(&self, name: &str) -> Result<bool, SinkError> {
        let path = self.path(name);
        let head = async || self.store.head(&path).await;
        Ok(self.request(&format!("look at {name}"), head).await?.is_ok())
    }

    /// Stores a file as an object, in parts if it is large. Replaces an object of the name. Memory
    /// is bounded.
    pub async fn put_file(&self, name: &str, file: &File, size: u64) -> Result<(), SinkError> {
        let path = self.path(name);
        let PutOptions { tags, attributes, .. } = self.puts.clone();
        let put = async || {
            if size <= PART_SIZE as u64 {
                let payload = PutPayload::from_bytes(part(file, 0, size)?);
                let puts = PutOptions { mode: PutMode::Overwrite, ..self.puts.clone() };
                return self.store.put_opts(&path, payload, puts).await.map(drop);
            }
            let options = PutMultipartOptions {
                tags: tags.clone(),
                attributes: attributes.clone(),
                ..PutMultipartOptions::default()
            };
            let mut upload = self.store.put_multipart_opts(&path, options).await?;
            for at in (0..size).step_by(PART_SIZE) {
                let sent = match part(file, at, size) {
                    Ok(bytes) => upload.put_part(PutPayload::from_bytes(bytes)).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = sent {
                    // Its parts cost money until they are removed. A store may refuse that too.
                    let _ = upload.abort().await;
                    return Err(error);
                }
            }
            upload.complete().await.map(drop)
        };
        match self.request(&format!("put {name}"), put).await? {
            Ok(()) => Ok(()),
            Err(_) => Err(self.no_such_place()),
        }
    }

    /// Puts a small object, reads it, and removes it: so a start shows what is wrong.
    pub async fn probe(&self, node: &NodeName) -> Result<(), SinkError> {
        let name = format!("v1/{node}/probe-{}", std::process::id());
        let bytes = Bytes::from_static(b"exo-ingest\n");
        self.replace(&name, bytes.clone()).await?;
        if self.get(&name).await?.as_ref() != Some(&bytes) {
            return Err(SinkError::Store(format!(
                "{} does not give back what was put: {name} is missing or differs",
                self.url
            )));
        }
        self.remove(&name).await?;
        Ok(())
    }

    /// The names of objects in the directory of `name` that begin with it.
    pub async fn names_from(&self, name: &str) -> Result<Vec<String>, SinkError> {
        let from = self.path(name);
        let dir = self.path(name.rsplit_once('/').map_or("", |(dir, _)| dir));
        let list = async || {
            // A store with many names in the directory begins its listing there.
            let found = self.store.list_with_offset(Some(&dir), &from).try_filter_map(
                async |meta: object_store::ObjectMeta| {
                    let is_ours = meta.location.as_ref().starts_with(from.as_ref());
                    let below = meta.location.as_ref().strip_prefix(self.prefix.as_ref());
                    let below = below.map(|below| below.trim_start_matches('/').to_owned());
                    Ok(below.filter(|_| is_ours))
                },
            );
            found.boxed().try_collect::<Vec<_>>().await
        };
        let found = self.request(&format!("list {name}"), list).await?;
        Ok(found.unwrap_or_default())
    }

    /// The objects of the archive whose names begin with `prefix`, in order. Others are left out.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, SinkError> {
        let path = self.path(prefix);
        let list = async || {
            let pages = self.store.list(Some(&path));
            let found = pages.map_ok(|meta| {
                let below = meta.location.as_ref().strip_prefix(self.prefix.as_ref());
                let name = ObjectName::parse(below?.trim_start_matches('/'))?;
                Some(Listed { name, size: meta.size, tag: meta.e_tag })
            });
            found.try_filter_map(async |listed| Ok(listed)).boxed().try_collect::<Vec<_>>().await
        };
        match self.request(&format!("list {prefix}"), list).await? {
            Ok(mut found) => {
                found.sort_unstable();
                Ok(found)
            }
            Err(_) => Err(self.no_such_place()),
        }
    }
}

/// An answer that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Exists,
}

/// The bytes of a part of a file.
fn part(file: &File, at: u64, size: u64) -> Result<Bytes, Error> {
    let mut bytes = vec![0; (size - at).min(PART_SIZE as u64) as usize];
    let read = file.read_exact_at(&mut bytes, at);
    read.map_err(|error| Error::Generic { store: "file", source: Box::new(error) })?;
    Ok(bytes.into())
}

/// How objects are put unless options say more.
fn create_only() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}
