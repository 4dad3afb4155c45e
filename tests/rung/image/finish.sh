#!/bin/sh
# Makes a bare Debian root one that looks like SLES where our scripts look. Run inside it, once.
set -e
for name in modprobe modinfo; do ln -sf "/usr/lib/stand-in/$name" "/usr/sbin/$name"; done
for name in rpm zypper SUSEConnect chronyc; do ln -sf "/usr/lib/stand-in/$name" "/usr/bin/$name"; done
mkdir -p /usr/lib/stackwright-lab /var/lib/stand-in /etc/stand-in /etc/chrony.d /etc/zypp/repos.d /etc/sysconfig
ln -sf /usr/lib/stand-in/rke2 /usr/lib/stackwright-lab/rke2
printf '%s\n' bash coreutils openssh-server systemd chrony sudo iproute2 tar gzip curl iptables >/var/lib/stand-in/packages
systemctl enable chronyd.service ssh.service
systemctl disable etcd.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer \
    2>/dev/null || true
systemctl mask etcd.service systemd-modules-load.service systemd-sysctl.service getty.target console-getty.service
useradd --create-home --shell /bin/bash ops
echo 'ops ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ops
mkdir -p /root/.ssh /home/ops/.ssh
chmod 700 /root/.ssh /home/ops/.ssh
printf 'UseDNS no\nMaxStartups 100\nMaxSessions 50\n' >/etc/ssh/sshd_config.d/rung.conf
: >/etc/fstab
: >/etc/machine-id
