#!/bin/bash
# Stand-in for the rke2 program: version and commands; the lab carries out what a running cluster answers.
VERSION=@VERSION@
case ${1-} in
--version | -v)
    echo "rke2 version $VERSION (@COMMIT@)"
    echo "go version go1.24.5 X:boringcrypto"
    ;;
"" | --help | -h | help)
    echo "NAME:"
    echo "   rke2 - Rancher Kubernetes Engine 2"
    ;;
server | agent | etcd-snapshot | token | certificate | secrets-encrypt) exec /usr/lib/stackwright-lab/rke2 "$VERSION" "$@" ;;
*)
    echo "No help topic for '$1'" >&2
    exit 3
    ;;
esac
