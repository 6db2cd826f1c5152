"""The logs of the whole service, as ``ihvp up`` keeps them: a line is a JSON object, whoever wrote it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from examples.running_service import RunningService
from ihvp import Client
from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def test_one_request_id_finds_all_lines_about_a_job(service: RunningService, client: Client, oracle: Oracle) -> None:
    client.solve(model=oracle.model.reference, rhs=np.eye(len(oracle.hessian))[:1], hessian_perturbation=0.3)
    lines: list[tuple[str, dict[str, object]]] = []
    for part in ("api", "reconciler", "worker-1"):
        text = (service.data_dir / "logs" / f"{part}.log").read_text()
        assert "[queues]" not in text  # Celery's banner
        for line in text.splitlines():
            if line.startswith("{"):
                lines.append((part, json.loads(line)))
            elif part != "worker-1":
                assert line.startswith("--- "), line
    request_id = next(
        line["request_id"] for part, line in reversed(lines) if part == "api" and line["event"] == "job_accepted"
    )
    about = [(part, line["event"]) for part, line in lines if line.get("request_id") == request_id]
    assert about == [
        ("api", "job_accepted"),
        ("api", "request"),
        ("worker-1", "job_claimed"),
        ("worker-1", "job_done"),
    ]
    assert len({line["job_id"] for _, line in lines if line.get("request_id") == request_id}) == 1
