"""Who takes part, in which environment and with which settings; and a process that runs one contestant's jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

__all__ = ["CONTESTANTS", "ENVIRONMENTS", "Contestant", "Server"]

ENVIRONMENTS: Final = Path(".bench/venvs")
WAIT_FOR_EXIT: Final = 10.0


@dataclass(frozen=True)
class Contestant:
    """A way to solve.

    Attributes:
        name: In the table.
        adapter: Module in :mod:`benchmarks.adapters`.
        environment: Its folder under ``.bench/venvs``; None for this project's own.
        settings: What the adapter is given.
        one_by_one: Whether its time grows with the number of right-hand sides as that number does.
    """

    name: str
    adapter: str
    environment: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    one_by_one: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is this project."""
        return self.environment is None

    def missing(self) -> str | None:
        """Why it cannot take part, if so."""
        if self.environment is None or (ENVIRONMENTS / self.environment / ".installed").exists():
            return None
        reason = ENVIRONMENTS / f"{self.environment}.failed"
        said = reason.read_text(encoding="utf-8").strip() if reason.exists() else "run scripts/bench-venvs.sh"
        return f"not installed: {said}"

    def python(self) -> Path:
        """The interpreter it runs in."""
        return Path(sys.executable) if self.environment is None else ENVIRONMENTS / self.environment / "bin/python"


CONTESTANTS: Final = (
    Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"}),
    Contestant("ihvp auto", "ihvp_solvers", None, {"method": "auto"}),
    Contestant("ihvp cg + nystrom", "ihvp_solvers", None, {"method": "cg", "preconditioner": "nystrom"}),
    Contestant("ihvp cg + ekfac", "ihvp_solvers", None, {"method": "cg", "preconditioner": "ekfac"}),
    Contestant("pydvl 0.10 block CG", "pydvl_0_10", "pydvl-0.10", {"block": True}),
    Contestant("pydvl 0.10 block CG + Nyström", "pydvl_0_10", "pydvl-0.10", {"block": True, "rank": 200}),
    Contestant("pydvl 0.10 CG", "pydvl_0_10", "pydvl-0.10", {"block": False}, one_by_one=True),
    Contestant("curvlinops CG", "curvlinops_3", "curvlinops", {"together": True}),
    Contestant("curvlinops CG, one by one", "curvlinops_3", "curvlinops", {"together": False}, one_by_one=True),
    Contestant("pydvl 0.7.1 CG", "pydvl_0_7_1", "pydvl-0.7.1", one_by_one=True),
)


class Server:
    """A contestant's process: imports are over when it is made, each job runs in a fork of it."""

    def __init__(self, contestant: Contestant) -> None:
        command = [str(contestant.python()), "-W", "ignore", "-m", "benchmarks.adapters", contestant.adapter]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._expect("ready")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The report of a job; see :func:`benchmarks.adapters.contestant.run_job`."""
        report = Path(job["out"]) / "report.json"
        report.unlink(missing_ok=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        self._expect("done")
        if not report.exists():
            return {"status": "its process ended before it could report (out of memory, or stuck past the limit)"}
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        said = "it ended without a word"
        for line in self._process.stdout:
            if line.strip() == word:
                return
            said = line.strip() or said
        raise RuntimeError(said)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(WAIT_FOR_EXIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
