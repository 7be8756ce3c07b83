//! `cargo run -p exo-ingest-harness --example many_segments -- DIR SEGMENTS [SHARDS]`: makes a data
//! directory with this number of small segments in each shard, with indexes and call tables.

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|number| number.parse::<u64>().ok());
    let (Some(directory), Some(segments)) = (arguments.first(), number(1)) else {
        return Err(std::io::Error::other("give a directory and a number of segments"));
    };
    for shard in 0..number(2).unwrap_or(1) {
        let directory = std::path::Path::new(directory);
        exo_ingest_harness::many_segments(directory, shard as u16, segments, true)?;
    }
    Ok(())
}
