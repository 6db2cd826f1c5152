"""docker/up.sh: where the service does not come up, the engine's words are followed by one line on what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.containers.compose_file import ROOT

UP = ["prepare exited 0 ", "valkey running 0 healthy", "otel-collector running 0 ", "api running 0 healthy"]


def up(folder: Path, said: str, status: int, parts: list[str], logs: str = "") -> subprocess.CompletedProcess[str]:
    """Runs it where `docker` says what an engine has been seen to say."""
    for name, text in {"said": said, "parts": "\n".join(parts) + "\n", "logs": logs}.items():
        (folder / name).write_text(text)
    docker = folder / "docker"
    docker.write_text(f"""#!/bin/sh
echo "$*" >> "{folder}/asked"
case " $* " in
*" up "*) cat "{folder}/said" >&2; exit {status} ;;
*" ps "*) cat "{folder}/parts" ;;
*" logs "*) cat "{folder}/logs" ;;
esac
""")
    docker.chmod(0o755)
    return subprocess.run(
        ["sh", str(ROOT / "docker/up.sh"), "--profile", "gpu"],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_what_comes_up_is_not_commented_on(tmp_path: Path) -> None:
    done = up(tmp_path, "Container ihvp-api-1 Healthy\n", 0, UP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Container ihvp-api-1 Healthy\n", "")
    assert (tmp_path / "asked").read_text() == "compose --profile gpu up -d --wait --wait-timeout 600\n"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            (
                "Error response from daemon: driver failed programming external connectivity on endpoint ihvp-api-1: "
                "Bind for 127.0.0.1:8000 failed: port is already allocated"
            ),
            "Choose a free one in .env, such as IHVP_PUBLISH=127.0.0.1:8001",
        ),
        (
            (
                "Error response from daemon: failed to set up container networking: failed to bind host port for "
                "127.0.0.1:8000: listen tcp4 127.0.0.1:8000: bind: address already in use"
            ),
            "Choose a free one in .env, such as IHVP_PUBLISH=127.0.0.1:8001",
        ),
        (
            'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]',
            "Install the NVIDIA driver and the NVIDIA Container Toolkit",
        ),
        ("Error response from daemon: No such image: ihvp-api:0.1.0", "docker compose build"),
    ],
)
def test_what_the_engine_refuses_is_told_with_its_remedy(said: str, line: str, tmp_path: Path) -> None:
    done = up(tmp_path, f"{said}\n", 1, [*UP[:3], "webhooks running 0 starting", "api created 0 "], logs="{}\n")
    assert (done.returncode, done.stdout) == (1, f"{said}\n")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


def test_a_part_that_refused_to_start_has_the_last_word(tmp_path: Path) -> None:
    refusal = "error: The secret ihvp_store_password is missing and cannot be made: Read-only file system."
    done = up(
        tmp_path,
        'service "prepare" didn\'t complete successfully: exit 2\n',
        1,
        ["prepare exited 2 ", "api created 0 "],
        # As seen: drawn anew, and again with each restart.
        logs=f"\n\033[2K{refusal}\n" * 3,
    )
    assert (done.returncode, done.stderr) == (1, f"up: {refusal}\n")


@pytest.mark.parametrize("state", ["restarting 2 ", "running 0 unhealthy", "exited 137 ", "running 0 starting"])
def test_a_part_that_does_not_get_well_is_asked_for_its_log(state: str, tmp_path: Path) -> None:
    done = up(tmp_path, "timeout waiting\n", 1, [*UP, f"webhooks {state}"], logs="a\nb\nc\nd\n")
    assert done.stderr == "up: b\nup: c\nup: d\n"
    assert "logs --no-log-prefix --no-color webhooks" in (tmp_path / "asked").read_text()


def test_a_part_that_is_still_starting_is_not_blamed_for_one_that_has_ended(tmp_path: Path) -> None:
    parts = [*UP, "doctor-gpu exited 2 ", "worker running 0 starting"]
    done = up(tmp_path, 'service "doctor-gpu" didn\'t complete\n', 1, parts, logs=" device fault no GPU here \n")
    assert done.stderr == "up: device fault no GPU here\n"
    assert (tmp_path / "asked").read_text().count(" logs ") == 1


def test_of_the_doctors_table_the_faults_are_shown(tmp_path: Path) -> None:
    fault = "store fault valkey:6379/0 holds jobs of another version of ihvp install the version"
    row = " store    fault    valkey:6379/0 holds jobs of another version of ihvp   install the version   "
    table = f" python   ok       3.11\n{row}\n disk     ok       /data\n\n"
    done = up(tmp_path, 'service "doctor" didn\'t complete\n', 1, ["doctor exited 2 "], logs=table)
    assert done.stderr == f"up: {fault}\n"
