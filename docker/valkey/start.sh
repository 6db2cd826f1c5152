#!/bin/sh
# Starts the store with the password of the secret's file, which is on no command line and in no environment.
set -eu
secret=${SECRETS:-/run/secrets}/ihvp_store_password
password=$(tr -d '\r\n' 2>/dev/null < "$secret") || password=
if [ -z "$password" ]; then
    echo "valkey: no password in $secret (readable by group $(id -g)): 'docker compose run --rm prepare' makes one" >&2
    exit 2
fi
umask 077
conf=${TMPDIR:-/tmp}/valkey.conf
cat "${0%/*}/valkey.conf" > "$conf"
printf 'dir "%s"\nmaxmemory %s\nrequirepass "%s"\n' "${STORE_FOLDER:-/data}" "${STORE_BYTES:-0}" \
    "$(printf %s "$password" | sed 's/[\\"]/\\&/g')" >> "$conf"
exec valkey-server "$conf"
