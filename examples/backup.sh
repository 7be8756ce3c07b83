#!/bin/sh
# Copies a journal beside a live node: every segment that is not being written, and the marks.
#
#   sh backup.sh DATA_DIR BACKUP_DIR
#
# Run it again to copy what is new. It removes nothing from the backup. Check the backup with
#   exo-ingest calls verify --data-dir BACKUP_DIR
#
# A segment is copied under a shared lock. The node holds an exclusive lock on what it writes, and
# retention takes one before it removes a segment or writes over it. So a copy is whole.
set -eu

[ $# -eq 2 ] || { echo 'usage: sh backup.sh DATA_DIR BACKUP_DIR' >&2; exit 2; }
source=$(cd "$1" && pwd)
mkdir -p -m 0700 "$2"
target=$(cd "$2" && pwd)

# flock(1) ends with this where the lock is refused.
readonly REFUSED=75

cd "$source"
[ ! -f boot ] || cp -p boot "$target/boot"
copied=0 left=0
for segment in run-*/shard-*/*.segment; do
    [ -f "$segment" ] && [ ! -f "$target/$segment" ] || continue
    mkdir -p -m 0700 "$target/${segment%/*}"
    status=0
    flock --shared --nonblock --conflict-exit-code "$REFUSED" "$segment" \
        cp -p "$segment" "$target/$segment.part" || status=$?
    if [ "$status" -eq 0 ]; then
        # A copy gets its name once it is whole.
        mv "$target/$segment.part" "$target/$segment"
        copied=$((copied + 1))
    elif [ "$status" -eq "$REFUSED" ] || [ ! -f "$segment" ]; then
        # It is being written, or retention has just taken it.
        left=$((left + 1))
    else
        echo "cannot copy $segment" >&2
        exit 1
    fi
done
# After the segments: what retention removed meanwhile is then marked as expired. Without marks the
# backup would count as damaged. A segment that was left shows as lost once its run has ended, until
# this is run again.
for marks in run-*/shard-*/marks; do
    [ -f "$marks" ] || continue
    mkdir -p -m 0700 "$target/${marks%/*}"
    if cp -p "$marks" "$target/$marks.next" && mv "$target/$marks.next" "$target/$marks"; then
        continue
    elif [ -f "$marks" ]; then
        echo "cannot copy $marks" >&2
        exit 1
    fi
done
sync
echo "copied: $copied, left for later: $left"
