"""Writes a small package with an architecture in it: its entry point, its module, and a test of the contract."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from ihvp.errors import InvalidInput
from ihvp.models.architectures import BUILT_IN, ENTRY_POINT_GROUP

__all__ = ["new_plugin"]

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX: Final = ".tmpl"
_FILES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "$module/__init__.py",
    "architecture.py": "$module/architecture.py",
    "test_architecture.py": "tests/test_architecture.py",
}


def new_plugin(name: str, folder: Path) -> list[Path]:
    """Makes the package ``folder/name``; what it holds passes its own tests as it is.

    Args:
        name: The architecture's type, by which callers will name it: ``two-towers``.
        folder: Where the package's folder is made.

    Returns:
        The files that were written.

    Raises:
        InvalidInput: The name is no good, is that of a built-in architecture, or its folder is there already.
    """
    if not NAME.fullmatch(name) or len(name) > 60:
        raise InvalidInput(
            "An architecture is named in lower case.", given=name[:80], allowed="letters, digits and single hyphens"
        )
    if name in BUILT_IN:
        raise InvalidInput("An architecture of this name is built in.", given=name, allowed="any other name")
    root = folder / name
    if root.exists():
        raise InvalidInput("There is something of this name; nothing is written over.", given=str(root))
    words = {
        "name": name,
        "module": name.replace("-", "_"),
        "title": "".join(word.capitalize() for word in name.split("-")),
        "group": ENTRY_POINT_GROUP,
    }
    templates = files("ihvp.plugins") / "template"
    written: list[Path] = []
    for source, target in _FILES.items():
        path = root / Template(target).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / f"{source}{_SUFFIX}").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(path)
    return written
