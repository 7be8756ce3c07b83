//! `exo-load man` and `exo-load completions`: each command has a page, and shells and man take what
//! is written.

use exo_ingest_harness::Documented;

const PROGRAM: Documented = Documented { path: env!("CARGO_BIN_EXE_exo-load"), name: "exo-load" };

#[test]
fn every_command_has_a_page_that_man_takes() {
    PROGRAM.every_command_has_a_page_that_man_takes();
}

#[test]
fn a_page_reads_like_the_help() {
    let Some(page) = PROGRAM.page("capacity") else { return };
    for line in [
        "exo-load capacity --calls 16000 --duration 30s --slo 'ack.p99.9<50ms' \\",
        "    --key private.pem --cpus 1",
        "--node <COMMAND>",
        "capacity.schema.json",
    ] {
        assert!(page.contains(line), "{line}:\n{page}");
    }
}

#[test]
fn shells_take_the_completions() {
    PROGRAM.shells_take_the_completions("capacity", "calls-min");
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    assert_eq!(PROGRAM.bash_completes("exo-load cap"), "capacity\n");
    assert_eq!(PROGRAM.bash_completes("exo-load capacity --calls-m"), "--calls-min\n");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    PROGRAM.a_directory_that_cannot_be_made_is_named();
}
