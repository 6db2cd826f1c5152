"""How numbers and tables are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["minimum_table", "named", "seconds", "times"]


def seconds(value: float | None) -> str:
    """Seconds, or milliseconds below a tenth of one; nothing for None."""
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1e3:.1f} ms"


def times(ratio: float) -> str:
    """A ratio, like ``2.5×``, of one digit at least."""
    places = 0 if ratio >= 100 else 1 if ratio >= 0.1 else 2
    return f"{ratio:.{places}f}×"


def named(pairs: Iterable[tuple[str, float] | None]) -> str:
    """The names of the fastest, each once, without this project's own."""
    return " / ".join(dict.fromkeys(pair[0].removeprefix("ihvp ") for pair in pairs if pair)) or "–"


def minimum_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, left: Iterable[int] = ()) -> list[str]:
    """A Markdown table; columns are aligned to the right but those of ``left``."""
    texts = set(left)
    rule = ["---" if column in texts else "---:" for column in range(len(header))]
    return [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in lines)]
