//! `exo-ingest man` and `exo-ingest completions`: each command has a page, and shells and man take
//! what is written.

use crate::EXO_INGEST;
use exo_ingest_harness::Documented;

const PROGRAM: Documented = Documented { path: EXO_INGEST, name: "exo-ingest" };

#[test]
fn every_command_has_a_page_that_man_takes() {
    PROGRAM.every_command_has_a_page_that_man_takes();
}

#[test]
fn a_page_reads_like_the_help() {
    let Some(page) = PROGRAM.page("serve") else { return };
    for line in [
        "exo-ingest serve --config /etc/exo-ingest/exo-ingest.toml --cpus 2-9 --log json",
        "--data-dir /var/lib/exo-ingest \\",
        "    --tls-cert exo.pem --tls-key exo-key.pem",
        "SIGTERM or SIGINT drains and exits 0",
        "--listen <IP:PORT>",
    ] {
        assert!(page.contains(line), "{line}:\n{page}");
    }
}

#[test]
fn shells_take_the_completions() {
    PROGRAM.shells_take_the_completions("export", "data-dir");
}

#[test]
fn bash_completes_a_command_and_a_flag() {
    assert_eq!(PROGRAM.bash_completes("exo-ingest calls ex"), "export\n");
    assert_eq!(PROGRAM.bash_completes("exo-ingest serve --data-"), "--data-dir\n");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    PROGRAM.a_directory_that_cannot_be_made_is_named();
}
