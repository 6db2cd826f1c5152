#!/bin/sh
# `docker compose up -d --wait`, and where that fails, one line on what to do. Options of compose go before:
#   sh docker/up.sh --profile gpu
set -u
cd "$(dirname "$0")/.." || exit
said=$(mktemp) && status=$(mktemp) || exit
trap 'rm -f "$said" "$status"' EXIT

{
    docker compose "$@" up -d --wait --wait-timeout "${IHVP_UP_TIMEOUT:-600}" 2>&1
    echo $? > "$status"
} | tee "$said"
test "$(cat "$status")" = 0 && exit

# The engine's own line, and what to do about it.
advise() {
    echo "up: $1" >&2
    exit 1
}

if grep -qE 'port is already allocated|address already in use' "$said"; then
    advise "another program has the port. Choose a free one in .env, such as IHVP_PUBLISH=127.0.0.1:8001, and run this again."
elif grep -qE 'could not select device driver|nvidia-container|nvidia\.com/gpu' "$said"; then
    advise "no GPU for the profile gpu. Install the NVIDIA driver and the NVIDIA Container Toolkit, or leave the profile out."
elif grep -qE 'No such image|pull access denied|manifest unknown' "$said"; then
    advise "an image is missing. Build ours by 'docker compose build', pull the others by 'docker compose pull --ignore-buildable'."
fi
# What a part said that has ended or is ill; where there is none, one that is still starting. One that was only made waits
# for another.
parts=$(docker compose "$@" ps --all --format '{{.Service}} {{.State}} {{.ExitCode}} {{.Health}}' | sort -u |
    grep -vE ' (created .*|exited 0 .*|running [0-9]* (healthy)?)$')
worse=$(echo "$parts" | grep -v ' starting$')
echo "${worse:-$parts}" |
    while read -r service _; do
        test "$service" || continue
        # Some versions of Compose begin each line as if it were to be drawn anew.
        words=$(docker compose "$@" logs --no-log-prefix --no-color "$service" 2>&1 < /dev/null |
            tr -d '\033' | sed 's/^\[2K//; /^ *$/d')
        # A refusal is a line of its own; the doctor's is a row of its table.
        refused=$(echo "$words" | grep -E '^error: | fault ' | uniq)
        echo "${refused:-$(echo "$words" | uniq | tail -n 3)}"
    done | sed 's/  */ /g; s/^ *//; s/ *$//; s/^/up: /' >&2
exit 1
