//! Reads a journal by program: prints each epoch of each call, how long it is and how loud.
//!
//! ```text
//! cargo run --release --example read_journal -- exo-dev/data
//! ```
//! It works beside a live node, and offline.

#![forbid(unsafe_code)]

use exo_ingest::archive::reader::{EpochState, Journal};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::args().nth(1).ok_or("usage: read_journal DATA_DIR")?;
    let journal = Journal::open(Path::new(&data_dir))?;
    // The closure is called after each segment: for a progress bar.
    let catalog = journal.catalog(&mut || {})?;
    for call in &catalog.calls {
        for (index, epoch) in call.epochs.iter().enumerate() {
            let rate = epoch.facts.as_ref().map_or(0, |facts| facts.sample_rate);
            let (mut frame_count, mut sample_count, mut peak) = (0u64, 0u64, 0u16);
            let mut frames = journal.frames(epoch);
            while let Some(frame) = frames.next_frame()? {
                frame_count += 1;
                for sample in frame.audio.chunks_exact(2) {
                    sample_count += 1;
                    peak = peak.max(i16::from_le_bytes([sample[0], sample[1]]).unsigned_abs());
                }
            }
            let state = match epoch.state {
                EpochState::Live => "live",
                EpochState::Ended(_) => "ended",
                EpochState::Cut => "cut",
            };
            let seconds = sample_count as f64 / f64::from(rate.max(1));
            print!("{}/{} epoch {}: ", call.identity.tenant, call.identity.interaction, index + 1);
            println!("{frame_count} frames, {seconds:.1} s at {rate} Hz, peak {peak}, {state}");
        }
    }
    Ok(())
}
