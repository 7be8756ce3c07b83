//! The seeds of the fuzzer, and what it has found: our record layer and rustls read each of them
//! alike. `tests/fuzz/run.sh` looks for more.

#[path = "../fuzz/driver/mod.rs"]
mod driver;

use std::path::Path;

#[test]
fn rustls_and_the_record_layer_read_the_same() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/records");
    let mut played = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is there") {
        let path = entry.expect("a file").path();
        let script = std::fs::read(&path).expect("a file is read");
        // Shown with a failure.
        println!("{}", path.display());
        driver::play(&script);
        played += 1;
    }
    assert!(played >= 60, "{played} scripts");
}
