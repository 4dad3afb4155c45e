#!/bin/bash
# df of the machine's own disks, which are not the host's: sizes as the lab's layout says, nearly empty. -P with k or i.
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
        case ${path%/}/ in
        "${mount%/}"/*)
            total=$((gib * 1048576))
            [ "$inodes" ] && total=$((gib * 65536))
            echo "$device $total $((total / 10)) $((total - total / 10)) 10% $mount"
            break
            ;;
        esac
    done </usr/lib/stackwright-lab/disks
done
