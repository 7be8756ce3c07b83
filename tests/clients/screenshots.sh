#!/bin/sh
# Takes screenshots of a node's web page with 100 calls, and of the report of that run: on a phone
# and on a desktop, light and dark.
#
#     cargo build --release -p exo-ingest -p exo-load
#     sh tests/clients/install.sh
#     sh tests/clients/screenshots.sh DIRECTORY
#
# It needs Chromium and Node.js. EXO_INGEST and EXO_LOAD name other programs than those of the
# release build. Those of the web page in docs/images were made like this.
set -eu

fail() { echo "screenshots.sh: $*" >&2; exit 1; }

out=${1:?"give a directory for the screenshots"}
clients=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$clients/../../target}
node=${EXO_INGEST:-$target/release/exo-ingest}
load=${EXO_LOAD:-$target/release/exo-load}
for program in "$node" "$load"; do
    [ -x "$program" ] || fail "there is no $program: cargo build --release -p exo-ingest -p exo-load"
done
[ -d "$clients/node/node_modules/ws" ] || fail "run sh tests/clients/install.sh first"
chromium=
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then chromium=$name; fi
done
[ -n "$chromium" ] || fail "Chromium is not here: apt-get install chromium"

mkdir -p "$out"
scratch=$(mktemp -d)
server=
player=
finish() {
    # They may have ended.
    for process in $player $server; do
        kill "$process" 2>/dev/null || true
        wait "$process" || true
    done
    rm -rf "$scratch"
}
trap finish EXIT
"$node" keygen --out "$scratch/keys" >/dev/null
"$node" serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --jwt-key "$scratch/keys/public.pem" \
    --data-dir "$scratch/data" --shards 1 --max-calls 1000 --claim-match tenant \
    --retain-bytes 2GiB --drain 1s --drain-grace 0s >"$scratch/said" 2>"$scratch/log" &
server=$!
# The kernel chooses the ports.
address=
for _ in $(seq 100); do
    address=$(sed -n 's#^listening on ##p' "$scratch/said")
    if [ -n "$address" ]; then break; fi
    sleep 0.1
done
[ -n "$address" ] || fail "the node does not start: $(cat "$scratch/log")"
admin=$(sed -n 's#.* admin=\([0-9.:]*\) .*#\1#p' "$scratch/log")
"$load" run --url "ws://$address/v1/ingest" --key "$scratch/keys/private.pem" \
    --tenant acme --calls 100 --ramp 2s --duration 90s --server-pid "$server" --sendlag-max 1h \
    --quiet --out "$scratch/run" >"$scratch/table" 2>&1 &
player=$!
shoot() { (cd "$clients/node" && node screenshots.mjs "$chromium" "$@"); }
absolute=$(cd "$out" && pwd)
# The page keeps the history that it has seen: a minute of it fills the charts.
shoot "http://$admin/" "$absolute" page \
    "document.querySelectorAll('#calls tbody tr').length > 5 && heat.history.length > 60"
wait "$player" || true
player=
[ -f "$scratch/run/report.html" ] || fail "there is no report: $(cat "$scratch/table")"
shoot "file://$scratch/run/report.html" "$absolute" report
ls -l "$out"
