"""What `make containers` found: a table on the screen, and the same in benchmarks/containers.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.machine import describe_machine, machine_line
from scripts.containers.engine import ROOT

__all__ = ["Report"]

PLACE: Final = ROOT / "benchmarks" / "containers.md"


@dataclass
class Report:
    """Rows in the order in which they were found.

    Attributes:
        base: What the images stand on, and how it came to be here.
        rows: What was looked at, and what was found.
    """

    base: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, found: str) -> None:
        """One row."""
        self.rows.append((what, found))

    def __str__(self) -> str:
        plain = [(what.replace("`", ""), found.replace("`", "")) for what, found in self.rows]
        width = max((len(what) for what, _ in plain), default=0)
        return "\n".join(f"{what:{width}}  {found}" for what, found in plain)

    def write(self, place: Path = PLACE) -> None:
        """Replaces the page."""
        machine = describe_machine()
        head = (
            "# The containers, built and started\n\n"
            f"Made by `make containers` on {machine['date']}: {machine_line(machine)}, commit {machine['commit']}. "
            f"Podman stands in for Docker's engine, under Docker's own Compose. Base images: {self.base}.\n\n"
            "| what | found |\n|---|---|\n"
        )
        place.write_text(head + "".join(f"| {what} | {found} |\n" for what, found in self.rows), encoding="utf-8")
