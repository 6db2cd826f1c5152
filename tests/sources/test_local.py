"""Local files: those under the operator's folders, whatever links and names say, and only as they were pinned."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ihvp.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotAllowed,
    SourceNotFound,
    SourceTooLarge,
)
from ihvp.settings import Settings
from ihvp.sources.sources import Sources


def test_a_file_is_pinned_and_read(root: Path, settings: Settings) -> None:
    (root / "a b.npy").write_bytes(b"0123456789")
    sources, uri = Sources.to_look(settings), f"file://{root}/a%20b.npy"
    pin = sources.pin(uri)
    assert pin.size == 10
    with sources.open(uri, pin) as file:
        file.seek(4)
        assert file.read(3) == b"456"


def test_a_folders_files_are_listed_but_not_those_that_lead_out(
    root: Path, settings: Settings, tmp_path: Path
) -> None:
    (root / "model" / "below").mkdir(parents=True)
    (root / "model" / "config.json").write_bytes(b"{}")
    (root / "model" / "below" / "w.safetensors").write_bytes(b"")
    (tmp_path / "secret.json").write_bytes(b"{}")
    (root / "model" / "secret.json").symlink_to(tmp_path / "secret.json")
    sources, uri = Sources.to_look(settings), f"file://{root}/model"
    assert sources.is_folder(uri)
    assert sources.files(uri) == ["below/w.safetensors", "config.json"]


def test_nothing_is_open_by_default(root: Path) -> None:
    (root / "x.npy").write_bytes(b"")
    with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_ROOTS"):
        Sources.to_look(Settings()).pin(f"file://{root}/x.npy")


def test_what_is_outside_is_refused_whether_it_is_there_or_not(root: Path, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there.npy").write_bytes(b"")
    (tmp_path / "open-too").mkdir()
    for name in ("there.npy", "missing.npy", "open-too/x.npy"):
        with pytest.raises(SourceNotAllowed, match="IHVP_SOURCE_ROOTS"):
            Sources.to_look(settings).pin(f"file://{tmp_path}/{name}")


def test_a_link_out_is_refused_and_one_within_is_followed(root: Path, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.npy").write_bytes(b"secret")
    (root / "x.npy").symlink_to(tmp_path / "secret" / "x.npy")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "real.npy").write_bytes(b"real")
    (root / "latest.npy").symlink_to("real.npy")
    sources = Sources.to_look(settings)
    for name in ("x.npy", "folder/x.npy"):
        with pytest.raises(SourceNotAllowed):
            sources.pin(f"file://{root}/{name}")
    assert sources.pin(f"file://{root}/latest.npy").size == 4


def test_what_is_no_regular_file_is_refused_and_holds_nobody_up(
    root: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)  # the name of a socket must be short
        listener.bind("socket")
        for name in ("pipe", "folder", "socket"):
            with pytest.raises(SourceError) as caught:
                Sources.to_look(settings).pin(f"file://{root}/{name}")
            assert caught.value.code == "source_unusable"


def test_devices_are_refused_also_where_their_folder_is_open(settings: Settings) -> None:
    opened = settings.model_copy(update={"source_roots": (Path("/dev"),)})
    with pytest.raises(SourceError, match="no regular file"):
        Sources.to_look(opened).pin("file:///dev/zero")


def test_a_file_that_is_not_there(root: Path, settings: Settings) -> None:
    with pytest.raises(SourceNotFound, match="same path"):
        Sources.to_look(settings).pin(f"file://{root}/missing.npy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(root: Path, settings: Settings) -> None:
    (root / "x.npy").write_bytes(b"")
    (root / "x.npy").chmod(0)
    with pytest.raises(SourceForbidden):
        Sources.to_look(settings).pin(f"file://{root}/x.npy")


def test_a_file_that_has_changed(root: Path, settings: Settings) -> None:
    (root / "x.npy").write_bytes(b"old")
    sources, uri = Sources.to_look(settings), f"file://{root}/x.npy"
    pin = sources.pin(uri)
    (root / "new.npy").write_bytes(b"new")
    (root / "new.npy").rename(root / "x.npy")
    with pytest.raises(SourceChanged, match="Submit the job again"):
        sources.open(uri, pin)


def test_a_file_that_is_too_large(root: Path, settings: Settings) -> None:
    with (root / "x.npy").open("wb") as file:
        file.truncate(settings.max_source_bytes + 1)
    with pytest.raises(SourceTooLarge, match="IHVP_MAX_SOURCE_BYTES"):
        Sources.to_look(settings).pin(f"file://{root}/x.npy")
