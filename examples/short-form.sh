#!/bin/sh
# A device without an agent: any MQTT client can publish the short form. Needs mosquitto-clients.
# Usage: examples/short-form.sh [DEVICE] [HOST] [PORT]
set -eu
device=${1:-greenhouse} host=${2:-127.0.0.1} port=${3:-1883}
while :; do
    read -r load _ < /proc/loadavg
    mosquitto_pub -h "$host" -p "$port" -q 1 -i "$device" \
        -t "devmon/v1/0/$device/metrics" -m "{\"metrics\":{\"load_1m\":$load}}"
    sleep 10
done
