#!/bin/sh
# Tries the Debian package that package.sh has built: in a fresh root of the distribution that this
# machine has, it is installed, used, upgraded, removed and purged. The root is removed at the end.
# It needs root, mmdebstrap, lintian, and a mirror of Debian.
#
#     sh tuning/package.sh && sudo sh tuning/try-package.sh [--root-tar FILE] [target/debian/*.deb]
#
# --root-tar keeps the fresh root in a file, and uses it the next time.
set -eu

fail() { echo "FAILED: $*" >&2; exit 1; }

here=$(cd "$(dirname "$0")/.." && pwd)
tar=
if [ "${1:-}" = --root-tar ]; then
    tar=${2:?"--root-tar takes a file"}
    shift 2
fi
package=${1:-$(find "$here/target/debian" -name 'exo-ingest_*.deb' | sort | tail -n 1)}
[ -f "$package" ] || fail "there is no package: run sh tuning/package.sh"
[ "$(id -u)" = 0 ] || fail "a root of its own takes root"
for tool in mmdebstrap lintian; do
    command -v $tool >/dev/null || fail "$tool is not here: apt-get install $tool"
done

scratch=$(mktemp -d)
root=$scratch/root
finish() {
    status=$?
    if mountpoint -q "$root/proc"; then umount "$root/proc"; fi
    rm -rf "$scratch"
    [ "$status" = 0 ] && echo PASS
}
trap finish EXIT
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
step() { # WORDS COMMAND…
    words=$1
    shift
    if "$@" >"$scratch/now" 2>&1; then
        echo "ok    $words"
        [ ! -s "$scratch/now" ] || cp "$scratch/now" "$scratch/said"
    else
        echo "not   $words"
        cat "$scratch/now"
        exit 1
    fi
}
# Whether the last step that printed anything printed this.
says() { grep -q "$1" "$scratch/said"; }

mkdir "$root"
if [ ! -f "${tar:=$scratch/root.tar}" ]; then
    # shellcheck disable=SC1091 # a file of the machine
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    step 'a fresh root, which takes a minute' mmdebstrap --quiet --variant=minbase \
        --include=adduser,procps,systemd "$suite" "$tar"
fi
tar -xf "$tar" -C "$root" --exclude='./dev/*'
mount -t proc proc "$root/proc"
cp "$package" "$root/new.deb"

# The maintainer's address is an example, and no Debian bug is closed.
step 'lintian finds no error' lintian --fail-on error \
    --suppress-tags bogus-mail-host,initial-upload-closes-no-bugs "$package"

step 'install' inside dpkg --install /new.deb
step 'it says that there is no key' says 'not started, because there is no key'
step 'version' inside exo-ingest --version
step 'no file differs from the package' inside dpkg --verify exo-ingest
[ ! -s "$scratch/now" ] || fail "$(cat "$scratch/now")"
step 'a system user' inside getent passwd exo-ingest
step 'the data directory is private' \
    test "$(inside stat -c '%U:%G %a' /var/lib/exo-ingest)" = 'exo-ingest:exo-ingest 700'
step 'version of the load generator' inside exo-load --version
step 'bash takes the completions' inside bash -n /usr/share/bash-completion/completions/exo-ingest
step 'also those of the load generator' \
    inside bash -n /usr/share/bash-completion/completions/exo-load
step 'manual pages' test -f "$root/usr/share/man/man1/exo-ingest-serve.1.gz" \
    -a -f "$root/usr/share/man/man1/exo-load-run.1.gz"
step 'licences' grep -q '^rustls ' "$root/usr/share/doc/exo-ingest/THIRD-PARTY.txt"
step 'bill of materials' \
    grep -q '"pkg:cargo/rustls@' "$root/usr/share/doc/exo-ingest/exo-ingest.cdx.json"
step 'host.sh' inside sh /usr/lib/exo-ingest/host.sh apply --dry-run
step 'the unit has the program and the user of the package' \
    grep -c -e '^ExecStart=/usr/bin/exo-ingest ' -e '^User=exo-ingest$' \
    "$root/usr/lib/systemd/system/exo-ingest.service"
says '^2$' || fail 'the unit is not as the package needs it'
if command -v systemd-analyze >/dev/null; then
    # It cannot know the user of another root.
    step 'systemd takes the units' systemd-analyze verify --root="$root" --man=no \
        /usr/lib/systemd/system/exo-ingest.service
fi

if inside exo-ingest serve --check --config /etc/exo-ingest/exo-ingest.toml \
    >"$scratch/said" 2>&1; then
    fail 'a node without a key must not start'
fi
step 'without a key the node names the file' says '/etc/exo-ingest/public.pem'
inside exo-ingest keygen --out /root/keys >/dev/null
inside install -m 0644 /root/keys/public.pem /etc/exo-ingest/
# The file system of this root may be in memory, which the journal refuses at level `durable`.
step 'with a key the configuration passes, as the user of the package' \
    inside setpriv --reuid exo-ingest --regid exo-ingest --clear-groups \
    exo-ingest serve --check --config /etc/exo-ingest/exo-ingest.toml --shards 1 \
    --ack written --max-calls 100 --allow-unregistered

echo '# changed by hand' >>"$root/etc/exo-ingest/exo-ingest.toml"
step 'upgrade' inside dpkg --force-confold --install /new.deb
step 'it does not restart a node by itself' says 'systemctl restart exo-ingest'
step 'a changed configuration stays' \
    grep -q 'changed by hand' "$root/etc/exo-ingest/exo-ingest.toml"
echo audio >"$root/var/lib/exo-ingest/recording"

step 'remove' inside dpkg --remove exo-ingest
[ ! -e "$root/usr/bin/exo-ingest" ] || fail 'the program is still there'
step 'the configuration stays' test -f "$root/etc/exo-ingest/exo-ingest.toml"
step 'purge' inside dpkg --purge exo-ingest
step 'it says that recordings stay' says 'the recordings in /var/lib/exo-ingest stay'
[ ! -e "$root/etc/exo-ingest/exo-ingest.toml" ] || fail 'the configuration is still there'
step 'recordings and keys stay' \
    test -f "$root/var/lib/exo-ingest/recording" -a -f "$root/etc/exo-ingest/public.pem"
step 'install again, with a key there' inside dpkg --install /new.deb
step 'purge with the recordings' inside env EXO_INGEST_PURGE=recordings dpkg --purge exo-ingest
[ ! -e "$root/var/lib/exo-ingest" ] || fail 'the recordings are still there'
