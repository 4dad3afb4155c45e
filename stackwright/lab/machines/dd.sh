#!/bin/bash
# dd, with the machine's own disk under a synchronous write: a quick one with a cache that outlives a power cut, or as
# slow as the fault slow-disk makes it. The host's disk is everybody's here, and so is its time: the bytes are written,
# the seconds are the stand-in disk's.
words=()
sync=
for word in "$@"; do
    case $word in
    oflag=dsync) sync=1 ;;
    conv=fsync) ;;
    *) words+=("$word") ;;
    esac
done
[ "$sync" ] || exec /mnt/host/bin/dd "${words[@]}"
/mnt/host/bin/dd "${words[@]}" 2>/dev/null || exit
seconds=0.0004
[ ! -e /run/lab/disk_s ] || read -r seconds </run/lab/disk_s
echo "2300 bytes (2.3 kB, 2.2 KiB) copied, $seconds s, 2.3 MB/s" >&2
