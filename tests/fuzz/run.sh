#!/usr/bin/env bash
# Fuzzes a target by coverage. See --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
Fuzzes the TLS record layer by coverage, with rustls as the reference.

Usage: tests/fuzz/run.sh [SECONDS] [TARGET] [-- OPTION...]

  SECONDS  how long to fuzz (default 60); 0 plays the corpus once
  TARGET   what to fuzz (default, and the only one: records)
  OPTION   passed on to libFuzzer, for example -jobs=4

Example: ten minutes of fuzzing, at low priority
  nice tests/fuzz/run.sh 600

It builds on stable Rust and needs a C++ compiler. The first build takes a few minutes.
Seeds are read from tests/fuzz/corpus/TARGET, and nothing is written there. New inputs are kept in
tests/fuzz/target/corpus/TARGET, so a later run continues where this one ends.
A difference is a panic. Its input is written to tests/fuzz/target/findings/. To play it again:
  tests/fuzz/run.sh 0 records -- tests/fuzz/target/findings/crash-...
Fix the fault, then add the input to tests/fuzz/corpus/TARGET: `cargo test --test tls scripts`
plays it from then on.
TEXT
}

seconds=60
target=records
case ${1:-} in
    -h | --help) usage; exit 0 ;;
esac
if [ $# -gt 0 ] && [ "$1" != -- ]; then seconds=$1; shift; fi
if [ $# -gt 0 ] && [ "$1" != -- ]; then target=$1; shift; fi
if [ $# -gt 0 ] && [ "$1" = -- ]; then shift; fi
if ! [[ $seconds =~ ^[0-9]+$ ]]; then
    echo "SECONDS is not a number: $seconds (see --help)" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ ! -d "$here/corpus/$target" ]; then
    echo "unknown TARGET: $target (see --help)" >&2
    exit 2
fi
host=$(rustc -vV | sed -n 's/^host: //p')

# The coverage that libFuzzer reads: a counter for each edge, and the operands of comparisons. With
# --target, build scripts and macros are compiled without these flags.
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags+=' -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
flags+=' -Cllvm-args=-sanitizer-coverage-pc-table'
flags+=' -Cllvm-args=-sanitizer-coverage-trace-compares'
RUSTFLAGS=$flags CARGO_TARGET_DIR=$here/target cargo build --quiet --release --locked \
    --manifest-path "$here/Cargo.toml" --target "$host" --bin "$target"
program=$here/target/$host/release/$target

kept=$here/target/corpus/$target
mkdir -p "$kept" "$here/target/findings"
if [ "$seconds" -eq 0 ]; then
    if [ $# -eq 0 ]; then set -- "$here/corpus/$target"/*; fi
    exec "$program" "$@"
fi
exec "$program" -max_total_time="$seconds" -max_len=400 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$here/target/findings/" "$@" "$kept" "$here/corpus/$target"
