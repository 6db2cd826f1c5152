"""What a newcomer sees when something is missing: one line that says what, and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script touches, in a path with spaces."""
    copy = tmp_path / "a path with spaces"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/setup.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def fake_python(folder: Path, *, version_ok: bool, venv_ok: bool) -> Path:
    """An interpreter that answers the script's questions and nothing else."""
    path = folder / "python-fake"
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"*version_info*) exit {0 if version_ok else 1} ;;\n"
        f"*ensurepip*) exit {0 if venv_ok else 1} ;;\n"
        "-V) echo Python 3.9.2 ;;\n"
        "*) exit 99 ;;\n"
        "esac\n"
    )
    path.chmod(0o755)
    return path


def setup(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "scripts/setup.sh", python], cwd=checkout, capture_output=True, text=True, timeout=30
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_no_python(checkout: Path) -> None:
    assert "Install Python 3.11 or newer" in one_line(setup(checkout, "no-such-python"))


def test_an_old_python_is_named_with_its_version(checkout: Path) -> None:
    line = one_line(setup(checkout, str(fake_python(checkout, version_ok=False, venv_ok=True))))
    assert "3.11 or newer is needed" in line
    assert "Python 3.9.2" in line


def test_a_python_without_venv(checkout: Path) -> None:
    line = one_line(setup(checkout, str(fake_python(checkout, version_ok=True, venv_ok=False))))
    assert "apt-get install python3-venv" in line


def test_a_finished_setup_is_left_alone() -> None:
    before = (ROOT / ".venv" / ".installed").stat().st_mtime_ns
    done = subprocess.run(
        ["make", "--no-print-directory", "setup"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (ROOT / ".venv" / ".installed").stat().st_mtime_ns == before
