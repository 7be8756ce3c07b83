#!/bin/sh
# Checks and sets what a host of exo-ingest needs outside the node: kernel settings, limits, CPU
# frequency, and the queues and interrupts of a network card. docs/operations.md tells more, and
# tuning/README.md says why.
#
#     tuning/host.sh check                    # what is set, what it should be; exit 1: they differ
#     sudo tuning/host.sh apply --dry-run     # what `apply` would do
#     sudo tuning/host.sh apply --calls 8000 --nic eth0 --cpus 2-9
#     sudo tuning/host.sh revert              # every value as before the first `apply`
#
# Options:
#   --calls N         calls that the node must hold (8000): sizes limits, TCP memory and tracking
#   --nic NAME        also set this network card: queues, ring, coalescing, interrupts, RPS and XPS
#   --cpus LIST       the CPUs of the shards, such as 2-9,12 (all but the lowest, like the node)
#   --irq-cpus LIST   the CPUs for the card's interrupts (those of --cpus)
#   --io-uring        also set kernel.io_uring_disabled to 0, if your security policy agrees
#   --dry-run         print what would be done, and do nothing
#   --json            `check` prints JSON
#   --root DIR        work on the tree below DIR instead of /: for images and tests
#
# `apply` sets values at once and writes files that set them again after a reboot: one in sysctl.d,
# one for udev, a drop-in for exo-ingest.service, and a unit that runs `apply` at each boot. It
# keeps the old values in /var/lib/exo-ingest-host. It can run again with other options: the first
# old values stay. `revert` restores them, and removes the files.
#
# A change of the number of queues takes the card down for a moment: do it before there are calls.
set -eu

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "host.sh: $*" >&2; exit 2; }
say() { echo "$*"; }

calls=8000 nic='' cpus='' irq_cpus='' sets_io_uring='' dry='' json='' root=''
[ $# -gt 0 ] || { usage; exit 2; }
command=$1
shift
case $command in
check | apply | revert) ;;
-h | --help) usage; exit 0 ;;
*) fail "$command is no command: use check, apply or revert" ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    --calls | --nic | --cpus | --irq-cpus | --root)
        [ $# -gt 1 ] || fail "$1 needs a value"
        case $1 in
        --calls) calls=$2 ;;
        --nic) nic=$2 ;;
        --cpus) cpus=$2 ;;
        --irq-cpus) irq_cpus=$2 ;;
        --root) root=${2%/} ;;
        esac
        shift
        ;;
    --io-uring) sets_io_uring=yes ;;
    --dry-run) dry=yes ;;
    --json) json=yes ;;
    -h | --help) usage; exit 0 ;;
    *) fail "$1 is no option: see --help" ;;
    esac
    shift
done
matches() { printf '%s\n' "$1" | grep -Eqx "$2"; }
matches "$calls" '[1-9][0-9]{0,8}' || fail "--calls takes a number of calls, such as 8000"
for list in "$cpus" "$irq_cpus"; do
    [ -z "$list" ] || matches "$list" '[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*' \
        || fail "--cpus and --irq-cpus take a list of CPUs, such as 2-9,12"
done
matches "$nic" '[A-Za-z0-9_.-]{0,15}' || fail "--nic takes the name of a network card, such as eth0"
[ -z "$nic" ] || [ -e "$root/sys/class/net/$nic" ] || fail "there is no network card $nic"

# Tests give a program that plays a card's driver. A tree below --root has no driver of its own.
ethtool=${HOST_ETHTOOL:-}
[ -n "$ethtool$root" ] || ethtool=$(command -v ethtool || true)

state=$root/var/lib/exo-ingest-host
old=$state/old
sysctl_file=$root/etc/sysctl.d/91-exo-ingest-host.conf
udev_file=$root/etc/udev/rules.d/91-exo-ingest-host.rules
limits_file=$root/etc/systemd/system/exo-ingest.service.d/91-exo-ingest-host.conf
unit_file=$root/etc/systemd/system/exo-ingest-host.service
unit_link=$root/etc/systemd/system/multi-user.target.wants/exo-ingest-host.service
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
refused=0

# --- CPUs -----------------------------------------------------------------------------------------

# The CPUs of a list such as 2-4,7, one a line.
expand() {
    printf '%s\n' "$1" | tr ',' '\n' | awk -F- 'NF { for (c = $1; c <= $NF; c++) print c }'
}

# CPUs, one a line, as a mask of the kernel's: words of 32 bits, such as 3 or 1,00000000.
mask() {
    awk 'BEGIN { top = 0 }
        { word = int($1 / 32); words[word] += 2 ^ ($1 % 32); if (word > top) top = word }
        END { text = sprintf("%x", words[top])
            while (--top >= 0) text = text sprintf(",%08x", words[top])
            print text }'
}

# The CPUs of the shards: those given, or all but the lowest where there are more than two.
shard_cpus() {
    if [ -n "$cpus" ]; then
        expand "$cpus"
    else
        expand "$(cat "$root/sys/devices/system/cpu/online" 2>/dev/null || echo 0)" \
            | awk '{ c[NR] = $1 } END { for (i = NR > 2 ? 2 : 1; i <= NR; i++) print c[i] }'
    fi
}

# Every COUNTth line of the input, from INDEX; if there is none, the line that INDEX falls on.
share() { # INDEX COUNT
    awk -v first="$1" -v count="$2" '{ line[NR - 1] = $1 }
        (NR - 1) % count == first { print; any = 1 }
        END { if (!any) print line[first % NR] }'
}

# --- One value ------------------------------------------------------------------------------------

path_of() { # KIND WHERE
    case $1 in
    sysctl) printf '%s\n' "$root/proc/sys/$(printf '%s' "$2" | tr . /)" ;;
    *) printf '%s\n' "$root$2" ;;
    esac
}

# What a card's driver says: KIND NAME.
card_value() {
    [ -n "$ethtool" ] || return 0
    case $1 in
    queues | queues-max) flag=-l line='Combined:' ;;
    ring | ring-max) flag=-g line='RX:' ;;
    coalescing) flag=-c line='rx-usecs:' ;;
    adaptive) "$ethtool" -c "$2" 2>/dev/null | awk '/^Adaptive RX:/ { print $3 }'; return 0 ;;
    esac
    case $1 in *-max) part=Pre-set ;; coalescing) part='' ;; *) part=Current ;; esac
    "$ethtool" "$flag" "$2" 2>/dev/null | awk -v part="$part" -v name="$line" '
        part == "" || index($0, part) == 1 { on = 1 }
        part == "Pre-set" && /^Current/ { on = 0 }
        on && $1 == name { if ($2 ~ /^[0-9]+$/) print $2; exit }'
}

# The value of a setting, or nothing if this host does not have it.
read_value() { # KIND WHERE
    case $1 in
    queues | ring | coalescing) card_value "$1" "$2" ;;
    choice) sed 's/.*\[\(.*\)\].*/\1/' "$(path_of "$1" "$2")" 2>/dev/null || true ;;
    mask) sed 's/^[0,]*\(.\)/\1/' "$(path_of "$1" "$2")" 2>/dev/null || true ;;
    *) tr -s '\t ' ' ' <"$(path_of "$1" "$2")" 2>/dev/null || true ;;
    esac
} 2>/dev/null

write_value() { # KIND WHERE VALUE
    case $1 in
    queues) "$ethtool" -L "$2" combined "$3" ;;
    ring) "$ethtool" -G "$2" rx "$3" ;;
    coalescing) "$ethtool" -C "$2" rx-usecs "$3" ;;
    *) printf '%s\n' "$3" >"$(path_of "$1" "$2")" ;;
    esac
} 2>/dev/null

# Whether VALUE meets COMPARISON WANTED.
meets() {
    case $2 in
    min) [ "$1" -ge "$3" ] ;;
    max) [ "$1" -le "$3" ] ;;
    is) [ "$1" = "$3" ] ;;
    among) case ",$3," in *",$1,"*) ;; *) return 1 ;; esac ;;
    # The second of three numbers: from there on the kernel saves memory.
    pressure) [ "$(printf '%s' "$1" | cut -d' ' -f2)" -ge "$3" ] ;;
    esac
}

# What to write for COMPARISON WANTED.
target_of() {
    case $1 in
    among) printf '%s\n' "${2%%,*}" ;;
    pressure) echo "$(($2 * 3 / 4)) $2 $(($2 * 3 / 2))" ;;
    *) printf '%s\n' "$2" ;;
    esac
}

# --- The settings ---------------------------------------------------------------------------------

# One line for each setting: id, kind, where, comparison, wanted, why.
# kind: `sysctl` (a name), `file`, `choice` or `mask` (a path below the root), or what ethtool sets:
# `queues`, `ring`, `coalescing` (a card).
settings() {
    cat <<TABLE
somaxconn|sysctl|net.core.somaxconn|min|4096|connections that wait for accept, for each shard
syn-backlog|sysctl|net.ipv4.tcp_max_syn_backlog|min|4096|clients that reconnect at once
syncookies|sysctl|net.ipv4.tcp_syncookies|min|1|a full queue answers instead of dropping
tcp-mem|sysctl|net.ipv4.tcp_mem|pressure|$(socket_pages)|pages: what calls fill in a stall of 2 s
conntrack|sysctl|net.netfilter.nf_conntrack_max|min|$((4 * calls))|a full table drops new calls
nr-open|sysctl|fs.nr_open|min|$(open_files)|the unit's LimitNOFILE= cannot be more
swappiness|sysctl|vm.swappiness|max|10|a shard that waits for a page stops all of its calls
thp|choice|/sys/kernel/mm/transparent_hugepage/enabled|among|madvise,never|shards wait for "always"
TABLE
    if [ -n "$sets_io_uring" ] || [ "$command" = check ]; then
        echo "io-uring|sysctl|kernel.io_uring_disabled|is|0|the node's reactors use io_uring"
    fi
    for governor in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
        [ -e "$governor" ] || continue
        echo "governor|file|${governor#"$root"}|is|performance|a slow clock shows as late ACKs"
    done
    [ -z "$nic" ] || { interrupts && steering; }
}

# Pages that sockets fill in a stall of 2 s: 48,000 bytes a second for each call, twice, because a
# buffer counts its pages. The doctor wants the same.
socket_pages() {
    page=$(getconf PAGESIZE)
    echo $(((calls * 192000 + page - 1) / page))
}

# Descriptors of the unit: twice the calls and what shards need beside them.
open_files() {
    needed=$((2 * (calls + 64 * $(shard_cpus | wc -l) + 64)))
    [ "$needed" -gt 524288 ] || needed=524288
    echo $needed
}

# What the card's driver sets. It comes first: a number of queues brings interrupts of its own.
card_settings() {
    [ -n "$nic" ] || return 0
    most=$(card_value queues-max "$nic")
    shards=$(shard_cpus | wc -l)
    [ -z "$most" ] || [ "$most" -lt "$shards" ] || most=$shards
    [ -z "$most" ] || echo "queues|queues|$nic|is|$most|a queue for each shard, if the card has it"
    most=$(card_value ring-max "$nic")
    [ -z "$most" ] || [ "$most" -lt 4096 ] || most=4096
    [ -z "$most" ] || echo "ring|ring|$nic|min|$most|packets that wait while a CPU is busy"
    [ "$(card_value adaptive "$nic")" = on ] \
        || echo "coalescing|coalescing|$nic|max|100|microseconds that a packet waits for others"
}

# The interrupts of the card's queues, spread over the CPUs: queue K on the Kth of them.
interrupts() {
    expand "${irq_cpus:-$(shard_cpus | paste -sd, -)}" >"$scratch/irq-cpus"
    for irq in "$root/sys/class/net/$nic"/device/msi_irqs/* \
        "$root/sys/class/net/$nic"/device/../msi_irqs/*; do
        [ -e "$irq" ] || continue
        name=$(awk -v irq="${irq##*/}:" '$1 == irq { print $NF }' "$root/proc/interrupts")
        printf '%s %s\n' "${irq##*/}" "${name%%@*}"
    done | sort -nu | while read -r irq name; do
        # Interrupts without packets: they stay where they are.
        case $name in '' | *config* | *async* | *ctrl* | *mgmt* | *misc* | *event*) continue ;; esac
        queue=$(printf '%s' "$name" | sed -n 's/.*[^0-9]\([0-9][0-9]*\)$/\1/p')
        count=$(wc -l <"$scratch/irq-cpus")
        cpu=$(sed -n "$((${queue:-0} % count + 1))p" "$scratch/irq-cpus")
        echo "irq-$irq|file|/proc/irq/$irq/smp_affinity_list|is|$cpu|$name: near its shard"
    done
}

# RPS spreads the packets of too few queues over the shards' CPUs. XPS gives each queue its senders.
steering() {
    shard_cpus >"$scratch/cpus"
    shards=$(wc -l <"$scratch/cpus")
    queues=$root/sys/class/net/$nic/queues
    count() { find "$queues" -maxdepth 1 -name "$1-*" | wc -l; }
    rps=0
    [ "$(count rx)" -ge "$shards" ] || rps=$(mask <"$scratch/cpus")
    for queue in "$queues"/rx-*; do
        [ -e "$queue/rps_cpus" ] || continue
        id=${queue##*/} where=${queue#"$root"}
        echo "rps-$id|mask|$where/rps_cpus|is|$rps|packets of one queue reach all shards' CPUs"
    done
    senders=$(count tx)
    for queue in "$queues"/tx-*; do
        # A card with one queue has the file, and no value in it.
        [ "$senders" -gt 1 ] || continue
        [ -e "$queue/xps_cpus" ] || continue
        id=${queue##*/} where=${queue#"$root"}
        own=$(share "${id#tx-}" "$senders" <"$scratch/cpus" | mask)
        echo "xps-$id|mask|$where/xps_cpus|is|$own|a shard sends through a queue of its own"
    done
}

# --- check ----------------------------------------------------------------------------------------

check() {
    { card_settings && settings; } >"$scratch/table"
    differ=0 before=''
    [ -z "$json" ] || printf '['
    while IFS='|' read -r id kind where how wanted why; do
        value=$(read_value "$kind" "$where")
        if [ -z "$value" ]; then
            word='not here'
        elif meets "$value" "$how" "$wanted"; then
            word=ok
        else
            word=differs differ=1
        fi
        case $how in
        min | pressure) wanted="at least $wanted" ;;
        max) wanted="at most $wanted" ;;
        among) wanted="one of $wanted" ;;
        esac
        if [ -n "$json" ]; then
            why=$(printf '%s' "$why" | sed 's/"/\\"/g')
            printf '%s\n {"id": "%s", "where": "%s", "current": "%s", "wanted": "%s",' \
                "$before" "$id" "$where" "$value" "$wanted"
            printf ' "result": "%s", "why": "%s"}' "$word" "$why"
            before=,
        else
            printf '%-9s %-12s %-46s %s, wanted %s: %s\n' \
                "$word" "$id" "$where" "${value:--}" "$wanted" "$why"
        fi
    done <"$scratch/table"
    [ -z "$json" ] || printf '\n]\n'
    return $differ
}

# --- apply ----------------------------------------------------------------------------------------

# Keeps the first old value of a setting, then writes the new one.
set_value() { # KIND WHERE NEW OLD
    if [ -n "$dry" ]; then
        say "would set $2 ($1) from $4 to $3"
        return 0
    fi
    awk -F'|' -v kind="$1" -v where="$2" '$1 == kind && $2 == where { found = 1 }
        END { exit !found }' "$old" || echo "$1|$2|$4" >>"$old"
    if write_value "$1" "$2" "$3"; then
        say "set $2 ($1) from $4 to $3"
    else
        say "cannot set $2 ($1) to $3: this host does not allow it"
        refused=1
    fi
}

# Sets each line of the table that differs. A host that has more already keeps it.
set_table() {
    while IFS='|' read -r id kind where how wanted why; do
        value=$(read_value "$kind" "$where")
        [ -n "$value" ] || continue
        case $kind in sysctl) ;; *) echo "$id|$kind|$where|$wanted" >>"$scratch/at-boot" ;; esac
        meets "$value" "$how" "$wanted" && continue
        wanted=$(target_of "$how" "$wanted")
        set_value "$kind" "$where" "$wanted" "$value"
        [ "$kind" != sysctl ] || echo "$where = $wanted" >>"$scratch/sysctl"
    done <"$1"
}

write_file() { # PATH, text from standard input
    if [ -n "$dry" ]; then
        say "would write $1:"
        sed 's/^/    /'
        return 0
    fi
    mkdir -p "${1%/*}"
    { echo "# Written by host.sh apply; \`host.sh revert\` removes it." && cat; } >"$1"
    say "wrote $1"
}

# A reboot gives interrupts new numbers and all of these their first values: no old value counts.
forget_other_boot() {
    boot=$(cat "$root/proc/sys/kernel/random/boot_id" 2>/dev/null || echo none)
    if [ "$(cat "$state/boot" 2>/dev/null)" != "$boot" ]; then
        sed '/|\/proc\/irq\//d' "$old" >"$scratch/kept"
        cat "$scratch/kept" >"$old"
        echo "$boot" >"$state/boot"
    fi
}

apply() {
    : >"$scratch/sysctl"
    : >"$scratch/at-boot"
    if [ -z "$dry" ]; then
        mkdir -p "$state" && chmod 0700 "$state" && touch "$old"
        forget_other_boot
    fi
    card_settings >"$scratch/card"
    set_table "$scratch/card"
    settings >"$scratch/table"
    set_table "$scratch/table"
    # What an earlier run set stays in the file.
    if [ -e "$sysctl_file" ]; then
        grep -v '^#' "$sysctl_file" | while read -r line; do
            grep -qF "${line%% =*} = " "$scratch/sysctl" || echo "$line"
        done >"$scratch/earlier"
        cat "$scratch/earlier" >>"$scratch/sysctl"
    fi
    [ ! -s "$scratch/sysctl" ] || write_file "$sysctl_file" <"$scratch/sysctl"
    udev_rules >"$scratch/rules"
    [ ! -s "$scratch/rules" ] || write_file "$udev_file" <"$scratch/rules"
    write_file "$limits_file" <<DROPIN
[Service]
LimitNOFILE=$(open_files)
LimitMEMLOCK=infinity
MemorySwapMax=0
DROPIN
    # sysctl.d and udev do not reach these.
    if grep -Eq '\|(choice|mask)\||^irq-' "$scratch/at-boot"; then
        boot_unit | write_file "$unit_file"
        if [ -z "$dry" ]; then
            mkdir -p "${unit_link%/*}"
            ln -sf "${unit_file#"$root"}" "$unit_link"
        fi
    fi
    reload_managers
    if [ -n "$nic" ] && [ -z "$root" ] && pgrep -x irqbalance >/dev/null 2>&1; then
        say "irqbalance runs here, and may move the interrupts of $nic: stop it, or give it" \
            "--banirq= for each of them"
    fi
    return $refused
}

udev_rules() {
    if grep -q '^governor|' "$scratch/at-boot"; then
        echo 'SUBSYSTEM=="cpu", ACTION=="add", ATTR{cpufreq/scaling_governor}="performance"'
    fi
    [ -n "$ethtool" ] || return 0
    while IFS='|' read -r id kind where wanted; do
        case $kind in
        queues) set -- -L "$where" combined "$wanted" ;;
        ring) set -- -G "$where" rx "$wanted" ;;
        *) continue ;;
        esac
        echo "SUBSYSTEM==\"net\", ACTION==\"add\", NAME==\"$where\", RUN+=\"$ethtool $*\""
    done <"$scratch/at-boot"
}

boot_unit() {
    script=$(cd "$(dirname "$0")" && pwd)/${0##*/}
    set -- apply --calls "$calls"
    [ -z "$nic" ] || set -- "$@" --nic "$nic"
    [ -z "$cpus" ] || set -- "$@" --cpus "$cpus"
    [ -z "$irq_cpus" ] || set -- "$@" --irq-cpus "$irq_cpus"
    cat <<UNIT
[Unit]
Description=Host settings of exo-ingest
After=network-online.target irqbalance.service
Wants=network-online.target
Before=exo-ingest.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh "$script" $*

[Install]
WantedBy=multi-user.target
UNIT
}

# systemd and udev read their files again.
reload_managers() {
    [ -z "$root$dry" ] || return 0
    [ ! -d /run/systemd/system ] || systemctl daemon-reload || true
    [ ! -e /run/udev/control ] || udevadm control --reload || true
}

# --- revert ---------------------------------------------------------------------------------------

restore() { # KIND WHERE VALUE
    value=$(read_value "$1" "$2")
    if [ -z "$value" ]; then
        say "$2 ($1) is gone: there is nothing to restore"
    elif [ -n "$dry" ]; then
        say "would restore $2 ($1) from $value to $3"
    elif write_value "$1" "$2" "$3"; then
        say "restored $2 ($1) to $3"
    else
        say "cannot restore $2 ($1) to $3"
        refused=1
    fi
}

revert() {
    [ -e "$old" ] || { say "nothing to revert: host.sh apply has changed nothing here"; return 0; }
    # The last one first, so that the card keeps its queues until they have their old values.
    sed '1!G;h;$!d' "$old" >"$scratch/old"
    while IFS='|' read -r kind where value; do
        restore "$kind" "$where" "$value"
    done <"$scratch/old"
    for path in "$sysctl_file" "$udev_file" "$limits_file" "$unit_link" "$unit_file"; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        if [ -n "$dry" ]; then
            say "would remove $path"
        else
            rm -f "$path"
            say "removed $path"
        fi
    done
    [ -n "$dry" ] || rmdir "${limits_file%/*}" 2>/dev/null || true
    reload_managers
    # If a value could not be restored, the old ones are kept for the next try.
    [ -n "$dry" ] || [ "$refused" = 1 ] || rm -rf "$state"
    return $refused
}

if [ "$command" != check ] && [ -z "$dry" ] && [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    fail "$command changes the host: run it as root, or with --dry-run"
fi
"$command"
