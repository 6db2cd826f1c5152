"""Two real workers of one machine on files of the web: what both need is fetched once."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import running_service
from tests.app.driver import tensors
from tests.sources.problem import DAMPING, Regression, spec
from tests.sources.web_server import running_web_server
from tests.workers.running import RunningWorker
from tests.workers.running import Service as Jobs

pytestmark = pytest.mark.service

FETCH_S = 2.0


def test_two_workers_that_need_the_same_file_at_once_fetch_it_once(
    valkey_server: EmbeddedStore, tmp_path: Path
) -> None:
    hosts = ("127.0.0.1",)
    settings = Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path / "data",
        log_level="error",
        source_private_hosts=hosts,
    )
    regression = Regression.make()
    with running_web_server() as web, running_service(settings) as service, ExitStack() as stack:
        jobs = Jobs(settings)
        workers = []
        for number in range(2):
            log = tmp_path / f"worker-{number}.log"
            workers.append(RunningWorker(jobs, log, source_private_hosts='["127.0.0.1"]', log_level="info"))
            stack.callback(workers[-1].close)
        data = web.put("/data.safetensors", regression.files["data.safetensors"])
        # Two models, so that no worker takes both jobs as one; each has weights of its own, trained to the same.
        optimum = np.linalg.lstsq(regression.inputs, regression.targets, rcond=None)[0].T
        models = [
            spec(web.put(f"/weights-{number}.safetensors", tensors(weight=optimum + number)), data)
            for number in range(2)
        ]
        ids = []
        for model in models:
            submission = {"model": model, "rhs": {"inline": regression.b.tolist()}, "hessian_perturbation": DAMPING}
            answer = service.http.post("/v1/jobs", json=submission)
            assert answer.status_code == 202, answer.text
            ids.append(answer.json()["id"])
        web.requests.clear()
        web.slow["/data.safetensors"] = FETCH_S
        for job_id in ids:
            jobs.wake(job_id)
        for job_id in ids:
            job = jobs.finished(job_id)
            assert job.error is None
            assert job.result is not None
            with safe_open(jobs.blobs.local_path(job.result.digest), framework="numpy") as file:
                np.testing.assert_allclose(file.get_tensor("x"), regression.x, rtol=1e-7)
        assert web.fetched("/data.safetensors") == 1
        assert [web.fetched(f"/weights-{number}.safetensors") for number in range(2)] == [1, 1]
        logs = [worker.log.read_text() for worker in workers]
        assert all("job_done" in log for log in logs), "one worker did both, one after the other"
        assert sum(log.count("source_fetched") for log in logs) == 3
