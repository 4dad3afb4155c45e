#!/bin/bash
# ping in the lab's one switch: a machine without a network hears nothing; all others answer in a moment, whole packets
# up to the link's size, or as late as the fault slow-link makes them. Knows -n -q -c -i -W -M do -s.
count=4 size=56 whole= target=
while [ $# -gt 0 ]; do
    case $1 in
    -c) count=$2; shift ;;
    -s) size=$2; shift ;;
    -M) whole=$2; shift ;;
    -i | -W) shift ;;
    -n | -q) ;;
    -*) echo "ping: invalid option -- '${1#-}'" >&2; exit 2 ;;
    *) target=$1 ;;
    esac
    shift
done
lost=0 end=0
if [ -e /run/lab/cut ] || { [ "$whole" ] && [ "$size" -gt 1472 ]; }; then lost=100 end=1; fi
echo "PING $target ($target) $size($((size + 28))) bytes of data."
echo
echo "--- $target ping statistics ---"
[ $lost = 100 ] && got=0 || got=$count
echo "$count packets transmitted, $got received, $lost% packet loss, time 800ms"
times=0.110/0.160/0.210/0.030
[ ! -e /run/lab/rtt_ms ] || { read -r ms </run/lab/rtt_ms; times=$ms/$ms/$ms/0.000; }
[ $lost = 100 ] || echo "rtt min/avg/max/mdev = $times ms"
exit $end
