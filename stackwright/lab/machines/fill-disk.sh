#!/bin/sh
# fill-disk [--free] FOLDER: put a layer without space over a folder, so that every write below it gets ENOSPC.
set -eu
if [ "$1" = --free ]; then
    umount -l "$2"
    umount -l "/mnt/full$(echo "$2" | tr / _)"
    exit
fi
full=/mnt/full$(echo "$1" | tr / _)
mkdir -p "$full"
mount -t tmpfs -o size=128k,nr_inodes=16 tmpfs "$full"
mkdir "$full/upper" "$full/work"
mount -t overlay overlay -o "userxattr,lowerdir=$1,upperdir=$full/upper,workdir=$full/work" "$1"
head -c 1M /dev/zero >"$full/filler" 2>/dev/null || true
n=0
while true 2>/dev/null >"$full/$n"; do n=$((n + 1)); done
