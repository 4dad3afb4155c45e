#!/bin/sh
# Stand-ins for what a SLES host has and this machine lacks: just enough state for the benchmark's settings.
state=/var/lib/farm
args=$*
case ${0##*/} in
systemctl)
    verb=$1
    shift
    now=
    case $verb in
    show)
        shift 2
        first=1
        for unit in "$@"; do
            [ $first ] || echo
            first=
            active=inactive enabled= load=not-found
            if [ -e "$state/$unit" ]; then load=loaded; read -r active enabled <"$state/$unit"; fi
            printf 'Id=%s\nLoadState=%s\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nNRestarts=0\nResult=success\n' \
                "$unit" "$load" "$active" "$active" "$enabled"
        done
        ;;
    enable | disable | start | stop | restart | reload)
        for unit in "$@"; do
            case $unit in --now) now=1; continue ;; *.*) ;; *) unit=$unit.service ;; esac
            [ -e "$state/$unit" ] || { echo "Unit $unit does not exist." >&2; exit 1; }
            read -r active enabled <"$state/$unit"
            case $verb in
            enable) enabled=enabled; [ $now ] && active=active ;;
            disable) enabled=disabled; [ $now ] && active=inactive ;;
            start | restart) active=active ;;
            stop) active=inactive ;;
            esac
            echo "$active $enabled" >"$state/$unit"
        done
        ;;
    is-active)
        [ "$1" = --quiet ] && shift
        active=inactive
        [ -e "$state/$1.service" ] && read -r active _ <"$state/$1.service"
        echo "$active"
        [ "$active" = active ]
        ;;
    *) ;;
    esac
    ;;
rpm) while [ $# -gt 0 ]; do case $1 in -q) ;; --qf) shift ;; zram-generator | rke2-selinux | container-selinux) ;; *) echo "$1" ;; esac; shift; done ;;
chronyc)
    if [ "$1" = tracking ]; then
        echo 'System time     : 0.000021000 seconds slow of NTP time'
        echo 'Leap status     : Normal'
    fi
    ;;
modprobe) for name in "$@"; do case $name in -*) ;; *) mkdir -p "/sys/module/$name" ;; esac; done ;;
modinfo) exit 1 ;;
swapoff) echo 'Filename Type Size Used Priority' >/proc/swaps ;;
hostnamectl) hostname "$2"; echo "$2" >/etc/hostname ;;
ip)
    case $args in
    *link*) echo '2: eth0: <BROADCAST,UP> mtu 1500 qdisc mq state UP' ;;
    *addr*) echo '2: eth0    inet 192.0.2.2/24 scope global eth0' ;;
    *) echo 'default via 192.0.2.1 dev eth0' ;;
    esac
    ;;
ping) # five packets a fifth of a second apart
    sleep 0.8
    echo '5 packets transmitted, 5 received, 0% packet loss, time 804ms'
    echo 'rtt min/avg/max/mdev = 0.210/0.250/0.310/0.030 ms'
    ;;
sysctl)
    while IFS=' ' read -r key _ value; do
        case $key in '#'* | '') continue ;; esac
        path=/proc/sys/$(printf %s "$key" | tr . /)
        echo "$value" >"$path" || exit 1
    done <"$(eval "printf %s \"\${$#}\"")"
    ;;
*) echo "${0##*/} $args: not part of the benchmark" >&2; exit 1 ;;
esac
