"""``ihvp prepare``: secrets that are missing, made once and for good."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.starting.started import Host


def test_a_password_is_made_once_and_is_for_the_group_to_read(host: Host) -> None:
    host.secret.unlink()
    assert host.run("prepare").returncode == 0
    made = host.secret.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", made)
    assert stat.S_IMODE(host.secret.stat().st_mode) == 0o440
    done = host.run("prepare")
    assert done.returncode == 0
    assert host.secret.read_text() == made
    assert made.strip() not in done.stdout + done.stderr
    assert [file.name for file in host.secret.parent.iterdir()] == [host.secret.name]


def test_of_many_at_once_one_makes_it(host: Host) -> None:
    host.secret.unlink()
    with ThreadPoolExecutor(4) as pool:
        ended = [done.returncode for done in pool.map(lambda _: host.run("prepare"), range(4))]
    assert ended == [0] * 4
    assert len(host.secret.read_text()) == 65
    assert [file.name for file in host.secret.parent.iterdir()] == [host.secret.name]


def test_a_password_that_was_given_is_written_for_the_store(host: Host) -> None:
    host.secret.unlink()
    assert host.run("prepare", store_password="given").returncode == 0
    assert host.secret.read_text() == "given\n"


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_takes_no_file(host: Host, there: bool) -> None:
    host.secret.unlink()
    folder = "/proc" if there else "/proc/secrets"
    line = host.refused("prepare", secrets_dir=folder)
    assert "ihvp_store_password is missing and cannot be made" in line
    assert "openssl rand -hex 32" in line
    assert folder in line


def test_data_that_cannot_be_written_is_said(host: Host) -> None:
    host.data.rmdir()
    done = host.run("prepare")
    assert done.returncode == 2
    assert "The data directory is not there" in done.stderr
