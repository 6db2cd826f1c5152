"""What a Dockerfile says: its stages and their instructions, as far as ours use them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Copy:
    """A COPY: sources, destination, and the stage it copies from (None: the build context)."""

    sources: tuple[str, ...]
    destination: str
    stage: str | None


@dataclass
class Stage:
    """A stage: its name, what it stands on, and its instructions in their order."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, word: str) -> str | None:
        """The arguments of the last instruction of that name."""
        return next((text for name, text in reversed(self.instructions) if name == word), None)

    @property
    def copies(self) -> list[Copy]:
        found = []
        for name, text in self.instructions:
            if name == "COPY":
                words = shlex.split(text)
                flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
                assert set(flags) <= {"from"}, flags
                *sources, destination = (word for word in words if not word.startswith("--"))
                found.append(Copy(tuple(sources), destination, flags.get("from")))
        return found


class Dockerfile:
    """A Dockerfile of the repository."""

    def __init__(self, path: Path) -> None:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        whole = "\n".join(lines).replace("\\\n", " ")
        self.arguments: list[str] = []
        self.stages: dict[str, Stage] = {}
        stage: Stage | None = None
        for line in filter(None, (line.strip() for line in whole.splitlines())):
            word, _, text = line.partition(" ")
            text = text.strip()
            if word == "ARG":
                self.arguments.append(text)
            if word == "FROM":
                parent, _, name = text.partition(" AS ")
                stage = Stage(name or "final", parent)
                self.stages[stage.name] = stage
            elif stage is not None:
                stage.instructions.append((word, text))

    def line_of(self, name: str) -> list[Stage]:
        """A stage and those that it stands on, nearest first."""
        found = [self.stages[name]]
        while found[-1].parent in self.stages:
            found.append(self.stages[found[-1].parent])
        return found

    def last(self, name: str, word: str) -> str:
        """What holds of an instruction for that stage, wherever it stands."""
        return next(text for stage in self.line_of(name) if (text := stage.last(word)) is not None)

    def command(self, name: str) -> list[str]:
        """What a container of that stage runs: its entry point and its command."""
        found: list[str] = json.loads(self.last(name, "ENTRYPOINT")) + json.loads(self.last(name, "CMD"))
        return found

    def environment(self, name: str) -> dict[str, str]:
        """The variables that a container of that stage starts with."""
        found: dict[str, str] = {}
        for stage in reversed(self.line_of(name)):
            for word, text in stage.instructions:
                if word == "ENV":
                    found.update(pair.split("=", 1) for pair in shlex.split(text))
        return found

    def lay_out(self, name: str, folder: str, place: Path) -> None:
        """Copies to ``place`` what an image of that stage has in ``folder`` from the build context."""
        at = "/"
        for stage in reversed(self.line_of(name)):
            at = stage.last("WORKDIR") or at
            for copy in stage.copies:
                destination = PurePosixPath(at, copy.destination)
                if copy.stage is not None:
                    if destination == PurePosixPath(folder) and copy.sources == (folder,):
                        self.lay_out(copy.stage, folder, place)
                elif destination.is_relative_to(folder):
                    _copy(copy, destination.relative_to(folder), place)


def context(root: Path = ROOT) -> set[str]:
    """The files that a build of the repository is sent, as .dockerignore lets them through."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    # The client itself always sends these two.
    return {path for path in exclude_paths(str(root), patterns) if (root / path).is_file()} - {
        ".dockerignore",
        "Dockerfile",
    }


def _copy(copy: Copy, destination: PurePosixPath, place: Path) -> None:
    sent = context()
    for source in copy.sources:
        into_folder = copy.destination.endswith("/") or len(copy.sources) > 1
        if (ROOT / source).is_file():
            target = place / destination / Path(source).name if into_folder else place / destination
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, target)
            continue
        # Of a folder its content is copied, not itself.
        for file in sent:
            if re.match(re.escape(source.rstrip("/")) + "/", file):
                target = place / destination / Path(file).relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, target)
