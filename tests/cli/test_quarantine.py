"""``ihvp quarantine`` on the store of a service that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from tests.store.samples import job_request, new_id


def ihvp(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    here = {name: value for name, value in os.environ.items() if not name.startswith("IHVP_")}
    given = {"IHVP_REDIS_URL": settings.redis_url, "IHVP_NAMESPACE": settings.namespace, "COLUMNS": "200"}
    command = [sys.executable, "-m", "ihvp.cli", "quarantine", *arguments]
    return subprocess.run(command, env={**here, **given}, capture_output=True, text=True, timeout=60, check=False)


def listed(settings: Settings, *arguments: str) -> list[dict[str, Any]]:
    done = ihvp(settings, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["quarantine"]
    return found


def test_what_is_in_quarantine_is_listed_and_let_out(valkey: Settings) -> None:
    assert listed(valkey, "list") == []
    store = RedisJobStore.from_settings(valkey)
    request = job_request()
    culprit = store.create(new_id(), request)
    for _ in range(3):
        store.claim("w", 60.0)
        store.reclaim_owner("w", 3)
    (found,) = listed(valkey, "list")
    digest = request.model.digest
    assert (found["method"], found["model_digest"], found["job_id"]) == ("cg", digest, culprit.id)
    assert culprit.id in ihvp(valkey, "list").stdout
    assert [each["job_id"] for each in listed(valkey, "lift", digest)] == [culprit.id]
    assert listed(valkey, "list") == []
    after = store.create(new_id(), request)
    claimed = store.claim("w", 60.0)
    assert claimed is not None
    assert claimed.id == after.id


def test_what_is_no_digest_is_told(valkey: Settings) -> None:
    done = ihvp(valkey, "lift", "digits@1")
    assert done.returncode == 2
    assert "sha256: and 64" in done.stderr
