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
systemd=/usr/lib/systemd/systemd
[ -x "$systemd" ] || systemd=/lib/systemd/systemd
give_up() {
    echo "error: $1" >&2
    exit 1
}

# The first process of the namespaces: it sets up the machine, and becomes its systemd.
if [ "${1:-}" = inside ]; then
    scratch=$2
    mount --make-rprivate /
    # A filesystem of its own for what is written: the journal needs O_DIRECT, which tmpfs lacks.
    mount -o loop "$scratch/disk" "$scratch/upper"
    root=$scratch/upper/root
    mkdir "$scratch/upper/files" "$scratch/upper/work" "$root"
    layers=lowerdir=/,upperdir=$scratch/upper/files,workdir=$scratch/upper/work
    mount -t overlay overlay -o "$layers" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mkdir -p "$root/var/lib/exo-ingest" "$root/mnt/old"
    rmdir "$root/var/lib/exo-ingest"
    units=$root/etc/systemd/system
    # Images for containers have a policy that nothing is started, or stopped, by packages.
    rm -f "$root/usr/sbin/policy-rc.d"
    printf '[Unit]\nDescription=one role, tried\nWants=systemd-journald.service\n' \
        >"$units/try-ansible.target"
    # None of the machine's own units: they would use its devices, which have no namespace.
    for unit in sysinit.target local-fs.target swap.target basic.target network-online.target \
        multi-user.target; do
        # With what they would start, such as the unit that empties /tmp.
        rm -rf "${units:?}/$unit" "$units/$unit.wants" \
            "${root:?}/usr/lib/systemd/system/$unit.wants"
        printf '[Unit]\nDescription=nothing\nDefaultDependencies=no\n' >"$units/$unit"
    done
    cd "$root"
    pivot_root . mnt/old
    umount -l /mnt/old
    exec env -i container=try-ansible PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        "$systemd" --system --unit=try-ansible.target --log-target=null --show-status=0
fi

[ "$(id -u)" = 0 ] || give_up 'namespaces and mounts take root'
playbook=$(command -v ansible-playbook) || give_up 'ansible-playbook is not here: pip install ansible'
package=${1:-$(find "$here/../target/debian" -name 'exo-ingest_*.deb' | sort | tail -n 1)}
[ -f "$package" ] || give_up 'there is no package: sh tuning/package.sh'
package=$(realpath "$package")
python3 -c 'import apt' 2>/dev/null || /usr/bin/python3 -c 'import apt' \
    || give_up 'python3-apt is not here: apt-get install python3-apt'
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$cgroups" ] || give_up 'there is no cgroup v2 here'

scratch=$(mktemp -d "$(dirname "$package")/try-ansible.XXXXXX")
cgroup=$cgroups/$(basename "$scratch")
swappiness=$(cat /proc/sys/vm/swappiness)
first=
outside=
finish() {
    status=$?
    [ -z "$first" ] || kill -KILL "$first" 2>/dev/null || true
    [ -z "$outside" ] || wait "$outside" 2>/dev/null || true
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} + || true
    echo "$swappiness" >/proc/sys/vm/swappiness
    rm -rf "$scratch"
    [ "$status" = 0 ] || echo FAILED
}
trap finish EXIT
mkdir "$scratch/upper" "$cgroup"
truncate -s 4G "$scratch/disk"
mkfs.ext4 -q "$scratch/disk"

sh -c 'echo $$ >"$0/cgroup.procs" &&
    exec unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child "$@"' \
    "$cgroup" sh "$here/try-ansible.sh" inside "$scratch" &
outside=$!
await() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    return 1
}
find_first() {
    first=$(cat "/proc/$outside/task/$outside/children") && [ -n "$first" ]
}
inside() {
    nsenter --target "${first% }" --mount --pid --uts --ipc --net --cgroup \
        sh -c 'cd / && exec "$@"' sh "$@"
}
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

await find_first || give_up 'the namespaces were not made'
await inside systemctl show || give_up 'systemd does not answer in the namespaces'
inside ip link set lo up
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
