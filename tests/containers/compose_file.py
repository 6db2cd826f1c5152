"""docker-compose.yml as Compose reads it: variables replaced, then parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["ROOT", "TEXT", "Compose", "composed", "replaced", "variables"]

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = "".join(
    line
    for line in (ROOT / "docker-compose.yml").read_text(encoding="utf-8").splitlines(keepends=True)
    if not line.lstrip().startswith("#")
)
# The innermost first, for a default may be a variable.
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")

Compose = dict[str, Any]


def variables(text: str) -> dict[str, str | None]:
    """Each variable, and its default with all others at theirs; None where it has none."""
    found: dict[str, str | None] = {}

    def keep(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        assert found.setdefault(name, default) == default, f"{name} has two defaults"
        return default or ""

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(keep, text)
    assert "${" not in text
    return found


def replaced(text: str, environment: Mapping[str, str]) -> str:
    """The text with variables of an environment, or with their defaults."""
    while _VARIABLE.search(text):
        text = _VARIABLE.sub(lambda match: environment.get(match[1]) or match[2] or "", text)
    return text


def composed(**environment: str) -> Compose:
    """The file under an environment, with every profile."""
    parsed: Compose = yaml.safe_load(replaced(TEXT, environment))
    return parsed
