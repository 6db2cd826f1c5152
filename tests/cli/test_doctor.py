"""``ihvp doctor`` as a person and as a script run it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from ihvp.up.embedded_store import free_port

SUBJECTS = ["python", "torch", "device", "store", "port", "access", "disk", "clock"]


def doctor(data_dir: Path, port: int, *args: str) -> subprocess.CompletedProcess[str]:
    here = {name: value for name, value in os.environ.items() if not name.startswith("IHVP_")}
    given = {"IHVP_DATA_DIR": str(data_dir), "IHVP_PORT": str(port), "IHVP_THREADS": "1"}
    command = [sys.executable, "-m", "ihvp.cli", "doctor", *args]
    return subprocess.run(command, env={**here, **given}, capture_output=True, text=True, timeout=120, check=False)


def test_a_machine_that_is_well(tmp_path: Path) -> None:
    done = doctor(tmp_path, free_port())
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    for subject in SUBJECTS:
        assert re.search(rf"^ ?{subject} +(ok|warning) ", done.stdout, re.M), done.stdout


def test_a_script_reads_what_mends_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = doctor(tmp_path, taken.getsockname()[1], "--json")
    assert done.returncode == 2
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert list(findings) == SUBJECTS
    assert findings["port"]["health"] == "fault"
    assert "ihvp up --port 0" in findings["port"]["mend"]
    assert findings["torch"] == {"subject": "torch", "health": "ok", "found": findings["torch"]["found"], "mend": None}


def test_a_thing_takes_one_line_in_a_log_however_long_its_remedy(tmp_path: Path) -> None:
    """docker/up.sh shows the line of what is a fault, and nothing else of it."""
    program = "import sys; sys.prefix = '/opt/ihvp'; from ihvp.cli import main; main()"
    away = {"IHVP_REDIS_URL": "redis://127.0.0.1:1/0", "IHVP_DEVICE": "cuda", "IHVP_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"], env=os.environ | away, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    (store,) = [line for line in done.stdout.splitlines() if " fault " in line and "does not answer" in line]
    assert "docker compose up -d valkey" in store
    assert store.rstrip().endswith("or correct IHVP_REDIS_URL in .env")
