#!/bin/bash
# curl, with 127.0.0.1 as the machine's own: the lab has no network namespaces, so the host's loopback is everybody's.
read -r own _ </run/lab/link
words=()
for word in "$@"; do
    case $word in
    http://127.0.0.1:* | https://127.0.0.1:* | http://localhost:* | https://localhost:*)
        rest=${word#*://}
        word=${word%%://*}://$own:${rest#*:}
        ;;
    https://scc.suse.com | https://scc.suse.com/*)
        # SUSE Customer Center is a stand-in too: its other side is the command SUSEConnect.
        if [ -e /run/lab/cut ]; then exit 28; fi
        printf 200
        exit 0
        ;;
    http://* | https://*)
        if [ -e /run/lab/cut ]; then # the machine has no network
            echo "curl: (28) Failed to connect: Connection timed out" >&2
            exit 28
        fi
        ;;
    esac
    words+=("$word")
done
exec /mnt/host/bin/curl "${words[@]}"
