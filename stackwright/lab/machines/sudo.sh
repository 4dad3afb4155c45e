#!/bin/sh
# sudo for a root shell. Another user's sudo is carried out by the SSH server, which is who can make it root.
if [ "$(id -u)" != 0 ]; then
    echo "sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option set or an NFS file system without root privileges?" >&2
    exit 1
fi
while [ $# -gt 0 ]; do
    case $1 in
    -n | -S | -E | -H) shift ;;
    -u) shift 2 ;;
    -v) exit 0 ;;
    --) shift; break ;;
    -*) echo "sudo: invalid option -- '${1#-}'" >&2; exit 1 ;;
    *) break ;;
    esac
done
while :; do case ${1-} in [A-Za-z_]*=*) export "$1"; shift ;; *) break ;; esac; done
if [ $# -eq 0 ]; then echo "usage: sudo -h | -K | -k | -V" >&2; exit 1; fi
exec "$@"
