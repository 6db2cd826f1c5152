"""The Dockerfiles and what a build is sent."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.containers.dockerfile import ROOT, Dockerfile, context

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
NAMES = [file.name for file in FILES]


def test_both_images_are_described() -> None:
    assert NAMES == ["api.Dockerfile", "worker.Dockerfile"]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", *FILES], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_rules_are_ignored_with_a_reason(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if "hadolint ignore" in line:
            assert before.startswith("# "), f"{line}: say why in the line before"


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_what_is_copied_is_sent(file: Path) -> None:
    sent = context()
    for stage in Dockerfile(file).stages.values():
        for copy in stage.copies:
            for source in copy.sources if copy.stage is None else ():
                assert source in sent or any(name.startswith(f"{source.rstrip('/')}/") for name in sent), source


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_what_is_copied_from_a_stage_has_one(file: Path) -> None:
    dockerfile = Dockerfile(file)
    for stage in dockerfile.stages.values():
        for copy in stage.copies:
            assert copy.stage is None or copy.stage in dockerfile.stages


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_argument_has_a_default(file: Path) -> None:
    assert all("=" in argument for argument in Dockerfile(file).arguments)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_versions_are_the_projects(file: Path) -> None:
    from ihvp import __version__

    assert f"VERSION={__version__}" in Dockerfile(file).arguments
    assert f":{__version__}" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "stage"), [("api", "final"), ("worker", "cpu"), ("worker", "cuda")])
def test_an_image_runs_unprivileged_and_forwards_signals(file: str, stage: str) -> None:
    dockerfile = Dockerfile(ROOT / f"docker/{file}.Dockerfile")
    assert dockerfile.last(stage, "USER") == "10001:10001"
    assert dockerfile.last(stage, "STOPSIGNAL") == "SIGTERM"
    assert dockerfile.command(stage)[:3] == ["tini", "--", "ihvp"]
    assert dockerfile.last(stage, "WORKDIR") == "/srv/ihvp"
    assert dockerfile.last(stage, "VOLUME") == '["/data"]'


def test_every_extra_that_a_build_may_be_asked_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {canonicalize_name(Requirement(each).name) for each in wanted} - {"ihvp"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert names <= {canonicalize_name(line.partition("==")[0]) for line in lines}


def test_a_build_is_sent_the_rooms_and_what_installs_them_alone() -> None:
    sent = context()
    assert {name.split("/")[0] for name in sent} == {
        "LICENSE", "README.md", "app", "constraints.txt", "docker", "ihvp", "pyproject.toml", "solvers", "workers",
    }  # fmt: skip
    assert {name for name in sent if name.startswith("docker/")} == {
        "docker/install.sh", "docker/leave_out.py", "docker/tools.txt", "docker/warm_up.py",
    }  # fmt: skip
    rooms = {name for name in sent if name.split("/")[0] in ("app", "ihvp", "solvers", "workers")}
    assert {Path(name).suffix for name in rooms} <= {".py", ".lua", ".typed", ".tmpl"}


def test_no_secret_is_sent_wherever_it_lies(tmp_path: Path) -> None:
    kept = ["app/main.py", "pyproject.toml", "ihvp/jobs/lua/claim.lua"]
    left = [
        ".env", ".env.production", "app/.env", "ihvp/jobs/.env.local", ".git/config", ".venv/pyvenv.cfg", "tests/a.py",
        "ihvp-data/blobs/a", "secrets/ihvp_store_password", "docker/secrets/ihvp_store_password", "docker/up.sh",
        ".bench/containers/docker/config.json", "app/__pycache__/main.cpython-311.pyc", "docker-compose.yml",
    ]  # fmt: skip
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert context(tmp_path) == set(kept)
