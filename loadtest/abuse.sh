#!/usr/bin/env bash
# Starts a node, plays every kind of hostile peer at it in turn, beside live calls, and writes the
# figures as a Markdown table.
#
#     cargo build --release --workspace
#     loadtest/abuse.sh --calls 1000 --out abuse-result
#
# Node on CPU 0, generator on CPU 1, which live calls and peers share. The node has default
# settings. --kinds "slowloris pings" plays only these. --duration is the time in which peers
# connect. --realtime keeps other processes from delaying the live calls' frames. It needs python3.
set -euo pipefail
here=$(dirname "$0")
calls=1000 duration=20s calm=10s out=abuse-result directory='' realtime=''
binaries=$here/../target/release node_cpu=0 load_cpu=1
kinds="slowloris half-tls fragments empty-frames pings zero-window bad-tokens resets"
while [ $# -gt 0 ]; do
    case $1 in
    --calls) calls=$2 ;;
    --duration) duration=$2 ;;
    --calm) calm=$2 ;;
    --kinds) kinds=$2 ;;
    --out) out=$2 ;;
    --directory) directory=$2 ;;
    --binaries) binaries=$2 ;;
    --realtime) realtime=--realtime && shift && continue ;;
    *) echo "abuse.sh: $1 is no option: see the top of the file" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out"
data=$(mktemp -d "${directory:-$out}/data-XXXXXX") node=''
finish() {
    [ -z "$node" ] || { kill -TERM "$node" 2>/dev/null && wait "$node"; } || true
    rm -rf "$data"
}
trap finish EXIT

[ -f "$out/keys/private.pem" ] || "$binaries/exo-ingest" keygen --out "$out/keys" >/dev/null
"$binaries/exo-ingest" serve --jwt-key "$out/keys/public.pem" --cpus "$node_cpu" \
    --listen 127.0.0.1:0 --admin 127.0.0.1:0 --drain 2s \
    --data-dir "$data/journal" --retain-bytes 4GiB --allow-unregistered \
    >"$out/listening" 2>"$out/server.log" &
node=$!
until grep -q '^listening on ' "$out/listening" && grep -q 'admin=' "$out/server.log"; do
    kill -0 "$node" || { cat "$out/server.log" >&2; exit 1; }
    sleep 0.1
done
address=$(sed -n 's/^listening on //p' "$out/listening")
admin=$(grep -o 'admin=[0-9.:]*' "$out/server.log" | head -n 1 | cut -d= -f2)
worst=0
for kind in $kinds; do
    status=0
    "$binaries/exo-load" abuse "$kind" --url "ws://$address/v1/ingest" \
        --key "$out/keys/private.pem" --calls-live "$calls" \
        --duration "$duration" --calm "$calm" --cpus "$load_cpu" $realtime \
        --server-pid "$node" --admin "$admin" \
        --note "$("$binaries/exo-ingest" --version)" \
        --out "$out/$kind" --force | tee "$out/$kind.txt" || status=$?
    [ "$status" -le "$worst" ] || worst=$status
    # Leave time for the rest of the attack to go, above all for sockets in TIME_WAIT.
    sleep 3
done
python3 "$here/abuse_table.py" "$out" $kinds | tee "$out/table.md"
exit "$worst"
