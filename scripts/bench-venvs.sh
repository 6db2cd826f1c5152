#!/usr/bin/env bash
# Makes one environment a peer under .bench/venvs, from the pins in benchmarks/peers. Safe to run again.
# A peer that cannot be installed leaves its reason beside its place, and the benchmark goes on without it.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python3}"
torch=torch==2.13.0 # what constraints.txt pins: every contestant computes with the same one
export PIP_DISABLE_PIP_VERSION_CHECK=1

mkdir -p .bench/venvs
for pins in benchmarks/peers/*.txt; do
    peer="$(basename "$pins" .txt)"
    venv=".bench/venvs/$peer"
    if [ "$venv/.installed" -nt "$pins" ] && [ "$venv/.installed" -nt scripts/bench-venvs.sh ]; then
        continue
    fi
    printf 'bench: installing %s into %s\n' "$peer" "$venv"
    rm -rf "$venv" "$venv.failed"
    # torch first and alone, then held: no peer may bring another build of it.
    if "$python" -m venv "$venv" >"$venv.log" 2>&1 &&
        "$venv/bin/python" -m pip install -q "$torch" >>"$venv.log" 2>&1 &&
        "$venv/bin/python" -m pip install -q --constraint <(echo "$torch") --requirement "$pins" >>"$venv.log" 2>&1; then
        touch "$venv/.installed"
        rm -f "$venv.log"
    else
        { grep -E '^(ERROR|error)' "$venv.log" || tail -n 1 "$venv.log"; } | head -n 1 >"$venv.failed"
        printf 'bench: %s could not be installed: %s\n' "$peer" "$(cat "$venv.failed")" >&2
    fi
done
