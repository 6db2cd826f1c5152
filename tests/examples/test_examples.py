"""The examples: `make examples` runs each of them, and each can say what it does."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LISTED = re.search(r"^EXAMPLES := (.+)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]


def test_every_program_is_listed() -> None:
    programs = {
        path.stem
        for path in (ROOT / "examples").glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert programs - {"demo"} == set(LISTED)  # the demo has a command of its own


@pytest.mark.parametrize("name", LISTED)
def test_it_says_what_it_does_and_imports_little(name: str) -> None:
    about = importlib.import_module(f"examples.{name}").__doc__
    assert f"python -m examples.{name}" in about
    told = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--out" in told
    assert about.splitlines()[0][:40] in " ".join(told.split())


@pytest.mark.service
def test_a_model_in_a_bucket_is_solved_on_and_certified(tmp_path: Path) -> None:
    """One of them from beginning to end; the others take their time, and are run by `make examples`."""
    out = tmp_path / "an example"
    done = subprocess.run(
        [sys.executable, "-m", "examples.bucket", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("converged") == 6
    assert "ETag" in done.stdout
