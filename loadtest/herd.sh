#!/usr/bin/env bash
# Plays live wss:// calls beside a herd: many wss:// clients that lose their connections at one
# moment and come back at once. Shows the ACKs of the live calls second by second.
#
#     cargo build --release --workspace
#     loadtest/herd.sh --live 1000 --herd 10000 --out herd-result
#
# The node runs on CPU 0. The live calls and the herd are two processes on CPU 1. The live calls
# have real-time priority, so the herd's own work does not delay them. A client of the herd sends a
# frame of 8 kHz audio a second: 10,000 of them are few bytes and many handshakes. They resume with
# tickets. It needs root or `ulimit -r 1`, openssl, curl and python3.
set -euo pipefail
here=$(dirname "$0")
live=1000 herd=10000 out=herd-result binaries=$here/../target/release directory=''
while [ $# -gt 1 ]; do
    case $1 in
    --live) live=$2 ;;
    --herd) herd=$2 ;;
    --out) out=$2 ;;
    --directory) directory=$2 ;;
    --binaries) binaries=$2 ;;
    *) echo "herd.sh: $1 is no option: see the top of the file" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out"
. "$here/node.sh"
data=$(mktemp -d "${directory:-$out}/data-XXXXXX") calls=''
finish() {
    [ -z "$calls" ] || kill "$calls" 2>/dev/null || true
    stop_node
    rm -rf "$data"
}
trap finish EXIT

make_certificate
start_node 0 --tls-cert "$out/tls.pem" --tls-key "$out/tls.key" --max-calls "$((live + herd))" \
    --data-dir "$data/journal" --retain-bytes 4GiB

# A token takes a millisecond to make, on the CPU that both processes share.
start=$(($(date +%s) + 10 + (live + herd) / 500)) ramp=$((herd / 400 > 5 ? herd / 400 : 5))
storm=$((ramp + 15)) end=$((ramp + 45))
load() { # the arguments that both processes have
    "$binaries/exo-load" run --url "wss://$address/v1/ingest" --ca "$out/ca.pem" --cpus 1 \
        --key "$out/keys/private.pem" --server-pid "$node" --ack-level durable --force \
        --start-at "$start" "$@"
}
load --realtime --calls "$live" --ramp 5s --duration "$((end - 5))s" --out "$out/live" \
    >"$out/live.txt" 2>&1 &
calls=$!
status=0
load --tls-resume --interaction-prefix herd- --calls "$herd" --sample-rate 8000 --frame-ms 1000 \
    --ack-timeout 20s --setup-timeout 60s --ramp "${ramp}s" --duration "$((end - ramp))s" \
    --reconnect-all-at "${storm}s" --reconnect-share 1 --out "$out/herd" >"$out/herd.txt" 2>&1 ||
    status=$?
wait "$calls" || status=$?
calls=''
echo "live calls:" && grep -E '^(ack|calls|server|PASS|FAIL|INVALID) ?' "$out/live.txt"
echo "the herd:" && grep -E '^(storm|calls|tls|PASS|FAIL|INVALID)' "$out/herd.txt"
python3 - "$out/live/intervals.csv" "$storm" <<'PYTHON'
import csv, sys

storm = float(sys.argv[2])
print("seconds from the storm | ACKs | p50 ms | p99 ms | worst ms")
for row in csv.DictReader(open(sys.argv[1])):
    seconds = float(row["seconds"]) - storm
    if -5 <= seconds <= 15 and row["acks"] != "0":
        ms = [int(row[f"ack_{name}_us"]) / 1000 for name in ("p50", "p99", "max")]
        print(f"{seconds:22.0f} | {row['acks']:>4} |" + " |".join(f"{one:7.1f}" for one in ms))
PYTHON
exit "$status"
