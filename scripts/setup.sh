#!/usr/bin/env bash
# Makes .venv from pinned versions. Safe to run again; says in one line what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python3}"

fail() { printf 'setup: %s\n' "$1" >&2; exit 2; }

command -v "$python" >/dev/null 2>&1 ||
    fail "no '$python' found. Install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, '$python' is $("$python" -V 2>&1). Name a newer one: make setup PYTHON=python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "'$python' has no venv module. On Debian or Ubuntu: apt-get install python3-venv"

# Two makes at once would write into each other's environment.
if command -v flock >/dev/null 2>&1; then
    exec 9>.setup.lock
    flock 9
fi
# A moved or half-made environment is made anew: its scripts carry absolute paths.
if ! .venv/bin/python -c 'import pathlib, sys; sys.exit(pathlib.Path(sys.prefix).resolve() != pathlib.Path(".venv").resolve())' 2>/dev/null ||
    ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv
fi
if [ .venv/.installed -nt constraints.txt ] && [ .venv/.installed -nt pyproject.toml ] && [ .venv/.installed -nt scripts/setup.sh ]; then
    exit 0
fi
printf 'setup: installing pinned packages into .venv (a few minutes the first time)\n'
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install -qq --constraint constraints.txt torch==2.13.0
.venv/bin/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
touch .venv/.installed
printf 'setup: done\n'
