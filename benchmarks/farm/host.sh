# One benchmark host: a private root in mount and UTS namespaces, with a real sshd in it.
# In: BASE (the host's folder), STUBS (shared stand-in commands), NODE, ADDRESS, PORT. Runs sshd in the foreground.
set -eu
new=$BASE/new
mkdir -p "$new"
mount -t tmpfs -o mode=755 tmpfs "$new"
cd "$new"
mkdir usr etc var root run tmp proc sys dev old
for link in bin sbin lib lib64; do [ -L "/$link" ] && cp -P "/$link" . ; done
for folder in etc var root; do mount --bind "$BASE/$folder" "$folder"; done
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p run/sshd run/upper run/work
mount -t overlay overlay -o "lowerdir=$STUBS:/usr,upperdir=$new/run/upper,workdir=$new/run/work" usr
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount --bind "$BASE/state/swaps" proc/swaps
mount --bind "$BASE/state/sysctl" proc/sys
mount --bind "$BASE/state/module" sys/module
hostname "$NODE"
pivot_root . old
umount -l /old
exec /usr/sbin/sshd -D -e -p "$PORT" -o "ListenAddress=$ADDRESS" -f /etc/ssh/sshd_config
