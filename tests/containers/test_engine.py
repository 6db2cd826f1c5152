"""What `make containers` stands on, as far as it can be seen without building anything."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from ihvp.settings import child_environment
from scripts.containers import build, engine
from scripts.containers.build import IMAGES, Image
from scripts.containers.commands import FAILED, SKIPPED, CommandFailed, Skipped, ended, run
from scripts.containers.registry import pip_mounts
from tests.containers.dockerfile import ROOT, Dockerfile


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ((os, "geteuid"), lambda: 1000, "buildah and podman are run as root here, and this is not root"),
        ((platform, "system"), lambda: "Darwin", "containers are built on Linux, this is Darwin"),
    ],
)
def test_a_platform_that_cannot_is_one_line_and_a_status_of_its_own(
    what: tuple[object, str], value: object, reason: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(*what, value)

    def step() -> None:
        engine.prepared(tmp_path)

    assert ended(step) == SKIPPED
    assert capsys.readouterr().err == f"skipped: {reason}\n"
    assert list(tmp_path.iterdir()) == []


def test_without_apt_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scripts.containers.apt.PROGRAMS", {"no-such-engine": "/nowhere"})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="no-such-engine missing, and there is no apt"):
        engine.prepared(tmp_path)


@pytest.mark.parametrize("name", ["a clone", "a,b", "a:b"])
def test_a_path_that_the_tools_cannot_take_is_left_for_a_folder_of_ones_own(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine, "_ELSEWHERE", tmp_path)
    folder = engine._folder(tmp_path / name)
    assert folder.parent == tmp_path
    assert not set(folder.name) & set(" ,:")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert engine._folder(tmp_path / name) == folder, "the next run finds what is cached"
    assert (tmp_path / name / ".bench/containers").resolve() == folder, "make clean finds it"
    assert engine._folder(tmp_path / "plain") == tmp_path / "plain/.bench/containers"


def test_a_folder_that_others_may_write_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "_ELSEWHERE", tmp_path)
    engine._folder(tmp_path / "a clone").chmod(0o777)
    with pytest.raises(Skipped, match="not this user's own folder"):
        engine._folder(tmp_path / "a clone")


def test_a_command_that_fails_shows_what_it_said_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"

    def step() -> None:
        run(["sh", "-c", "echo one; echo two >&2; exit 3"], child_environment(), log)

    assert ended(step) == FAILED
    said = capsys.readouterr().err
    assert "ended with status 3" in said
    assert "two" in said
    assert str(log) in said
    with pytest.raises(CommandFailed, match=r"has not ended in 0 s"):
        run(["sleep", "5"], child_environment(), log, timeout_s=0.2)


def test_pip_inside_of_a_build_is_told_what_pip_outside_is(tmp_path: Path) -> None:
    wheels, certificate = tmp_path / "wheels", tmp_path / "ca.crt"
    wheels.mkdir()
    certificate.touch()
    settings = tmp_path / "pip.ini"
    settings.write_text(
        f"[global]\nindex-url = https://mirror.example/simple\ncert = {certificate}\nprogress_bar = off\n",
        encoding="utf-8",
    )
    environment = {name: value for name, value in child_environment().items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": str(settings), "PIP_FIND_LINKS": str(wheels), "HOME": str(tmp_path)}
    mounts = pip_mounts(tmp_path, environment)
    written = (tmp_path / "pip.conf").read_text(encoding="utf-8")
    assert "index-url = https://mirror.example/simple\n" in written
    assert f"find-links = {wheels}\n" in written
    assert "progress" not in written
    assert f"{tmp_path}/pip.conf:/etc/pip.conf:ro" in mounts
    assert f"{wheels}:{wheels}:ro" in mounts
    assert f"{certificate}:{certificate}:ro" in mounts


def test_no_token_of_the_remote_gets_into_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_git", lambda *words: "https://me:ghp_secret@git.example/org/ihvp.git")
    monkeypatch.setattr(build, "_torch_index", lambda: "")
    assert build._arguments()["SOURCE"] == "https://git.example/org/ihvp.git"


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_what_is_built_is_in_its_dockerfile(image: Image) -> None:
    dockerfile = Dockerfile(ROOT / image.dockerfile)
    assert image.packages in dockerfile.stages
    assert (image.target or "final") == list(dockerfile.stages)[-1]
