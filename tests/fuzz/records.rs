//! The fuzz target: an input is a script for [`driver::play`].
#![no_main]

mod driver;

libfuzzer_sys::fuzz_target!(|script: &[u8]| driver::play(script));
