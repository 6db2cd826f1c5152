"""Who takes part, in which environment and with which settings; and a process that runs one contestant's jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

__all__ = ["CONTESTANTS", "DENSE_BYTES", "ENVIRONMENTS", "Contestant", "Server", "taking_part"]

ENVIRONMENTS: Final = Path(".bench/venvs")
DENSE_BYTES: Final = 2**27
"""Most bytes of three matrices ``[p, p]`` for a dense solve to take part: the Hessian, its factor, a copy on the way.

128 MiB: p up to 3,344 in float32 and 2,364 in float64. The p products for the matrix are then some seconds at most.
"""
DENSE_MATRICES: Final = 3
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
        keeps: Whether its first solve leaves something that makes the second one shorter.
        dense: Whether it makes the matrix and factors it: it then has no tolerance, and needs a small p.
    """

    name: str
    adapter: str
    environment: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    one_by_one: bool = False
    keeps: bool = False
    dense: bool = False

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


def _ours(name: str, dense: bool = False, **settings: Any) -> Contestant:
    return Contestant(f"ihvp {name}", "ihvp_solvers", None, settings, keeps=True, dense=dense)


def _pydvl(name: str, **settings: Any) -> Contestant:
    """A way of pyDVL 0.10, which keeps what a preconditioner or a dense matrix took to make."""
    kept = {"keeps": "rank" in settings or "direct" in settings, "dense": "direct" in settings}
    one_by_one = settings.get("block") is False
    return Contestant(f"pydvl 0.10 {name}", "pydvl_0_10", "pydvl-0.10", settings, one_by_one, **kept)


CONTESTANTS: Final = (
    _ours("cg", method="cg"),
    _ours("auto", method="auto"),
    _ours("cg + nystrom", method="cg", preconditioner="nystrom"),
    _ours("cg + ekfac", method="cg", preconditioner="ekfac"),
    _ours("direct", dense=True, method="direct"),
    _pydvl("block CG", block=True),
    _pydvl("block CG + Nyström", block=True, rank=200),
    _pydvl("direct", direct=True),
    _pydvl("CG", block=False),
    Contestant("curvlinops CG", "curvlinops_3", "curvlinops", {"together": True}),
    Contestant("curvlinops CG, one by one", "curvlinops_3", "curvlinops", {"together": False}, one_by_one=True),
    Contestant("pydvl 0.7.1 CG", "pydvl_0_7_1", "pydvl-0.7.1", one_by_one=True),
)


def taking_part(contestants: Sequence[Contestant], parameters: int, itemsize: int) -> list[Contestant]:
    """Those for whom a problem is not too large: who makes a dense matrix needs one that fits :data:`DENSE_BYTES`.

    Args:
        contestants: All of them.
        parameters: p.
        itemsize: Bytes of a number.
    """
    dense = DENSE_MATRICES * parameters**2 * itemsize <= DENSE_BYTES
    return [contestant for contestant in contestants if dense or not contestant.dense]


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
