#!/usr/bin/env bash
# Plays durable calls against a node whose disk stops for 2 s each minute, and checks every ACK.
#
#     cargo build --release --workspace
#     sudo loadtest/stalls.sh --calls 8000 --minutes 5 --directory /var/tmp
#
# The journal is on its own ext4, on a loop device over a file in --directory. fsfreeze(8) stops it.
# With --directory /dev/shm that file is memory, so the run shows the node and not the disk. The
# node has default settings, except for the limit on what it retains: the disk is small. Node on CPU
# 0, generator on CPU 1 at real-time priority. It needs root, e2fsprogs and util-linux.
set -euo pipefail
calls=8000 minutes=5 directory=/var/tmp size=8 out=stalls-result
here=$(dirname "$0")
binaries=$here/../target/release
while [ $# -gt 1 ]; do
    case $1 in
    --calls) calls=$2 ;;
    --minutes) minutes=$2 ;;
    --directory) directory=$2 ;;
    --size-gib) size=$2 ;;
    --out) out=$2 ;;
    --binaries) binaries=$2 ;;
    *) echo "stalls.sh: $1 is no option: see the top of the file" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out"
. "$here/node.sh"
: >"$out/freezes"
image=$(mktemp "$directory/stalls-XXXXXX") mount=$(mktemp -d) device='' freezer=''
finish() {
    [ -z "$freezer" ] || kill "$freezer" 2>/dev/null || true
    fsfreeze --unfreeze "$mount" 2>/dev/null || true
    stop_node
    umount "$mount" 2>/dev/null || true
    [ -z "$device" ] || losetup --detach "$device"
    rm -rf "$image" "$mount"
}
trap finish EXIT

# Written in full: the first write of a block costs the filesystem below (or the memory) extra work,
# which a disk that is in use does not have.
dd if=/dev/zero of="$image" bs=4M count="$((size * 256))" status=none
mkfs.ext4 -q -F -E nodiscard "$image"
# Not every filesystem supports direct IO; memory does not.
device=$(losetup --direct-io=on --find --show "$image" 2>/dev/null \
    || losetup --find --show "$image")
mount "$device" "$mount"
start_node 0 --data-dir "$mount/data" --retain-bytes "$((size * 5 / 8))GiB"
ramp=$((calls / 500 > 1 ? calls / 500 : 1))
(
    sleep $((ramp + 15))
    while true; do
        fsfreeze --freeze "$mount"
        sleep 2
        fsfreeze --unfreeze "$mount"
        echo "the disk stopped for 2 s" >>"$out/freezes"
        sleep 58
    done
) &
freezer=$!
status=0
"$binaries/exo-load" run --url "ws://$address/v1/ingest" --key "$out/keys/private.pem" \
    --calls "$calls" --cpus 1 --realtime --server-pid "$node" --duration "$((minutes * 60))s" \
    --ramp "${ramp}s" --ack-level durable --out "$out/load" --force || status=$?
counters='frames_total|receive_buffers_exhausted_total|reads_waited_max_seconds|closes_total'
counters=$counters'|standstills_total|journal_fences_total'
curl --silent "http://$admin/metrics" | grep -E "^exo_ingest_($counters)" \
    | grep -v 'closes.* 0$' || true
wc -l <"$out/freezes" | sed 's/$/ freezes/'
exit "$status"
