//! Crashes at every moment of a play: the log of what was written, synced and promised is cut in
//! front of each event, and what a crash there may leave is recovered and read by the journal's own
//! reader. What was acked before the cut is there, byte for byte and in order; what was never sent
//! is not; and nothing at all is called damaged, or missing: a crash takes what was not durable, in
//! whatever order the disk had it, and that has names of its own.
//!
//! `EXO_INGEST_IMAGES=…` is how many images there are at the least; `EXO_INGEST_SEED=…` plays one
//! play alone.

#![forbid(unsafe_code)]

use super::image::{Crash, File, Files};
use super::*;
use crate::archive::layout::{
    create_data_dir, create_shard_dir, index_path, preparing_path, segment_path,
};
use crate::archive::marks::{self, Marks};
use crate::archive::reader::{CallEpoch as EpochRead, Journal};
use crate::archive::recovery::{RecoveryReport, recover, verify};
use crate::io::scripted::log::Event;
use crate::journal::writer::pace;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Images in a normal test, of the two levels together: half a minute in a debug build.
const IMAGES: u64 = 10_000;

const CUT_STEPS: usize = 90;

/// Images of each kind of crash at each cut.
const IMAGES_PER_CUT: u64 = 4;

/// A play that is over: what happened, and what its peers said and heard.
struct Story {
    events: Vec<Event>,
    peers: Vec<Peer>,
    /// The peer of each socket.
    sockets: HashMap<i32, usize>,
    /// By peer: how many events were before each of its frames was sent as a whole.
    sent_at: Vec<Vec<usize>>,
    /// The peer of each epoch.
    turns: BTreeMap<CallEpoch, usize>,
    retired: Vec<disk::Retired>,
    under_way_max: usize,
}

/// What was checked.
#[derive(Debug, Default)]
struct Tally {
    images: u64,
    cuts: u64,
    acked: u64,
    frames: u64,
    torn: u64,
    /// Images in which a later batch is there as a whole and an earlier one is not.
    reordered: u64,
    fences: u64,
    /// Plays with more than three file operations under way at once.
    deep: u64,
}

/// Says where it was if the test fails there.
struct CutNote(u64, usize, Crash, u64);

impl Drop for CutNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let CutNote(seed, cut, crash, round) = self;
            eprintln!(
                "this was EXO_INGEST_SEED={seed}, before event {cut}, {crash:?}, image {round}"
            );
        }
    }
}

fn story(seed: u64, level: AckLevel) -> Story {
    let segment_size = [16, 32, 64][seed as usize % 3] * 1024;
    let mut play = Play::on(
        seed,
        1..2,
        Some(DiskSettings { level, segment_size, backlog: backlog(seed), replication: None }),
    );
    play.is_large = false;
    play.rigs[0].world.keep_log();
    let mut sent_at: Vec<Vec<usize>> = Vec::new();
    for _ in 0..CUT_STEPS {
        let before = play.rigs[0].world.log_size();
        play.step();
        sent_at.resize(play.peers.len(), Vec::new());
        for (peer, sent_at) in play.peers.iter().zip(&mut sent_at) {
            sent_at.resize(peer.frames_sent() as usize, before);
        }
    }
    play.heal_disks();
    play.rigs[0].pass(millis(200));
    play.check();
    // What no call waits for becomes durable too, after a while: then the journal knows all turns
    // that there were.
    play.rigs[0].pass(2 * pace::AGE_MAX + millis(500));
    let rig = &mut play.rigs[0];
    let disk = rig.disk.as_mut().expect("it has one");
    let firsts = disk.frames(&rig.world).into_iter().filter(|((_, seq), _)| *seq == 1);
    let turns = firsts.map(|((epoch, _), audio)| (epoch, peer_of(&audio))).collect();
    let retired = disk.retired.clone();
    let events = rig.world.take_log();
    let sockets =
        play.peers.iter().enumerate().map(|(place, peer)| (peer.socket.0, place)).collect();
    let under_way_max = play.under_way_max;
    Story { events, sockets, sent_at, turns, retired, under_way_max, peers: play.peers }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|name| name == "index")
}

/// The directory in which images are stored, and what is in it.
struct Store {
    data_dir: tempfile::TempDir,
    shard_dir: PathBuf,
    stored: BTreeMap<PathBuf, Vec<u8>>,
    /// How often a file has been changed.
    changes: HashMap<PathBuf, u64>,
    /// By turn: how its files were when it was last compared, and what was there of it.
    compared: HashMap<CallEpoch, (Vec<u64>, u64)>,
}

impl Store {
    fn new() -> Store {
        // In memory where there is such a place: thousands of images are written, and none is to be
        // kept.
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let data_dir = made.or_else(|_| tempfile::tempdir()).expect("a directory");
        create_data_dir(data_dir.path()).expect("a data directory");
        let shard_dir =
            create_shard_dir(data_dir.path(), &disk::RUN, 0).expect("a shard's directory");
        Marks::new(1).store(&shard_dir).expect("it has room");
        let (stored, changes, compared) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Store { data_dir, shard_dir, stored, changes, compared }
    }

    /// Makes the directory hold these files, and of those that recovery has added the indexes of
    /// what has not changed.
    fn put(&mut self, files: BTreeMap<PathBuf, Vec<u8>>) {
        let segments: Vec<&PathBuf> = files.keys().filter(|path| !is_index(path)).collect();
        let changed: Vec<bool> =
            segments.iter().map(|path| self.stored.get(*path) != files.get(*path)).collect();
        // What a segment's index says depends on the next one, too.
        let is_kept = |path: &Path| {
            let place = segments.iter().position(|segment| path == segment.with_extension("index"));
            let is_last_same =
                segments.len() == self.stored.keys().filter(|path| !is_index(path)).count();
            place.is_some_and(|at| {
                !changed[at] && changed.get(at + 1).map_or(is_last_same, |changed| !changed)
            })
        };
        for entry in std::fs::read_dir(&self.shard_dir).expect("it is there") {
            let path = entry.expect("an entry").path();
            let is_marks = path == marks::path(&self.shard_dir);
            if !files.contains_key(&path) && !is_kept(&path) && !is_marks {
                std::fs::remove_file(&path).expect("it is ours");
            }
        }
        for (path, bytes) in &files {
            if is_index(path) || self.stored.get(path) != Some(bytes) {
                std::fs::write(path, bytes).expect("it has room");
            }
        }
        let gone = self.stored.keys().filter(|path| !files.contains_key(*path));
        let new = files
            .iter()
            .filter(|(path, bytes)| self.stored.get(*path) != Some(bytes))
            .map(|(path, _)| path);
        gone.chain(new).for_each(|path| *self.changes.entry(path.clone()).or_default() += 1);
        self.stored = files;
    }

    /// What all that a turn is read from was like: its segments, and the next one, which
    /// says where they end.
    fn state_of(&self, turn: &EpochRead) -> Vec<u64> {
        let (first, last) = (turn.parts.first(), turn.parts.last());
        let range = first.map_or(0, |part| part.segment)..last.map_or(0, |part| part.segment + 2);
        let changes =
            |place| self.changes.get(&segment_path(&self.shard_dir, place as u64 + 1)).copied();
        range.map(|place| changes(place).unwrap_or(0)).collect()
    }
}

impl Story {
    /// Cuts it before each event, and after the last.
    fn cut(&self, seed: u64, level: AckLevel, stores: &mut [Store; 2], tally: &mut Tally) {
        let mut files = Files::default();
        let (mut heard, mut promised) =
            (vec![Vec::new(); self.peers.len()], vec![0; self.peers.len()]);
        for cut in 0..=self.events.len() {
            let event = self.events.get(cut);
            // What a peer is told changes nothing on the disk: the cut after it asks for more.
            if !matches!(event, Some(Event::Told { .. })) {
                tally.cuts += 1;
                for (crash, store) in [Crash::Power, Crash::Kill].into_iter().zip(&mut *stores) {
                    // Only a sync makes promises that outlive a power loss.
                    let is_kept = level == AckLevel::Durable || crash == Crash::Kill;
                    let promised = if is_kept { promised.clone() } else { vec![0; promised.len()] };
                    // Where nothing is left to chance one image tells all.
                    let rounds = if files.is_sure(crash) { 1 } else { IMAGES_PER_CUT };
                    for round in 0..rounds {
                        let _note = CutNote(seed, cut, crash, round);
                        let mut dice =
                            Dice(seed ^ (cut as u64) << 20 ^ (crash as u64) << 50 ^ round << 56);
                        self.lay_out(&files, (cut, crash), store, &mut dice);
                        self.check((&files, cut, crash), &promised, store, tally);
                    }
                }
            }
            let Some(event) = event else { return };
            files.play(event);
            if let Event::Told { socket, bytes } = event {
                let peer = self.sockets[&socket.0];
                heard[peer].extend_from_slice(bytes);
                promised[peer] = acked(&heard[peer]);
            }
        }
    }

    /// Stores what a crash before event `cut` may leave.
    fn lay_out(
        &self,
        files: &Files,
        (cut, crash): (usize, Crash),
        store: &mut Store,
        dice: &mut Dice,
    ) {
        let dir = &store.shard_dir;
        let mut left = BTreeMap::new();
        for (place, file) in files.files.values().enumerate() {
            let id = place as u64 + 1;
            let mut image = file.left(crash, dice);
            let retired =
                self.retired.iter().find(|retired| retired.id == id && retired.position <= cut);
            if let Some(retired) = retired
                && !retired.is_fenced
            {
                // The store cuts it to its end, and nothing makes that durable.
                if crash == Crash::Kill || dice.once_in(2) {
                    image.truncate(retired.size as usize);
                }
                // Its index is written beside it, and not synced either.
                match dice.within(0..6) {
                    0 => left.insert(index_path(dir, id), Vec::new()),
                    1 => left.insert(
                        index_path(dir, id),
                        (0..dice.within(1..5_000)).map(|_| dice.roll() as u8).collect(),
                    ),
                    _ => None,
                };
            }
            left.insert(segment_path(dir, id), image);
        }
        // The next file is being made: it may be there under either name, and with any length.
        let next = files.files.len() as u64 + 1;
        let is_next = |event: &&Event| matches!(event, Event::Created { .. });
        if let Some(Event::Created { size, .. }) = self.events[cut..].iter().take(3).find(is_next) {
            let path =
                if dice.once_in(2) { preparing_path(dir, next) } else { segment_path(dir, next) };
            let length = dice.one_of(&[0, *size, size / 2, 512]);
            if dice.once_in(2) {
                left.insert(path, vec![0; length]);
            }
        }
        store.put(left);
    }

    /// Recovers what was stored, and compares it with what was said.
    fn check(
        &self,
        (files, cut, crash): (&Files, usize, Crash),
        promised: &[u64],
        store: &mut Store,
        tally: &mut Tally,
    ) {
        let dir = store.data_dir.path();
        let report = recover(dir, &mut || {}).expect("a directory that can be read");
        let shard_dir = store.shard_dir.clone();
        let file = |path: &Path| {
            let mut named = (1..).map(|id| segment_path(&shard_dir, id)).zip(files.files.values());
            named.find(|(name, _)| name == path).map(|(_, file)| file)
        };
        let may_be_hit = |path: &Path, offset: u64| {
            file(path).is_none_or(|file: &File| offset >= file.sure_end(crash))
        };
        // A crash damages nothing that was durable, and what was not is no damage.
        assert!(report.is_sound(), "nothing here is damage: {report}");
        for torn in &report.torn_tails {
            assert!(may_be_hit(&torn.file, torn.offset), "torn where it is whole: {report}");
        }
        let journal = Journal::open(dir).expect("a directory that can be read");
        let catalog = journal.catalog(&mut || {}).expect("a directory that can be read");
        let mut kept = vec![0; self.peers.len()];
        for turn in catalog.calls.iter().flat_map(|call| &call.epochs).chain(&catalog.nameless) {
            let Some(&peer) = self.turns.get(&turn.epoch) else {
                assert!(turn.frames.is_empty(), "frames of a turn that there never was");
                continue;
            };
            let state = store.state_of(turn);
            if let Some((compared, count)) = store.compared.get(&turn.epoch)
                && *compared == state
            {
                // The same files as before an earlier event: what they hold was sent before
                // that.
                kept[peer] = *count;
                continue;
            }
            let mut frames = journal.frames(turn);
            while let Some(frame) = frames.next_frame().expect("a file that can be read") {
                let (seq, sent_at) = (frame.seq.0, &self.sent_at[peer]);
                assert!(
                    sent_at.get(seq as usize - 1).is_some_and(|at| *at <= cut),
                    "frame {seq} of {peer} was not sent yet"
                );
                assert!(
                    frame.audio == self.peers[peer].tone(seq),
                    "frame {seq} of {peer} is another"
                );
                kept[peer] += u64::from(kept[peer] + 1 == seq);
                tally.frames += 1;
            }
            store.compared.insert(turn.epoch, (state, kept[peer]));
        }
        for (peer, promised) in promised.iter().enumerate() {
            assert!(
                kept[peer] >= *promised,
                "peer {peer}: {promised} acked, {} there: {report}",
                kept[peer]
            );
        }
        if tally.images.is_multiple_of(16) {
            self.check_again(store, &report);
        }
        tally.images += 1;
        tally.acked += promised.iter().sum::<u64>();
        tally.torn += u64::from(!report.torn_tails.is_empty());
        tally.reordered += u64::from(report.bytes_unsynced > 0);
    }

    /// Recovery changes no byte of a segment and adds indexes, which say what the segments do.
    fn check_again(&self, store: &Store, first: &RecoveryReport) {
        let dir = store.data_dir.path();
        let again = recover(dir, &mut || {}).expect("a directory that can be read");
        let all = verify(&Journal::open(dir).expect("it can be read"), &mut || {})
            .expect("it can be read");
        let counts = |report: &RecoveryReport| {
            let RecoveryReport { calls, epochs, frames, audio_bytes, records, bytes, .. } = report;
            (
                *calls,
                *epochs,
                *frames,
                *audio_bytes,
                *records,
                *bytes,
                report.torn_tails.clone(),
                report.missing.clone(),
            )
        };
        assert_eq!(counts(first), counts(&again));
        assert_eq!(counts(first), counts(&all));
        assert!(first.damages.iter().all(|damage| all.damages.contains(damage)));
        assert_eq!(first.damages.len() as u64 + first.damages_known, all.damages.len() as u64);
        for (path, bytes) in &store.stored {
            if is_index(path) {
                continue;
            }
            assert!(std::fs::read(path).unwrap() == *bytes, "{}", path.display());
        }
    }
}

fn cut_all(level: AckLevel) {
    let start = std::time::Instant::now();
    let (images, mut tally) = (number("EXO_INGEST_IMAGES").unwrap_or(IMAGES) / 2, Tally::default());
    // Of one kind of crash, an image is like the one before it but for its end.
    let mut stores = [Store::new(), Store::new()];
    let only = number("EXO_INGEST_SEED");
    let mut plays = 0;
    for seed in only.map_or(1..=u64::MAX, |seed| seed..=seed) {
        if tally.images >= images {
            break;
        }
        let _note = SeedNote(seed);
        let story = story(seed, level);
        stores.iter_mut().for_each(|store| store.compared.clear());
        tally.fences += story.retired.iter().filter(|retired| retired.is_fenced).count() as u64;
        tally.deep += u64::from(story.under_way_max > 3);
        story.cut(seed, level, &mut stores, &mut tally);
        plays += 1;
    }
    println!("{}: {plays} plays, {tally:?}, {:.1?}", level.name(), start.elapsed());
    let Tally { acked, torn, fences, reordered, deep, .. } = tally;
    let is_full = [acked, torn, fences, reordered, deep].iter().all(|count| *count > 0);
    assert!(only.is_some() || is_full, "nothing was tested: {tally:?}");
}

#[test]
fn what_was_acked_durable_is_there_after_a_crash_at_any_moment() {
    cut_all(AckLevel::Durable);
}

#[test]
fn what_was_acked_written_is_there_after_a_kill_at_any_moment() {
    cut_all(AckLevel::Written);
}
