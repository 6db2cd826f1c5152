"""docs/deploy.md cannot rot: its blocks marked for containers are run from top to bottom, as a reader would."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.containers.engine import Engine
from tests.deployment.deployment import Deployment
from tests.deployment.report import Report

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BLOCK = re.compile(r"<!-- containers -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("images")
def test_the_commands_of_the_document(
    engine: Engine, docker: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory, report: Report
) -> None:
    blocks = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    deployment = Deployment(engine, docker, tmp_path_factory.mktemp("ihvp-document"))
    if shutil.which("docker") is None:
        # The plugin takes the same words by itself, and nothing else of docker is named in these blocks.
        blocks.insert(0, f'docker() {{ shift; {shlex.join(engine.compose_command)} "$@"; }}')
    script = "\n".join(blocks).replace("127.0.0.1:8000", f"127.0.0.1:{deployment.port}")
    try:
        with deployment.timers():
            done = subprocess.run(
                ["bash", "-exuo", "pipefail", "-c", script],
                cwd=deployment.folder,
                env={**docker, "COMPOSE_PROJECT_NAME": deployment.project},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=800,
            )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}\n{deployment.logs()[-6000:]}"
    finally:
        deployment.down("--volumes")
    report.add("commands of docs/deploy.md run from top to bottom", str(len(blocks)) + " blocks")
