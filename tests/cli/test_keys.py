"""``ihvp keys`` and the refusal of ``ihvp up`` to be open to other machines, as a person and as a script run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ihvp.keys.key import Secret
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from ihvp.up.exclusive import locked_data_dir


def ihvp(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = {name: value for name, value in os.environ.items() if not name.startswith("IHVP_")}
    given = {"IHVP_DATA_DIR": str(data_dir), "COLUMNS": "200", "NO_COLOR": "1", **environment}
    command = [sys.executable, "-m", "ihvp.cli", *arguments]
    return subprocess.run(command, env={**here, **given}, capture_output=True, text=True, timeout=60, check=False)


def listed(data_dir: Path, **environment: str) -> list[dict[str, str]]:
    done = ihvp(data_dir, "keys", "list", "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["keys"]
    return found


def test_a_key_is_made_shown_once_listed_and_revoked_before_the_service_ever_ran(tmp_path: Path) -> None:
    made = ihvp(tmp_path, "keys", "create", "a dashboard", "--scope", "read", "--tenant", "acme", "--days", "2")
    assert made.returncode == 0, made.stderr
    secret = Secret.parse(made.stdout.strip())
    assert secret is not None
    [key] = listed(tmp_path)
    assert (key["name"], key["tenant"], key["scope"], key["state"]) == ("a dashboard", "acme", "read", "active")
    assert key["expires_at"] > key["created_at"]
    table = ihvp(tmp_path, "keys", "list").stdout
    assert secret.id in table
    assert secret.secret not in table + json.dumps(key)
    revoked = ihvp(tmp_path, "keys", "revoke", str(secret))
    assert "revoked" in revoked.stdout
    assert listed(tmp_path)[0]["state"] == "revoked"
    assert ihvp(tmp_path, "keys", "revoke", "0" * 12).returncode == 3


def test_it_goes_to_the_store_that_ihvp_up_runs_on_the_data_directory(tmp_path: Path) -> None:
    with locked_data_dir(tmp_path):
        store = EmbeddedStore(tmp_path)
        store.start()
        try:
            made = json.loads(ihvp(tmp_path, "keys", "create", "x", "--json").stdout)
            assert made["key"].startswith(f"ihvp_{made['id']}_")
            assert "sha256" not in made
            assert [key["id"] for key in listed(tmp_path)] == [made["id"]]
        finally:
            store.stop()


def test_it_goes_to_the_store_that_the_settings_name(tmp_path: Path, valkey: Settings) -> None:
    there = {"IHVP_REDIS_URL": valkey.redis_url, "IHVP_NAMESPACE": valkey.namespace}
    made = json.loads(ihvp(tmp_path, "keys", "create", "x", "--json", **there).stdout)
    assert [key["id"] for key in listed(tmp_path, **there)] == [made["id"]]
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--scope", "root"], "read, submit, admin"),
        (["x", "--tenant", "Not Allowed"], "small letters"),
        (["x", "--days", "0"], "more than 0"),
        ([""], "1 to 100 characters"),
    ],
)
def test_what_makes_no_key_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = ihvp(tmp_path, "keys", "create", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert listed(tmp_path) == []


def test_up_is_not_open_to_other_machines_without_a_key(tmp_path: Path) -> None:
    done = ihvp(tmp_path, "up", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    command = re.search(r"ihvp keys create NAME --scope admin --data-dir (\S+)", done.stderr)
    assert command, done.stderr
    assert Path(command[1]) == tmp_path
    assert done.stdout == ""
