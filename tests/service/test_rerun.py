"""``ihvp rerun`` on the running service: the same bits where nothing differs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from examples.running_service import RunningService
from ihvp import Client
from ihvp.errors import JobNotFound
from ihvp.settings import child_environment

if TYPE_CHECKING:
    from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def ihvp(service: RunningService, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ihvp.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=child_environment(url=service.url) | {"NO_COLOR": "1"},
    )  # fmt: skip


def test_a_rerun_gives_the_same_bits_where_nothing_differs(
    client: Client, oracle: Oracle, service: RunningService
) -> None:
    b = np.ones((2, oracle.model.num_params))
    for _ in range(2):  # what the first leaves, all later ones find
        first = client.solve(model="oracle-mlp", rhs=b, method="direct", hessian_perturbation=0.5, progress=False)
    assert first.provenance.given == "oracle-mlp"
    done = ihvp(service, "rerun", first.job_id, "--strict", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"] == {}
    assert told["identical"]
    assert told["first"]["digest"] == first.digest
    assert told["second"]["job_id"] != first.job_id
    np.testing.assert_array_equal(client.result(told["second"]["job_id"]).x, first.x)

    table = ihvp(service, "rerun", first.job_id)
    assert table.returncode == 0
    assert "bit for bit" in table.stdout
    assert table.stdout.count("converged") == 4


def test_cg_agrees_to_its_tolerance_and_a_job_that_is_gone_is_status_3(
    client: Client, oracle: Oracle, service: RunningService
) -> None:
    job = client.submit(model="oracle-mlp", rhs=np.ones(oracle.model.num_params), hessian_perturbation=0.5)
    client.wait(job.id, 30)
    both = client.rerun(job.id)
    assert both.agrees(1e-4)
    client.delete(job.id)
    with pytest.raises(JobNotFound):
        client.rerun(job.id)
    gone = ihvp(service, "rerun", job.id)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "job_not_found" in gone.stderr
