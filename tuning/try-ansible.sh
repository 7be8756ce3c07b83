#!/bin/sh
# Plays the Ansible role on a machine of its own: a systemd in new namespaces, on an overlay of this
# machine's files, with a network of its own. It plays it twice: the second time must change
# nothing. Then with new settings, and `host.sh revert`. It needs root, systemd, overlayfs, cgroup
# v2, python3-apt and ansible-playbook.
#
#     sh tuning/package.sh && sudo sh tuning/try-ansible.sh [target/debian/*.deb]
#
# vm.swappiness belongs to the whole machine: the role sets it, and the end of this restores it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tuning/machine.sh
. "$here/machine.sh"

# The first process of the namespaces: it sets up the machine, and becomes its systemd.
if [ "${1:-}" = inside ]; then
    scratch=$2
    mount --make-rprivate /
    # A filesystem of its own for what is written: the journal needs O_DIRECT, which tmpfs lacks.
    mount -o loop "$scratch/disk" "$scratch/upper"
    lay_files "$scratch/upper"
    become_systemd
fi

playbook=$(command -v ansible-playbook) \
    || give_up 'ansible-playbook is not here: pip install ansible-core'
package=${1:-$(find "$here/../target/debian" -name 'exo-ingest_*.deb' | sort | tail -n 1)}
[ -f "$package" ] || give_up 'there is no package: sh tuning/package.sh'
package=$(realpath "$package")
/usr/bin/python3 -c 'import apt' 2>/dev/null \
    || give_up 'python3-apt is not here: apt-get install python3-apt'

scratch=$(mktemp -d "$(dirname "$package")/try-ansible.XXXXXX")
swappiness=$(cat /proc/sys/vm/swappiness)
finish() {
    status=$?
    end_machine
    echo "$swappiness" >/proc/sys/vm/swappiness
    rm -rf "$scratch"
    [ "$status" = 0 ] || echo FAILED
}
trap finish EXIT
mkdir "$scratch/upper"
truncate -s 4G "$scratch/disk"
mkfs.ext4 -q "$scratch/disk"

start_machine "$here/try-ansible.sh" "$scratch"

step() { # WORDS COMMAND…
    words=$1
    shift
    if "$@" >"$scratch/said" 2>&1; then
        echo "ok    $words"
    else
        echo "not   $words"
        cat "$scratch/said"
        inside journalctl -u exo-ingest --no-pager -n 20 || true
        exit 1
    fi
}
says() { grep -Eq "$1" "$scratch/said" || { cat "$scratch/said"; give_up "it does not say $1"; }; }
play() {
    inside env PATH="$PATH" HOME=/root ANSIBLE_LOCALHOST_WARNING=0 "$playbook" \
        -i 'exo_ingest,' -l exo_ingest "$scratch/site.yml" -c local \
        -e ansible_python_interpreter=/usr/bin/python3 \
        -e exo_ingest_package="$package" -e exo_ingest_public_key="$scratch/keys/public.pem" \
        -e exo_ingest_calls=100 -e "{\"exo_ingest_settings\": \"$settings\"}" "$@"
}

# The play of the repository, for one host that is here.
sed 's/hosts: exo_ingest/hosts: all/' "$here/ansible/site.yml" >"$scratch/site.yml"
ln -s "$here/ansible/roles" "$scratch/roles"
dpkg-deb --fsys-tarfile "$package" | tar -xO ./usr/bin/exo-ingest >"$scratch/exo-ingest"
chmod +x "$scratch/exo-ingest"
"$scratch/exo-ingest" keygen --out "$scratch/keys" >/dev/null 2>&1
chmod 755 "$scratch"
# Small, because this machine may not allow more locked memory.
settings='shards = 1\nretain_bytes = \"512MiB\"\njournal.reserve = \"off\"\n'
settings="$settings"'limits.ring_size = \"6MiB\"\nlimits.connections_max = 2000\n'

step 'the role' play
step 'the node serves' inside systemctl is-active exo-ingest
step 'at the next boot, too' inside systemctl is-enabled exo-ingest
step 'it answers' inside python3 -c \
    'import urllib.request as r; print(r.urlopen("http://127.0.0.1:9464/ready").read())'
step 'the host has its files' \
    inside test -f /etc/systemd/system/exo-ingest.service.d/91-exo-ingest-host.conf
step 'the role again' play
says 'changed=0 '
echo 'ok    it changes nothing'
step 'what would change' play --check
settings="${settings}drain = \\\"20s\\\"\\n"
step 'the role with a new setting' play
says 'changed=2 .*failed=0'
step 'the node has read it' \
    inside sh -c 'systemctl show exo-ingest -p StatusText | grep -q "settings reloaded"'
step 'host.sh revert' inside /usr/lib/exo-ingest/host.sh revert
# A key is there: the first installation starts the node by itself. The package's configuration may
# take more locked memory than this machine allows.
inside sh -c 'mkdir -p /etc/systemd/system/exo-ingest.service.d &&
    printf "[Service]\nEnvironment=EXO_INGEST_ALLOW_UNREGISTERED=true\n" \
        >/etc/systemd/system/exo-ingest.service.d/tried.conf'
step 'remove, and install again' \
    inside sh -c "systemctl stop exo-ingest && dpkg --purge exo-ingest && dpkg --install $package"
step 'the node serves again, because its key is there' inside systemctl is-active exo-ingest
step 'purge' inside dpkg --purge exo-ingest
if inside systemctl is-active exo-ingest >/dev/null; then
    cat "$scratch/said"
    give_up 'the node still runs'
fi
echo PASS
