"""Documentation cannot rot: the commands and programs in it are run, and its tables are compared with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.running_service import RunningService
from ihvp.cli.exit_codes import ExitCode
from ihvp.settings import child_environment

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "docs/cli.md",
    "docs/client.md",
    "docs/data.md",
    "docs/keys.md",
    "docs/solvers.md",
    "docs/transformers.md",
    "docs/uploads.md",
]
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*$")


@dataclass
class Program:
    """All blocks of one language in a document, in order."""

    language: str
    blocks: list[str]

    def run(self, service: RunningService, folder: Path) -> str:
        """Runs it in a folder, as a reader of the document would, and gives what it prints."""
        environment = child_environment(url=service.url)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = ["bash", "-euo", "pipefail", "-c"] if self.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, "\n".join(self.blocks)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def programs(text: str) -> list[Program]:
    """A document's bash blocks are one script, its Python blocks one program.

    A block after a comment ``<!-- not run: reason -->`` is left out.
    """
    found: dict[str, Program] = {}
    for match in re.finditer(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if not NOT_RUN.search(text[: match.start()]):
            found.setdefault(match[1], Program(match[1], [])).blocks.append(match[2])
    return list(found.values())


def test_blocks_are_found_and_left_out_only_with_a_reason() -> None:
    blocks = [
        "```bash\na\n```",
        "<!-- not run: needs a GPU -->\n```bash\nb\n```",
        "```python\nc\n```",
        "```bash\nd\n```",
    ]
    text = "\n".join([*blocks, "```json\n{}\n```\n"])
    assert programs(text) == [Program("bash", ["a\n", "d\n"]), Program("python", ["c\n"])]


@pytest.mark.service
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_does_what_it_says(name: str, service: RunningService, tmp_path: Path) -> None:
    found = programs((ROOT / name).read_text(encoding="utf-8"))
    assert found
    for program in found:
        program.run(service, tmp_path)


def test_the_table_of_exit_statuses_is_the_code() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [int(status) for status in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [int(c) for c in ExitCode]


def test_every_command_is_in_the_table() -> None:
    from typer.main import get_command

    from ihvp.cli.main import app

    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    listed = {name.split()[0] for name in re.findall(r"^\| `ihvp ([a-z ]+)` \|", text, re.MULTILINE)}
    assert listed == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_each_promise_is_held_by_a_test_that_exists() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    promises = re.findall(r"^\| .+ \| `(tests/[\w/]+\.py)::(?:\w+::)*(\w+)` \|$", text, re.MULTILINE)
    assert len(promises) >= 30
    assert len(promises) == len(re.findall(r"^\| .*`tests/", text, re.MULTILINE)), "a row that is not looked at"
    missing = [
        f"{path}::{name}"
        for path, name in promises
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []
