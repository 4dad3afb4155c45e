#!/bin/sh
# Stand-in for RKE2's install script, tarball method only: the same variables, places, refusals and messages.
set -e
if [ "${DEBUG:-}" = 1 ]; then set -x; fi

info() { echo "[INFO]  $*"; }
fatal() { echo "[ERROR]  $*" >&2; exit 1; }

setup_env() {
    INSTALL_RKE2_TYPE=${INSTALL_RKE2_TYPE:-${INSTALL_RKE2_EXEC:-server}}
    case $INSTALL_RKE2_TYPE in server | agent) ;; *) fatal "unknown INSTALL_RKE2_TYPE: $INSTALL_RKE2_TYPE" ;; esac
    if [ "$(id -u)" != 0 ]; then fatal "You need to be root to perform this install"; fi
    [ -r /etc/os-release ] && . /etc/os-release
    if [ -n "$INSTALL_RKE2_ARTIFACT_PATH" ]; then INSTALL_RKE2_METHOD=tar; fi
    if [ -z "$INSTALL_RKE2_METHOD" ]; then
        case "$ID:${VERSION_ID%%.*}" in sles:16) INSTALL_RKE2_METHOD=rpm ;; *) INSTALL_RKE2_METHOD=tar ;; esac
    fi
    case $INSTALL_RKE2_METHOD in
    tar) ;;
    rpm | yum | dnf)
        if [ -e /usr/local/bin/rke2 ] || [ -e /opt/rke2/bin/rke2 ]; then
            fatal "Cannot perform $INSTALL_RKE2_METHOD install on host with existing tarball installation"
        fi
        fatal "the lab has no RPM repository of RKE2: set INSTALL_RKE2_METHOD=tar"
        ;;
    *) fatal "Unrecognized installation method: $INSTALL_RKE2_METHOD" ;;
    esac
    INSTALL_RKE2_AGENT_IMAGES_DIR=${INSTALL_RKE2_AGENT_IMAGES_DIR:-/var/lib/rancher/rke2/agent/images}
    if [ -z "$INSTALL_RKE2_ARTIFACT_PATH" ]; then
        if [ -z "$INSTALL_RKE2_ARTIFACT_URL" ]; then fatal "the lab cannot reach the public download site: set INSTALL_RKE2_ARTIFACT_URL"; fi
        if [ -z "$INSTALL_RKE2_VERSION" ]; then fatal "the lab has no channel server: set INSTALL_RKE2_VERSION"; fi
    fi
}

setup_arch() {
    case $(uname -m) in
    x86_64 | amd64) SUFFIX=linux-amd64 ARCH=amd64 ;;
    aarch64 | arm64) SUFFIX=linux-amd64 ARCH=amd64 ;; # the lab's one build holds scripts only
    *) fatal "unsupported architecture $(uname -m)" ;;
    esac
}

check_target() {
    if [ -n "$INSTALL_RKE2_TAR_PREFIX" ]; then return; fi
    INSTALL_RKE2_TAR_PREFIX=/usr/local
    if mountpoint -q /usr/local; then
        info "/usr/local is a mount point; installing to /opt/rke2"
        INSTALL_RKE2_TAR_PREFIX=/opt/rke2
    elif ! { mkdir -p /usr/local/.rke2-probe && rmdir /usr/local/.rke2-probe; } 2>/dev/null; then
        info "/usr/local is read-only; installing to /opt/rke2"
        INSTALL_RKE2_TAR_PREFIX=/opt/rke2
    fi
}

fetch() { # NAME: into $TMP_DIR
    if [ -n "$INSTALL_RKE2_ARTIFACT_PATH" ]; then
        cp -f "$INSTALL_RKE2_ARTIFACT_PATH/$1" "$TMP_DIR/$1"
    else
        encoded=$(printf %s "$INSTALL_RKE2_VERSION" | sed 's/+/%2B/g')
        info "downloading $1 at $INSTALL_RKE2_ARTIFACT_URL/$encoded/$1"
        curl -o "$TMP_DIR/$1" -fsSL "$INSTALL_RKE2_ARTIFACT_URL/$encoded/$1" || fatal "download failed: $INSTALL_RKE2_ARTIFACT_URL/$encoded/$1"
    fi
}

verify() { # NAME
    expected=$(awk -v name="$1" '$2 == name { print $1 }' "$TMP_DIR/sha256sum-$ARCH.txt")
    actual=$(sha256sum "$TMP_DIR/$1" | cut -d ' ' -f 1)
    if [ "$expected" != "$actual" ]; then fatal "download sha256 does not match $expected, got $actual"; fi
}

stage_images() {
    archive=rke2-images.$SUFFIX.tar.zst
    if [ -z "$INSTALL_RKE2_ARTIFACT_PATH" ] || [ ! -f "$INSTALL_RKE2_ARTIFACT_PATH/$archive" ]; then return 0; fi
    fetch "$archive"
    verify "$archive"
    mkdir -p "$INSTALL_RKE2_AGENT_IMAGES_DIR"
    cp -f "$TMP_DIR/$archive" "$INSTALL_RKE2_AGENT_IMAGES_DIR/$archive"
    for extra in "$INSTALL_RKE2_ARTIFACT_PATH"/rke2-images-*."$SUFFIX"*; do
        if [ -f "$extra" ]; then cp -f "$extra" "$INSTALL_RKE2_AGENT_IMAGES_DIR/"; fi
    done
}

unpack() {
    info "unpacking tarball file to $INSTALL_RKE2_TAR_PREFIX"
    mkdir -p "$INSTALL_RKE2_TAR_PREFIX"
    tar xzf "$TMP_DIR/rke2.$SUFFIX.tar.gz" --no-same-owner -C "$INSTALL_RKE2_TAR_PREFIX"
    if [ "$INSTALL_RKE2_TAR_PREFIX" != /usr/local ]; then
        for unit in rke2-server rke2-agent; do
            sed "s|/usr/local|$INSTALL_RKE2_TAR_PREFIX|g" "$INSTALL_RKE2_TAR_PREFIX/lib/systemd/system/$unit.service" \
                >"/etc/systemd/system/$unit.service"
            rm -f "$INSTALL_RKE2_TAR_PREFIX/lib/systemd/system/$unit.service"
        done
        sed -i "s|/usr/local|$INSTALL_RKE2_TAR_PREFIX|g" "$INSTALL_RKE2_TAR_PREFIX/bin/rke2-uninstall.sh" \
            "$INSTALL_RKE2_TAR_PREFIX/bin/rke2-killall.sh"
    fi
    if rpm -q --quiet rke2-selinux && [ -z "$INSTALL_RKE2_SKIP_RESTORECON" ]; then restorecon -R "$INSTALL_RKE2_TAR_PREFIX"; fi
    if [ -z "$INSTALL_RKE2_SKIP_RELOAD" ]; then systemctl daemon-reload; fi
}

setup_env
setup_arch
check_target
if [ -n "$INSTALL_RKE2_ARTIFACT_PATH" ]; then
    for name in "rke2.$SUFFIX.tar.gz" "sha256sum-$ARCH.txt"; do
        if [ ! -f "$INSTALL_RKE2_ARTIFACT_PATH/$name" ]; then fatal "$name not found in $INSTALL_RKE2_ARTIFACT_PATH"; fi
    done
fi
TMP_DIR=$(mktemp -d -t rke2-install.XXXXXXXXXX)
trap 'code=$?; rm -rf "$TMP_DIR"; exit $code' INT EXIT
fetch "sha256sum-$ARCH.txt"
stage_images
fetch "rke2.$SUFFIX.tar.gz"
info "verifying tarball"
verify "rke2.$SUFFIX.tar.gz"
unpack
