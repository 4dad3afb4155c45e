#!/bin/bash
# df -Pk and df -Pi of the machine's own disks, which are not the host's: sizes as the lab says, nearly empty. A folder
# that a fault has filled is shown as it is, and so is everything under other options.
case $1 in -Pk | -Pi) ;; *) exec /mnt/host/bin/df "$@" ;; esac
for path in "${@:2}"; do
    [ "$(/mnt/host/bin/df --output=avail "$path" 2>/dev/null | tail -n 1 | tr -d ' ')" = 0 ] && exec /mnt/host/bin/df "$@"
done
inodes=
paths=()
for word in "$@"; do
    case $word in
    -*i*) inodes=1 ;;
    -*) ;;
    *) paths+=("$word") ;;
    esac
done
[ "$inodes" ] && echo "Filesystem Inodes IUsed IFree IUse% Mounted on" || echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
for path in "${paths[@]:-/}"; do
    [ -e "$path" ] || { echo "df: $path: No such file or directory" >&2; exit 1; }
    while read -r mount device gib; do
        [[ ${path%/}/ == "${mount%/}/"* ]] || continue
        total=$((gib * 1048576))
        [ "$inodes" ] && total=$((gib * 65536))
        echo "$device $total $((total / 10)) $((total - total / 10)) 10% $mount"
        break
    done </usr/lib/stackwright-lab/disks
done
