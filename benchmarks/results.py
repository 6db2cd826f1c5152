"""The results of all rows in one file, of which a run changes only its own part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["FOLDER", "best", "read_results", "write_results"]

FOLDER: Final = Path(__file__).parent
FILE: Final = "results.json"


def read_results(folder: Path = FOLDER) -> dict[str, Any]:
    """What has been measured; no rows where nothing has run yet.

    ``rows`` has ``{"machine", "quick", "problem", "cells", "curves"}`` by row, ``coalescing`` what belongs to none,
    ``seconds`` what each step of the benchmark took, by row and step.
    """
    path = folder / FILE
    if not path.exists():
        return {"rows": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_results(results: dict[str, Any], folder: Path = FOLDER) -> None:
    """Replaces the file; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def best(cell: dict[str, dict[str, Any]], which: str, *, ours: bool) -> tuple[str, float] | None:
    """The fastest of ours or of the peers in a cell, among those whose solutions meet the tolerance.

    Args:
        cell: Entries by contestant.
        which: ``cold`` or ``warm``.
        ours: Whether to look among this project's ways to solve.

    Returns:
        Its name and median seconds; None if nobody got there.
    """
    found = [
        (name, entry[f"{which}_median"])
        for name, entry in cell.items()
        if name.startswith("ihvp") == ours and entry["reached"] and entry[f"{which}_median"]
    ]
    return min(found, key=lambda pair: pair[1], default=None)
