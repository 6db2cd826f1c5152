"""The disk is full, for results and for the store's own log: what was accepted stays, and space mends all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from ihvp import Client
from ihvp.errors import OutOfSpace
from ihvp.jobs.states import JobState
from ihvp.settings import child_environment
from ihvp.up.child import start_child, stop_group
from tests.chaos.cluster import ROOT, Cluster
from tests.chaos.full_disk import MIB, SmallDisk, why_not
from tests.chaos.problem import Problem
from tests.waiting import eventually

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.service,
    pytest.mark.skipif(why_not() is not None, reason=f"no disk of its own to fill: {why_not()}"),
]


def test_results_that_find_no_room_fail_by_name_and_later_ones_are_kept(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 8 * MIB) as disk:
        # The blobs alone are on the small disk; the store, which is outside of it, has room.
        (disk.seen / "data").mkdir()
        cluster = Cluster(tmp_path / "chaos", disk.enter, data_dir=tmp_path / "disk" / "data")
        try:
            cluster.api()
            cluster.reconciler()
            cluster.worker()
            before = cluster.submit()
            assert cluster.ended(before).state is JobState.Succeeded
            waiting = cluster.problem.submission(1)
            waiting["rhs"] = cluster.client.put_tensor(waiting["rhs"])
            disk.fill()
            failed = cluster.ended(cluster.submit(**waiting))
            assert failed.state is JobState.Failed
            assert failed.error is not None
            assert failed.error.code == "out_of_space"
            with pytest.raises(OutOfSpace):
                cluster.submit(rhs=cluster.problem.b("chaos-mlp", 2, 40))  # too long to be sent inline
            disk.free()
            assert cluster.ended(cluster.submit()).state is JobState.Succeeded
            # From outside, the blobs are where the namespace shows them.
            cluster.settings = cluster.settings.model_copy(update={"data_dir": disk.seen / "data"})
            report = cluster.check()
            print(f"\n{report}")
            assert report.complaints == []
        finally:
            cluster.close()


def test_a_store_whose_log_finds_no_room_refuses_and_comes_back_with_every_job(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 24 * MIB) as disk:
        log = tmp_path / "up.log"
        with log.open("ab") as output:
            up = start_child(
                [
                    *disk.enter,
                    sys.executable,
                    "-m",
                    "ihvp.cli",
                    "up",
                    "--port",
                    "0",
                    "--data-dir",
                    str(tmp_path / "disk"),
                ],
                environment=child_environment(keep_free_bytes="0"),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            ready = eventually(lambda: [line for line in log.read_text().splitlines() if line.startswith("ready ")])
            url = ready[0].split()[1]
            problem = Problem()
            with Client(url) as client:
                problem.register(client)
                accepted = [client.submit(**problem.submission(number)).id for number in range(3)]
                for job_id in accepted:
                    assert client.wait(job_id, timeout=40).state is JobState.Succeeded
                there = client.put_tensor(problem.b("chaos-mlp", 9))
            body = {"model": "chaos-mlp", "rhs": {"blob": there}, "hessian_perturbation": 0.5}
            disk.fill()
            # The last page of the log has room for a few more.
            for _ in range(100):
                answer = httpx.post(f"{url}/v1/jobs", json=body, timeout=5.0)
                if answer.status_code != httpx.codes.ACCEPTED:
                    break
                accepted.append(answer.json()["id"])
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert "retry-after" in answer.headers
            # Nor is there room for a blob, and both are said, whichever the service meets first.
            inline = {**body, "rhs": {"inline": [1.0] * problem.p("chaos-mlp")}}
            answer = httpx.post(f"{url}/v1/jobs", json=inline, timeout=5.0)
            assert (answer.status_code, answer.json()["code"]) in {(507, "out_of_space"), (503, "store_unavailable")}
            freed = time.monotonic()
            disk.free()
            eventually(lambda: httpx.get(f"{url}/readyz", timeout=5.0).status_code == 200, 30, "coming back")
            print(f"\nready {time.monotonic() - freed:.1f} s after there was room")
            with Client(url) as client:
                listed = [job.id for job in client.jobs()]
                assert set(accepted) <= set(listed), "every job that was accepted"
                again = client.submit(**problem.submission(3))
                assert client.wait(again.id, timeout=40).state is JobState.Succeeded
                for job_id in accepted:
                    job = client.wait(job_id, timeout=40)
                    if job.state is JobState.Failed:  # its worker met the full disk first
                        assert job.error is not None
                        assert job.error.code == "out_of_space"
                    else:
                        assert client.result(job_id).converged
        finally:
            stop_group(up, 10.0)
