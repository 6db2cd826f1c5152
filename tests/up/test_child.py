"""A child never outlives its parent, and its log never outgrows its bound."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ihvp.settings import child_environment
from ihvp.up.child import BoundedLog, start_child, stop_group

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PDEATHSIG is Linux's")

PARENT = """
import subprocess, sys, time
from ihvp.settings import child_environment
from ihvp.up.child import start_child
child = start_child([sys.executable, "-c", "import time; time.sleep(60)"], environment=child_environment())
print(child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up', flush=True); time.sleep(60)"
)


def gone(pid: int, within_s: float = 5.0) -> bool:
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_killed_parent_takes_its_child_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.wait()
    assert gone(child)


def test_stopping_kills_a_stubborn_child_and_what_it_started() -> None:
    child = start_child([sys.executable, "-c", STUBBORN], environment=child_environment(), stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (grandchild,) = psutil.Process(child.pid).children()
    began = time.monotonic()
    stop_group(child, grace_s=0.3)
    assert 0.3 <= time.monotonic() - began < 3.0
    assert child.returncode == -signal.SIGKILL
    assert gone(grandchild.pid)
    child.stdout.close()


def test_ctrl_c_at_the_terminal_does_not_reach_a_child() -> None:
    child = start_child([sys.executable, "-c", "import time; time.sleep(60)"], environment=child_environment())
    try:
        assert psutil.Process(child.pid).pid == child.pid
        import os

        assert os.getpgid(child.pid) == child.pid != os.getpgrp()
    finally:
        stop_group(child, 1.0)


def test_a_full_log_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "logs" / "part.log", limit=1000)
    with log.open("starting part") as file:
        file.write(b"old line\n" * 200)
        file.flush()
        log.trim()
        file.write(b"new line\n")
        file.flush()
    assert log.path.read_bytes() == b"new line\n"
    aside = log.path.with_name("part.log.1").read_text()
    assert aside.startswith("--- ")
    assert aside.count("old line") == 200
    assert log.last_line() == f"new line ({log.path})"


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "part.log")
    log.open("starting part").close()
    log.trim()
    assert [path.name for path in tmp_path.iterdir()] == ["part.log"]
