"""One service a data directory, one listener a port; the messages say what to try."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ihvp.errors import SetupError
from ihvp.up.exclusive import listening_socket, locked_data_dir

HOLDER = """
import sys, time
from pathlib import Path
from ihvp.up.exclusive import locked_data_dir
with locked_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data dir"
    with locked_data_dir(folder):
        with (
            pytest.raises(SetupError, match="Another 'ihvp up' uses this data directory") as caught,
            locked_data_dir(folder),
        ):
            pass
        assert f"held by process {os.getpid()}" in str(caught.value)
    with locked_data_dir(folder):
        pass  # free again


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SetupError), locked_data_dir(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked_data_dir(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--data-dir") as caught, locked_data_dir(tmp_path / "file" / "data"):
        pass
    assert str(tmp_path / "file" / "data") in str(caught.value)


def test_a_port_in_use_is_answered_with_two_ways_out() -> None:
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            SetupError, match=rf"Port {port} of 127\.0\.0\.1 is in use\. Try --port 0 .* --port {port + 1}"
        ):
            listening_socket("127.0.0.1", port)


def test_a_port_with_closing_connections_can_be_bound_again() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        caller = socket.create_connection(address)
        answered, _ = listener.accept()
        answered.close()  # the server closes first: its side lingers in TIME_WAIT
        caller.close()
    listening_socket("127.0.0.1", address[1]).close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_ours_is_answered_with_one_that_is(host: str) -> None:
    with pytest.raises(SetupError, match="--host 127"):
        listening_socket(host, 0)
