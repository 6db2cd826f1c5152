#!/bin/sh
# Whether the store takes commands: it knows the password, and has read its data.
set -eu
REDISCLI_AUTH=$(tr -d '\r\n' < "${SECRETS:-/run/secrets}/ihvp_store_password")
export REDISCLI_AUTH
test "$(valkey-cli ping)" = PONG
