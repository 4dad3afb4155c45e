#!/bin/sh
# Stand-in for rke2-uninstall.sh: everything of RKE2 goes, its data and snapshots with it.
[ "$(id -u)" = 0 ] || { echo "must run as root" >&2; exit 1; }
prefix=${INSTALL_RKE2_ROOT:-/usr/local}
data=${RKE2_DATA_DIR:-/var/lib/rancher/rke2}
"$prefix/bin/rke2-killall.sh"
for unit in rke2-server rke2-agent; do
    systemctl disable "$unit" 2>/dev/null || true
    systemctl reset-failed "$unit" 2>/dev/null || true
    rm -f "/etc/systemd/system/$unit.service" "$prefix/lib/systemd/system/$unit.service" "$prefix/lib/systemd/system/$unit.env"
done
systemctl daemon-reload
rm -rf /etc/rancher/rke2 /etc/rancher/node /etc/cni /opt/cni/bin /var/lib/cni /var/log/pods /var/log/containers \
    /var/log/calico /var/lib/kubelet "$data"
rmdir /etc/rancher /var/lib/rancher 2>/dev/null || true
rm -rf "$prefix/share/rke2"
rm -f "$prefix/bin/rke2" "$prefix/bin/rke2-killall.sh" "$prefix/bin/rke2-uninstall.sh"
if [ "$prefix" = /opt/rke2 ]; then rm -rf /opt/rke2; fi
