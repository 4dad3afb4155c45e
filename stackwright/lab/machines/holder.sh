# Make one machine's root and hold its namespaces until standard input closes (which it does when the lab dies).
# In: BASE (the machine's folder), NODE (host name), USR_LOCAL (mount: /usr/local is a mount point). Out: "ready".
set -eu
new=$BASE/live/new
mount -t tmpfs -o mode=755 tmpfs "$new"
cd "$new"
mkdir usr etc var opt root srv home run tmp proc sys dev mnt old
for link in bin sbin lib lib64 lib32 libx32; do
    if [ -L "/$link" ]; then cp -P "/$link" .; elif [ -d "/$link" ]; then mkdir "$link"; mount --rbind "/$link" "$link"; fi
done
layers=lowerdir=$BASE/standins:/usr
if ! mount -t overlay overlay -o "userxattr,$layers,upperdir=$BASE/usr,workdir=$BASE/work" usr 2>"$BASE/live/overlay"; then
    # The lab's folder is on a file system that cannot be an upper layer: what is written to /usr lasts until power-off.
    mkdir "$BASE/live/mem"
    mount -t tmpfs tmpfs "$BASE/live/mem"
    mkdir "$BASE/live/mem/usr" "$BASE/live/mem/work"
    mount -t overlay overlay -o "userxattr,$layers,upperdir=$BASE/live/mem/usr,workdir=$BASE/live/mem/work" usr
fi
for folder in etc var opt root srv home; do mount --bind "$BASE/root/$folder" "$folder"; done
for folder in run tmp; do mount --bind "$BASE/live/$folder" "$folder"; done
if [ -n "$USR_LOCAL" ]; then mkdir -p usr/local; mount --bind "$BASE/root/usr-local" usr/local; fi
mount --rbind /proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/disk dev/disk/by-id
for device in null zero full random urandom tty ptmx; do : >"dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mount --rbind /dev/pts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do ln -s "${link#*:}" "dev/${link%%:*}"; done
while read -r device mount; do # the machine's data disks: a name below /dev, and a mounted folder
    mkdir -p "$(dirname ".$device")" ".$mount" "$BASE/root/disks/${device##*/}"
    : >".$device"
    mount --bind "$BASE/root/disks/${device##*/}" ".$mount"
done <"$BASE/live/disks"
# The host's own programs, for stand-ins that only wrap one.
mkdir mnt/host
mount --bind /usr mnt/host
mount -o remount,bind,ro mnt/host 2>"$BASE/live/ro" || : # where it cannot be made read-only, nothing writes there either
mount --bind "$BASE/live/swaps" proc/swaps
mount --bind "$BASE/live/meminfo" proc/meminfo
mount --bind "$BASE/live/module" sys/module
if [ -d proc/driver ]; then mount --bind "$BASE/live/driver" proc/driver; fi
mount --bind "$BASE/live/sysctl" proc/sys
if [ -d sys/fs/cgroup ]; then mount --bind "$BASE/live/cgroup" sys/fs/cgroup; fi
hostname "$NODE"
pivot_root . old
umount -l /old
rmdir /old
echo ready
exec /bin/cat >/dev/null
