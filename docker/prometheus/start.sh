#!/bin/sh
# Starts Prometheus with the API key of the secret's file, once there is one; an API without keys looks at none.
set -eu
key=${SECRETS:-/run/secrets}/ihvp_metrics_key
if [ -e "$key" ]; then
    ln -sf "$key" "${TMPDIR:-/tmp}/metrics-key"
else
    echo none > "${TMPDIR:-/tmp}/metrics-key"
fi
exec prometheus --config.file=/etc/ihvp/prometheus.yml --storage.tsdb.path=/prometheus \
    --storage.tsdb.retention.time="${KEPT_FOR:-30d}"
