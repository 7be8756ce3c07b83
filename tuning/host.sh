#!/usr/bin/env bash
# Checks and sets what a host of exo-ingest needs outside the node: kernel settings, CPU frequency,
# queues and interrupts of a network card. README.md beside this file says why each is here.
#
#     tuning/host.sh check                    # what is set, what it should be; exit 1 if they differ
#     sudo tuning/host.sh apply --dry-run     # what `apply` would do
#     sudo tuning/host.sh apply --calls 8000 --nic eth0 --cpus 2-9
#     sudo tuning/host.sh revert              # every value as it was before the first `apply`
#
# Options:
#   --calls N     calls that the node must hold (8000): sizes the connection tracking
#   --nic NAME    also set this network card: ring sizes, and its interrupts on --cpus
#   --cpus LIST   the CPUs of the shards, such as 2-9,12
#   --io-uring    also set kernel.io_uring_disabled to 0, if your security policy agrees
#   --dry-run     print what would be done, and do nothing
#   --json        `check` prints JSON
#   --root DIR    work on the tree below DIR instead of /: for images and tests
#
# `apply` sets values at once and writes files that set them again after a reboot. It keeps the old
# values in /var/lib/exo-ingest-host. It can run again with other options: the first old values
# stay. `revert` restores them, and removes the files.
set -euo pipefail

calls=8000 nic='' cpus='' sets_io_uring='' dry='' json='' root=''
fail() { echo "host.sh: $*" >&2; exit 2; }
[ $# -gt 0 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2; }
command=$1
shift
case $command in
check | apply | revert) ;;
-h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
*) fail "$command is no command: use check, apply or revert" ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    --calls | --nic | --cpus | --root)
        [ $# -gt 1 ] || fail "$1 needs a value"
        case $1 in
        --calls) calls=$2 ;;
        --nic) nic=$2 ;;
        --cpus) cpus=$2 ;;
        --root) root=${2%/} ;;
        esac
        shift
        ;;
    --io-uring) sets_io_uring=yes ;;
    --dry-run) dry=yes ;;
    --json) json=yes ;;
    *) fail "$1 is no option: see --help" ;;
    esac
    shift
done
[[ $calls =~ ^[1-9][0-9]*$ ]] || fail "--calls takes a number of calls, such as 8000"
[[ -z $cpus || $cpus =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] \
    || fail "--cpus takes a list of CPUs, such as 2-9,12"
[ -z "$nic" ] || [ -e "$root/sys/class/net/$nic" ] || fail "there is no network card $nic"

state=$root/var/lib/exo-ingest-host
old=$state/old
sysctl_file=$root/etc/sysctl.d/91-exo-ingest-host.conf
udev_file=$root/etc/udev/rules.d/91-exo-ingest-host.rules

# One line for each setting: id, kind, where, comparison, wanted, why.
# kind: `sysctl` (a name) or `file` (a path below the root); comparison: `min`, `max` or `is`.
settings() {
    cat <<TABLE
somaxconn|sysctl|net.core.somaxconn|min|4096|connections that wait for accept, for each shard
syn-backlog|sysctl|net.ipv4.tcp_max_syn_backlog|min|4096|handshakes under way when clients reconnect at once
syncookies|sysctl|net.ipv4.tcp_syncookies|min|1|a full queue answers instead of dropping
swappiness|sysctl|vm.swappiness|max|10|a shard that waits for a page stops all of its calls
conntrack|sysctl|net.netfilter.nf_conntrack_max|min|$((4 * calls))|a full table drops new calls without a word
TABLE
    if [ -n "$sets_io_uring" ] || [ "$command" = check ]; then
        echo "io-uring|sysctl|kernel.io_uring_disabled|is|0|the node's reactors use io_uring"
    fi
    local governor
    for governor in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
        [ -e "$governor" ] || continue
        echo "governor|file|${governor#"$root"}|is|performance|a slow clock shows as late ACKs"
    done
    [ -z "$nic" ] || interrupts
}

# The interrupts of the card's queues, spread over the CPUs of the shards.
interrupts() {
    [ -n "$cpus" ] || return 0
    local list=() part cpu irq count=0
    for part in ${cpus//,/ }; do
        for ((cpu = ${part%-*}; cpu <= ${part#*-}; cpu++)); do list+=("$cpu"); done
    done
    for irq in "$root/sys/class/net/$nic/device/msi_irqs/"*; do
        [ -e "$irq" ] || continue
        irq=${irq##*/}
        echo "irq-$irq|file|/proc/irq/$irq/smp_affinity_list|is|${list[count % ${#list[@]}]}|packets and shard share a cache"
        count=$((count + 1))
    done
}

path_of() { # KIND WHERE
    if [ "$1" = sysctl ]; then echo "$root/proc/sys/${2//.//}"; else echo "$root$2"; fi
}

# Whether VALUE meets COMPARISON WANTED.
meets() {
    case $2 in
    min) [ "$1" -ge "$3" ] ;;
    max) [ "$1" -le "$3" ] ;;
    is) [ "$1" = "$3" ] ;;
    esac
}

check() {
    local differ=0 first=yes id kind where how wanted why value word
    [ -z "$json" ] || printf '['
    while IFS='|' read -r id kind where how wanted why; do
        value=$(cat "$(path_of "$kind" "$where")" 2>/dev/null) || value=''
        if [ -z "$value" ]; then
            word='not here'
        elif meets "$value" "$how" "$wanted"; then
            word=ok
        else
            word=differs differ=1
        fi
        case $how in min) wanted="at least $wanted" ;; max) wanted="at most $wanted" ;; esac
        if [ -n "$json" ]; then
            [ -n "$first" ] || printf ','
            printf '\n {"id": "%s", "where": "%s", "current": "%s", "wanted": "%s", "result": "%s", "why": "%s"}' \
                "$id" "$where" "$value" "$wanted" "$word" "$why"
            first=''
        else
            printf '%-9s %-14s %-62s %s, wanted %s: %s\n' \
                "$word" "$id" "$where" "${value:--}" "$wanted" "$why"
        fi
    done < <(settings)
    [ -z "$json" ] || printf '\n]\n'
    return $differ
}

say() { echo "$*"; }

# Keeps the first old value of a file, then writes the new one.
set_value() { # PATH VALUE
    local value
    value=$(cat "$1")
    if [ -n "$dry" ]; then
        say "would set $1 from $value to $2"
        return
    fi
    grep -qF "$1|" "$old" 2>/dev/null || echo "$1|$value" >>"$old"
    if echo "$2" >"$1" 2>/dev/null; then
        say "set $1 from $value to $2"
    else
        say "cannot set $1: this host does not allow it"
        refused=1
    fi
}

write_file() { # PATH, text from standard input
    local text
    text=$(cat)
    if [ -n "$dry" ]; then
        say "would write $1:"
        printf '%s\n' "$text" | sed 's/^/    /'
        return
    fi
    mkdir -p "${1%/*}"
    printf '%s\n' "$text" >"$1"
    say "wrote $1"
}

refused=0
apply() {
    local id kind where how wanted why path value lines=() rules=()
    [ -n "$dry" ] || { mkdir -p "$state" && chmod 0700 "$state" && touch "$old"; }
    while IFS='|' read -r id kind where how wanted why; do
        path=$(path_of "$kind" "$where")
        [ -e "$path" ] || continue
        value=$(cat "$path")
        meets "$value" "$how" "$wanted" || set_value "$path" "$wanted"
        # A host that has more already keeps it.
        if [ "$kind" = sysctl ]; then
            meets "$value" "$how" "$wanted" || lines+=("$where = $wanted")
        elif [ "$id" = governor ] && ((${#rules[@]} == 0)); then
            rules+=('SUBSYSTEM=="cpu", ACTION=="add", ATTR{cpufreq/scaling_governor}="performance"')
        fi
    done < <(settings)
    if [ -n "$nic" ] && command -v ethtool >/dev/null && [ -z "$root" ]; then
        local most now
        most=$(ethtool -g "$nic" 2>/dev/null | awk '/^Pre-set/{p=1} p && /^RX:/{print $2; exit}')
        now=$(ethtool -g "$nic" 2>/dev/null | awk '/^Current/{p=1} p && /^RX:/{print $2; exit}')
        if [[ $most =~ ^[0-9]+$ && $now =~ ^[0-9]+$ && $now -lt $most ]]; then
            if [ -n "$dry" ]; then
                say "would set the receive ring of $nic from $now to $most"
            else
                grep -qF "ring:$nic|" "$old" || echo "ring:$nic|$now" >>"$old"
                ethtool -G "$nic" rx "$most" && say "set the receive ring of $nic to $most"
            fi
            rules+=("SUBSYSTEM==\"net\", ACTION==\"add\", NAME==\"$nic\", RUN+=\"$(command -v ethtool) -G $nic rx $most\"")
        fi
    fi
    # What an earlier run set stays in the file.
    if [ -e "$sysctl_file" ]; then
        local line
        while read -r line; do
            [[ " ${lines[*]-} " == *"${line%% =*} ="* ]] || lines+=("$line")
        done < <(grep -v '^#' "$sysctl_file" || true)
    fi
    if ((${#lines[@]} > 0)); then
        { echo "# Written by tuning/host.sh apply; \`host.sh revert\` removes it."
          printf '%s\n' "${lines[@]}"; } | write_file "$sysctl_file"
    fi
    if ((${#rules[@]} > 0)); then
        { echo "# Written by tuning/host.sh apply; \`host.sh revert\` removes it."
          printf '%s\n' "${rules[@]}"; } | write_file "$udev_file"
    fi
    return $refused
}

revert() {
    [ -e "$old" ] || { say "nothing to revert: host.sh apply has changed nothing here"; return 0; }
    local path value
    while IFS='|' read -r path value; do
        if [ -n "$dry" ]; then
            say "would restore $path to $value"
        elif [[ $path == ring:* ]]; then
            ethtool -G "${path#ring:}" rx "$value" || refused=1
        elif echo "$value" >"$path" 2>/dev/null; then
            say "restored $path to $value"
        else
            say "cannot restore $path to $value"
            refused=1
        fi
    done <"$old"
    for path in "$sysctl_file" "$udev_file"; do
        [ -e "$path" ] || continue
        if [ -n "$dry" ]; then say "would remove $path"; else rm -f "$path" && say "removed $path"; fi
    done
    # If a value could not be restored, the old ones are kept for the next try.
    [ -n "$dry" ] || [ $refused = 1 ] || rm -rf "$state"
    return $refused
}

if [ "$command" != check ] && [ -z "$dry" ] && [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    fail "$command changes the host: run it as root, or with --dry-run"
fi
"$command"
