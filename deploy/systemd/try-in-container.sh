#!/usr/bin/env bash
# Tries devmon-agent.service under a real systemd: a Debian in a container of its own (debootstrap, systemd-nspawn), made in the folder DIR and kept there for the next time.
#   deploy/systemd/try-in-container.sh DIR BIN     BIN: the folder with devmon-agent and libdevmon_plugin_*.so. Needs root, some minutes the first time; not part of the gate.
# Looks at: ready, log with priorities, reload, a plugin dropped in, a wrong configuration (78: not tried again), kill -9, a frozen agent (watchdog), an orderly end.
set -euo pipefail
[ $# = 2 ] || { sed -n 2,5p "$0"; exit 2; }
dir=$(realpath -m "$1"); bin=$(realpath "$2"); here=$(dirname "$(realpath "$0")"); root=$dir/root
apt-get install -qq -y debootstrap systemd-container >/dev/null
[ -e "$root/usr/sbin/mosquitto" ] || debootstrap --include=systemd,systemd-sysv,dbus,mosquitto bookworm "$root" >"$dir.log"
mkdir -p "$root"/usr/lib/devmon/plugins "$root"/etc/devmon/certs
rm -f "$root"/usr/lib/devmon/plugins/*
cp "$bin/devmon-agent" "$root/usr/bin/"
cp "$bin"/libdevmon_plugin_{cpu,memory,disk,network}.so "$root/usr/lib/devmon/plugins/"
cp "$here/devmon-agent.service" "$root/etc/systemd/system/"
config=$root/etc/devmon/agent.toml
printf 'device = "in-container"\nplugin_dir = "/usr/lib/devmon/plugins"\nmqtt = "mqtt://127.0.0.1:1883"\n' >"$config"
chroot "$root" id devmon >/dev/null 2>&1 || chroot "$root" useradd --system --no-create-home --shell /usr/sbin/nologin devmon

systemd-nspawn -q -D "$root" --boot --register=no --keep-unit >"$dir.log" 2>&1 &
container=$!
trap 'kill -TERM $container 2>/dev/null; wait $container 2>/dev/null || true' EXIT
inside() { nsenter -t "$init" -m -u -i -n -p -r -w -- "$@"; }
for _ in $(seq 100); do
    init=$(pgrep -P $container -x systemd || true)
    [ -n "$init" ] && inside systemctl is-active -q multi-user.target 2>/dev/null && break
    sleep 0.3
done

problems=0
# expect WHAT DEADLINE_S COMMAND…: the command succeeds within the deadline.
expect() {
    local what=$1 deadline=$((SECONDS + $2)); shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then echo "NOT $what"; problems=$((problems + 1)); return; fi
        sleep 0.3
    done
    echo "ok  $what"
}
property() { [ "$(inside systemctl show -p "$1" --value devmon-agent)" = "$2" ]; }
logged() { inside journalctl -u devmon-agent -o cat --since "@$since" "${@:2}" | grep -q -- "$1"; }
since=$(date +%s); inside systemctl reset-failed devmon-agent 2>/dev/null || true

inside systemctl restart devmon-agent
expect "ready once the agent says so" 5 property SubState running
expect "connected to the broker" 5 logged 'connected mqtt="\?mqtt://127.0.0.1:1883'
expect "its log names what it speaks of" 5 logged 'source loaded source="cpu"'
expect "no capabilities" 1 inside sh -c 'grep -q "CapEff:.0000000000000000" /proc/$(systemctl show -p MainPID --value devmon-agent)/status'
cc -O2 -shared -fPIC -I"$here/../../devmon-core/include" -o "$root/usr/lib/devmon/plugins/.new" "$here/../../examples/c-plugin/open_files.c"
mv "$root/usr/lib/devmon/plugins/.new" "$root/usr/lib/devmon/plugins/libopen_files.so"
expect "a plugin dropped in runs in a process of its own" 5 logged 'source loaded source="open_files".*isolation="process"'
printf '[sources.cpu]\ninterval = "2s"\n' >>"$config"; inside systemctl reload devmon-agent
expect "reload starts anew what changed" 5 logged 'started anew sources="cpu"'
echo 'devise = 1' >>"$config"; inside systemctl reload devmon-agent
expect "a wrong configuration is refused at reload, as an error, and the agent goes on" 5 logged 'unknown key' -p err
inside systemctl restart devmon-agent 2>/dev/null || true
expect "a wrong configuration ends with 78" 5 property ExecMainStatus 78
sleep 5
expect "and is not tried again" 1 property NRestarts 0
sed -i /devise/d "$config"; inside systemctl start devmon-agent
inside systemctl kill --kill-whom=main -s KILL devmon-agent
expect "kill -9: started again" 10 property NRestarts 1
expect "and ready" 10 property SubState running
inside systemctl kill --kill-whom=main -s STOP devmon-agent
expect "frozen: the watchdog starts it again" 60 property NRestarts 2
expect "and ready again" 10 property SubState running
inside systemctl stop devmon-agent
expect "ends in order" 1 property Result success
exit $((problems > 0))
