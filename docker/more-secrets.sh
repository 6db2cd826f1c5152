#!/bin/sh
# Makes the secrets that a profile needs, where they are missing: grafana, s3.
set -eu
umask 027
cd "${SECRETS:-/run/secrets}"

random() { od -An -v -tx1 -N "$1" /dev/urandom | tr -d ' \n'; }

# Takes the content on standard input. Nobody ever reads half a file.
keep() {
    test -e "$1" && return
    if ! cat 2>/dev/null > ".$1.new"; then
        echo "secrets: $PWD cannot be written, and has no file '$1': put one there, readable by group 10001" >&2
        exit 2
    fi
    chmod 0440 ".$1.new"
    mv ".$1.new" "$1"
    echo "secrets: made $1"
}

for part in "$@"; do
    case "$part" in
    grafana) random 16 | keep ihvp_grafana_password ;;
    s3)
        printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\nregion = us-east-1\n' \
            "$(random 10)" "$(random 32)" | keep aws_credentials
        ;;
    esac
done
