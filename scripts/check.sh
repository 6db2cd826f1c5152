#!/usr/bin/env bash
# Formatting, lint with docstring rules, types, and who may import whom.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"
"$bin/ruff" format --check --no-cache .
"$bin/ruff" check --no-cache .
"$bin/python" -m mypy
"$bin/lint-imports" --no-cache
"$bin/python" scripts/module_sizes.py
