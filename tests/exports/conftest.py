"""Archives that are exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exports.programs import CASES, export


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The archive of a case, by its name."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("archives")

    def find(name: str) -> Path:
        if name not in made:
            case = CASES[name]
            path = folder / f"{name.replace(' ', '-')}.pt2"
            made[name] = export(case.module(), case.inputs(), path, decompose=case.decompose)
        return made[name]

    return find


@pytest.fixture(scope="session")
def stack(archive: Callable[[str], Path]) -> Path:
    return archive("stack")
