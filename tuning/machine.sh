# shellcheck shell=sh
# A machine of its own for tests of units, read by try-unit.sh and try-ansible.sh: a systemd in new
# namespaces, on an overlay of this machine's files, with a network of its own.
#
# The caller makes a directory, and calls start_machine. The first process of the namespaces runs
# the same script as `SCRIPT inside SCRATCH`. There it calls lay_files, changes files below $root,
# and becomes systemd with become_systemd.

give_up() {
    echo "error: $1" >&2
    exit 1
}

# --- Inside ---------------------------------------------------------------------------------------

# The overlay: what is written goes below DIRECTORY. Sets $root and $units.
lay_files() {
    root=$1/root
    units=$root/etc/systemd/system
    mkdir "$1/upper" "$1/work" "$root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    # Images for containers have a policy that packages start and stop nothing.
    rm -f "$root/usr/sbin/policy-rc.d"
    # None of the machine's own units: they would use its devices, which have no namespace.
    for unit in sysinit.target local-fs.target swap.target basic.target network-online.target \
        multi-user.target; do
        # With what they would start, such as the unit that empties /tmp.
        rm -rf "${units:?}/$unit" "$units/$unit.wants" \
            "${root:?}/usr/lib/systemd/system/$unit.wants"
        printf '[Unit]\nDescription=nothing\nDefaultDependencies=no\n' >"$units/$unit"
    done
    printf '[Unit]\nDescription=only what is tried\nWants=systemd-journald.service\n' \
        >"$units/tried.target"
    rm -f "$root/etc/machine-id"
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
}

become_systemd() {
    systemd=/usr/lib/systemd/systemd
    [ -x "$systemd" ] || systemd=/lib/systemd/systemd
    mkdir -p "$root/mnt/old"
    cd "$root" || exit 1
    pivot_root . mnt/old
    umount -l /mnt/old
    exec env -i container=tried PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        "$systemd" --system --unit=tried.target --log-target=null --show-status=0
}

# --- Outside --------------------------------------------------------------------------------------

outside=
first=
cgroup=

# Starts the machine with `SCRIPT inside SCRATCH`, and waits for its systemd.
start_machine() { # SCRIPT SCRATCH
    [ "$(id -u)" = 0 ] || give_up 'namespaces and mounts take root'
    for tool in unshare nsenter systemctl; do
        command -v "$tool" >/dev/null \
            || give_up "$tool is not here: apt-get install systemd util-linux"
    done
    cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    [ -n "$cgroups" ] || give_up 'there is no cgroup v2 here'
    cgroup=$cgroups/$(basename "$2")
    mkdir "$cgroup"
    sh -c 'echo $$ >"$0/cgroup.procs" &&
        exec unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child "$@"' \
        "$cgroup" sh "$1" inside "$2" &
    outside=$!
    await find_first || give_up 'the namespaces were not made'
    await inside systemctl show || give_up 'systemd does not answer in the namespaces'
    inside ip link set lo up
}

end_machine() {
    [ -z "$first" ] || kill -KILL "$first" 2>/dev/null || true
    [ -z "$outside" ] || wait "$outside" 2>/dev/null || true
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} + || true
}

find_first() {
    first=$(cat "/proc/$outside/task/$outside/children") && first=${first% } && [ -n "$first" ]
}

# Waits until a command succeeds, thirty seconds at most: the machine may be busy.
await() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    return 1
}

# Runs a command inside, in the directory /.
inside() {
    nsenter --target "$first" --mount --pid --uts --ipc --net --cgroup \
        sh -c 'cd / && exec "$@"' sh "$@"
}
