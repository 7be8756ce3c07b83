#!/usr/bin/env bash
# Starts a node, plays every kind of hostile peer at it in turn, beside live calls, and writes the
# figures as a Markdown table.
#
#     cargo build --release --workspace
#     loadtest/abuse.sh --calls 1000 --out abuse-result
#
# Node on CPU 0, generator on CPU 1, which live calls and peers share. The node has default
# settings. half-tls and renegotiate are played at a node with TLS, where the live calls are wss://
# too. --kinds "slowloris pings" plays only these. --duration is the time in which peers connect.
# --realtime keeps other processes from delaying the live calls' frames. It needs python3 and
# openssl.
set -euo pipefail
here=$(dirname "$0")
calls=1000 duration=20s calm=10s out=abuse-result directory='' realtime=''
binaries=$here/../target/release node_cpu=0 load_cpu=1
kinds="slowloris fragments empty-frames pings zero-window bad-tokens resets half-tls renegotiate"
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
. "$here/node.sh"
data=$(mktemp -d "${directory:-$out}/data-XXXXXX")
finish() {
    stop_node
    rm -rf "$data"
}
trap finish EXIT

make_certificate
worst=0
# play TLS_OR_NOTHING KIND...: starts a node, and plays the kinds in turn.
play() {
    local tls=$1 url trust=()
    shift
    [ $# -gt 0 ] || return 0
    start_node "$node_cpu" --data-dir "$data/journal" --retain-bytes 4GiB --allow-unregistered \
        ${tls:+--tls-cert "$out/tls.pem" --tls-key "$out/tls.key"}
    url=ws://$address/v1/ingest
    if [ -n "$tls" ]; then
        url=wss://$address/v1/ingest trust=(--ca "$out/ca.pem")
    fi
    for kind in "$@"; do
        status=0
        "$binaries/exo-load" abuse "$kind" --url "$url" "${trust[@]}" \
            --key "$out/keys/private.pem" --calls-live "$calls" \
            --duration "$duration" --calm "$calm" --cpus "$load_cpu" $realtime \
            --server-pid "$node" --admin "$admin" \
            --note "$("$binaries/exo-ingest" --version)" \
            --out "$out/$kind" --force | tee "$out/$kind.txt" || status=$?
        [ "$status" -le "$worst" ] || worst=$status
        # Leave time for the rest of the attack to go, above all for sockets in TIME_WAIT.
        sleep 3
    done
    stop_node
}
plain=() secure=()
for kind in $kinds; do
    case $kind in
    half-tls | renegotiate) secure+=("$kind") ;;
    *) plain+=("$kind") ;;
    esac
done
play '' "${plain[@]}"
play tls "${secure[@]}"
python3 "$here/abuse_table.py" "$out" $kinds | tee "$out/table.md"
exit "$worst"
