"""The README's table: rendered from the results, between two comments that a run finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.report import HEADER, row_lines
from benchmarks.rows import ROWS
from benchmarks.wording import minimum_table

__all__ = ["README", "readme_block", "write_readme"]

README: Final = Path(__file__).resolve().parent.parent / "README.md"
BEGIN: Final = "<!-- From benchmarks/results.json by `make bench`; a test compares. -->"
END: Final = "<!-- End of the benchmark's table. -->"


def readme_block(results: dict[str, Any]) -> str:
    """The table of all rows, and the machine they were measured on; with its two comments."""
    rows = {name: results["rows"][name] for name in ROWS if results["rows"].get(name, {}).get("cells")}
    lines = [[name, *line] for name, part in rows.items() for line in row_lines(part)]
    machines = dict.fromkeys(
        f"{part['machine']['cores']} cores of an {part['machine']['processor']}, torch {part['machine']['torch']}"
        for part in rows.values()
    )
    table = minimum_table(("row", *HEADER), lines, left=(0, 1, 3, 6))
    return "\n".join([BEGIN, *table, "", f"Measured on {'; '.join(machines)}.", END])


def write_readme(results: dict[str, Any], path: Path = README) -> None:
    """Replaces the block.

    Raises:
        ValueError: The file has no place for it.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no place for the benchmark's table: write {BEGIN} and {END} where it belongs")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{readme_block(results)}{after}", encoding="utf-8")
