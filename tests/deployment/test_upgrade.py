"""From one version of the images to the next: the volumes are kept, and with them jobs, results, models, keys."""

from __future__ import annotations

import numpy as np
import pytest

from ihvp import Client
from scripts.containers.engine import Engine
from tests.chaos.problem import Problem
from tests.deployment.deployment import Deployment
from tests.deployment.report import Report

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

NEXT = "0.1.1-next"


def test_the_next_version_finds_everything(deployment: Deployment, engine: Engine, report: Report) -> None:
    with Client(deployment.url) as client:
        problem = Problem()
        problem.register(client)
        done = client.wait(client.submit(**problem.submission(1)).id, timeout=60)
        x, version = client.result(done.id), client.job(done.id).model.reference
    for name, tail in (("ihvp-api", ""), ("ihvp-worker", "-cpu")):
        known = [f"{place}{name}:0.1.0{tail}" for place in ("", "localhost/", "docker.io/library/")]
        found = next(each for each in known if engine.has_image(each))
        engine.run("podman", "tag", found, found.replace("0.1.0", NEXT))
    # Jobs go on coming in between: a worker of the old version may still be at one when the new API is up.
    with Client(deployment.url) as client:
        long = client.submit(**problem.slow(terms=40_000))
    deployment.set(IHVP_VERSION=NEXT)
    seconds = deployment.up()
    images = {name: state["ImageName"] for name, state in deployment.states().items()}
    assert all(NEXT in images[name] for name in ("api", "worker", "reconciler", "webhooks"))
    with Client(deployment.url) as client:
        assert client.result(done.id).digest == x.digest
        assert np.array_equal(client.result(done.id).x, x.x)
        assert client.job(done.id).model.reference == version
        assert client.wait(long.id, timeout=200).state == "succeeded"
    report.add("to the next version's images, until all is healthy", f"{seconds:.1f} s; volumes and jobs are kept")
