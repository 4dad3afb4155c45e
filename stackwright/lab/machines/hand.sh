#!/bin/bash
# Hand this command over to the lab: name, arguments and, for an argument "-", standard input; print what comes back.
read -r host port token </run/lab/link || { echo "${0##*/}: this machine has no lab" >&2; exit 255; }
exec 3<>"/dev/tcp/$host/$port" || exit 255
input=
for word in "$@"; do if [ "$word" = - ]; then input=$(cat); fi; done
printf '%s\0' "$token" "${0##*/}" "$input" "$#" "$@" >&3
read -r code out err <&3 || exit 255
if [ "$out" -gt 0 ]; then head -c "$out" <&3; fi
if [ "$err" -gt 0 ]; then head -c "$err" <&3 >&2; fi
exit "$code"
