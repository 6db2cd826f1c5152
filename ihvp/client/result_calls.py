"""The client's calls for what has come out of a job."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from ihvp.client.arguments import Arguments
from ihvp.client.connection import Connection
from ihvp.client.result import Array, SolveResult, read_result, read_scores
from ihvp.wire import Influence, ProjectionView

__all__ = ["ResultCalls", "job_path"]

SAFETENSORS: Final = "application/vnd.safetensors"


def job_path(job_id: str) -> str:
    """Where a job is."""
    return f"/v1/jobs/{quote(job_id, safe='')}"


class ResultCalls:
    """Results and influence scores; a part of ``Client``."""

    _link: Connection
    _arguments: Arguments

    def result(self, job_id: str) -> SolveResult:
        """The result of a job that succeeded, checked against its digest.

        Raises:
            JobNotFound: No job has this id.
            JobNotFinished: Wait for it first.
            NoResult: It ended without one.
            ResultExpired: It was removed when its retention time was over.
        """
        with tempfile.TemporaryDirectory(prefix="ihvp-") as folder:
            path = Path(folder) / "result.safetensors"
            headers = self._link.download(f"{job_path(job_id)}/result", path, headers={"Accept": SAFETENSORS})
            return read_result(job_id, path, headers)

    def project(self, job_id: str, projection: Any) -> Array:
        """The dot products ``[k, m]`` in float64 of a job's solutions with the rows of a projection.

        The service computes them; the solutions stay there.

        Args:
            job_id: The job.
            projection: An array ``[m, p]`` or ``[p]``, a mapping of parameter names to arrays, a file, or a digest.

        Raises:
            JobNotFinished: It has not ended yet.
            ProjectionMismatch: Its rows have not as many numbers as the solutions.
        """
        wanted = {"projection": self._arguments.tensor(projection)}
        answer = self._link.send("GET", f"{job_path(job_id)}/result", params=wanted)
        dots = ProjectionView.model_validate_json(answer.content).dots
        return np.array(dots, np.float64)  # what is not finite came as null, and is NaN here

    def influence(self, job_id: str, top: int = 10) -> Influence:
        """The training points that help and harm most, for each right-hand side.

        Args:
            job_id: A job that was submitted with ``influence``.
            top: How many of each.

        Raises:
            NoInfluence: It was submitted without.
        """
        answer = self._link.send("GET", f"{job_path(job_id)}/influence", params={"top": top})
        return Influence.model_validate_json(answer.content)

    def influence_scores(self, job_id: str) -> Array:
        """The scores of all training points, ``[k, n]``.

        Raises:
            NoInfluence: It was submitted without.
        """
        with tempfile.TemporaryDirectory(prefix="ihvp-") as folder:
            path = Path(folder) / "scores.safetensors"
            link = self.influence(job_id, top=1).scores_href
            self._link.download(link, path, headers={"Accept": f"{SAFETENSORS}, */*;q=0.1"})
            return read_scores(path)
