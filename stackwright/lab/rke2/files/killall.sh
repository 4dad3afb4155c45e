#!/bin/sh
# Stand-in for rke2-killall.sh: stop both units and every pod of this node; data stays.
[ "$(id -u)" = 0 ] || { echo "must run as root" >&2; exit 1; }
for unit in rke2-server.service rke2-agent.service; do systemctl stop "$unit" 2>/dev/null || true; done
/usr/lib/stackwright-lab/rke2 "" lab-killall
data=${RKE2_DATA_DIR:-/var/lib/rancher/rke2}
for pod in etcd kube-apiserver kube-controller-manager kube-scheduler cloud-controller-manager; do
    rm -f "$data/agent/pod-manifests/$pod.yaml"
done
rm -rf /run/k3s
