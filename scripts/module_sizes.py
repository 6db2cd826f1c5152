"""Fails when a module grows past what one reading can hold, or has a name that says nothing."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ihvp", "app", "workers", "solvers", "tests", "examples", "benchmarks", "scripts")
LONGEST = 450
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def complaints() -> list[str]:
    """One line for each module that breaks a rule."""
    found: list[str] = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            name = path.relative_to(ROOT)
            if lines > LONGEST:
                found.append(f"{name}: {lines} lines, {LONGEST} are allowed; split it by concept")
            if path.stem in EMPTY_NAMES or path.parent.name in EMPTY_NAMES:
                found.append(f"{name}: name it after the one concept it holds")
    return found


if __name__ == "__main__":
    found = complaints()
    sys.stderr.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found))
