#!/bin/sh
# Tests the unit beside this script, unchanged, under a systemd of its own: in new namespaces, on an
# overlay of this machine's files, with a network of its own. It leaves nothing. It needs root, and
# Linux with systemd, overlayfs and cgroup v2.
#
#   cargo build --workspace && sh tuning/try-unit.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
node=$target/debug/exo-ingest
load=$target/debug/exo-load
# shellcheck source=tuning/machine.sh
. "$here/machine.sh"

# The first process of the namespaces: it sets up the machine for the unit, and becomes its systemd.
if [ "${1:-}" = inside ]; then
    scratch=$2
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$scratch/overlay"
    lay_files "$scratch/overlay"
    mount -t tmpfs tmpfs "$root/tmp"
    # The journal is written past the cache, which the overlay's tmpfs does not support.
    mkdir -p "$root/var/lib/private" "$root/etc/exo-ingest"
    mount --bind "$scratch/state" "$root/var/lib/private"
    cp "$scratch/keys/public.pem" "$scratch/exo-ingest.toml" "$root/etc/exo-ingest/"
    cp "$node" "$root/usr/local/bin/exo-ingest"
    cp "$here/exo-ingest.service" "$here/exo-ingest.socket" "$units/"
    # Another program on the admin port, as a draining node would be.
    printf '[Socket]\nListenStream=127.0.0.1:9464\nAccept=yes\n' >"$units/blocker.socket"
    printf '[Service]\nExecStart=/bin/true\n' >"$units/blocker@.service"
    become_systemd
fi

for program in "$node" "$load"; do
    [ -x "$program" ] || give_up 'build first: cargo build --workspace'
done

# In the target directory, which is on a disk.
scratch=$(mktemp -d "$target/try-unit.XXXXXX")

finish() {
    status=$?
    end_machine
    rm -rf "$scratch"
    [ "$status" = 0 ] || echo "FAILED"
}
trap finish EXIT

mkdir "$scratch/overlay" "$scratch/state" "$scratch/keys"
# systemd makes state directories only in a private place.
chmod 0700 "$scratch/state"
"$node" keygen --out "$scratch/keys" >/dev/null 2>&1
# The ring is small: more memory must not be locked without the right to raise the limit.
cat >"$scratch/exo-ingest.toml" <<'TOML'
jwt_key = "/etc/exo-ingest/public.pem"
data_dir = "/var/lib/exo-ingest"
shards = 1
max_calls = 500
drain = "2s"
[limits]
ring_size = "6MiB"
connections_max = 2000
TOML

start_machine "$here/try-unit.sh" "$scratch"
property() {
    inside systemctl show exo-ingest --property "$1" --value
}
has() {
    property "$1" | grep -q "$2"
}
# step WORDS COMMAND…: fails with what systemd and the node say.
step() {
    words=$1
    shift
    if "$@"; then
        echo "ok    $words"
    else
        echo "not   $words"
        inside systemctl status exo-ingest --no-pager --full --lines 20 || true
        exit 1
    fi
}
play() {
    nsenter --target "$first" --net "$load" run --url ws://127.0.0.1:8443/v1/ingest \
        --key "$scratch/keys/private.pem" --tenant try --calls 10 --sendlag-max 60s \
        --cpu-max 10000 "$@"
}
is_confined() {
    inside grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' "/proc/$(property MainPID)/status" \
        >"$scratch/status"
    grep -q '^CapEff:.0*$' "$scratch/status" && grep -q '^NoNewPrivs:.1$' "$scratch/status" \
        && grep -q '^Seccomp:.2$' "$scratch/status" && ! grep -q '^Uid:.0' "$scratch/status"
}
is_up_again() {
    has ActiveState '^active$' && [ "$(property MainPID)" != "$killed" ]
}
is_tried_on() {
    [ "$(property NRestarts)" -gt 5 ]
}
is_sound() {
    inside /usr/local/bin/exo-ingest calls verify --data-dir /var/lib/exo-ingest \
        >"$scratch/verified" && grep -q '^sound' "$scratch/verified"
}

step 'start returns when the node serves' inside systemctl start exo-ingest
step 'the status line has the address' has StatusText 'listening on 0.0.0.0:8443'
step 'no root, no capabilities, system calls filtered' is_confined
step 'ten calls, every acked frame in the journal' \
    play --duration 3s --verify "$scratch/state/exo-ingest"
step 'reload' inside systemctl reload exo-ingest
step 'the status line says that the keys were read' has StatusText '; keys reloaded'
inside sh -c 'echo no key >/etc/exo-ingest/public.pem'
step 'reload of a bad file' inside systemctl reload exo-ingest
step 'the status line says that the old keys stay' has StatusText 'the old ones stay'
inside sh -c 'cat >/etc/exo-ingest/public.pem' <"$scratch/keys/public.pem"
# shellcheck disable=SC2016 # the dollar is sed's last line
inside sed -i 's/^drain = .*/drain = "1s"/; $acalls_per_tenant_max = 400' \
    /etc/exo-ingest/exo-ingest.toml
step 'reload of settings' inside systemctl reload exo-ingest
step 'the status line says that the settings were read' has StatusText '; settings reloaded'
killed=$(property MainPID)
inside kill -KILL "$killed"
step 'after SIGKILL it is started again' await is_up_again
play --duration 30s --interaction-prefix stopped- >/dev/null 2>&1 &
calls=$!
sleep 2
step 'stop with calls' inside systemctl stop exo-ingest
step 'it ended with 0' has ExecMainStatus '^0$'
step 'it ended in order' has Result '^success$'
wait "$calls" || true
step 'the journal is sound' is_sound
cat "$scratch/verified"
inside systemctl start blocker.socket
if inside systemctl start exo-ingest 2>/dev/null; then
    step 'a start with the admin port taken fails' false
fi
step 'it is tried again, more often than five times' await is_tried_on
inside systemctl stop blocker.socket
step 'it serves when what was in the way has gone' await has ActiveState '^active$'
inside systemctl stop exo-ingest
step 'start with the socket unit' inside systemctl start exo-ingest.socket exo-ingest.service
step 'ten calls through the passed socket' play --duration 4s --interaction-prefix passed-
inside systemctl stop exo-ingest.service
step 'a call through the socket starts the node again' \
    play --duration 4s --interaction-prefix woken-
inside systemctl stop exo-ingest.socket exo-ingest.service
inside mv /etc/exo-ingest/public.pem /etc/exo-ingest/away.pem
if inside systemctl start exo-ingest 2>/dev/null; then
    step 'a start without keys fails' false
fi
sleep 2
step 'a missing key is not tried again' has NRestarts '^0$'
inside systemctl reset-failed exo-ingest
inside mv /etc/exo-ingest/away.pem /etc/exo-ingest/public.pem
inside sh -c 'echo not_a_setting = 1 >>/etc/exo-ingest/exo-ingest.toml'
if inside systemctl start exo-ingest 2>/dev/null; then
    step 'a usage error fails the start' false
fi
sleep 2
step 'a usage error is not tried again' has NRestarts '^0$'
step 'it has failed' has ActiveState '^failed$'
echo PASS
