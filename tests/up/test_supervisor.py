"""The supervisor over small real processes: order, restarts, patience, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ihvp.up.supervisor import LONGEST_PAUSE_S, pause_before_restart

# Signals reach the main thread alone, so each supervisor gets a process of its own, as in `ihvp up`.
PRELUDE = """
import sys, time
from pathlib import Path
from ihvp.settings import child_environment
from ihvp.up.child import BoundedLog
from ihvp.up.supervisor import Part, Supervisor

home = Path(sys.argv[1])

def part(name, code, **more):
    code = f"from pathlib import Path; import os, signal, sys, time; home = Path({str(home)!r}); name = {name!r}\\n" \\
        "(home / 'starts').open('a').write(f'{name} {os.getpid()}\\\\n')\\n" + code
    return Part(name=name, command=lambda: [sys.executable, "-c", code], environment=child_environment(), cwd=home,
                log=BoundedLog(home / f"{name}.log"), **more)

def say(line):
    print("say", line, flush=True)

STAY = "time.sleep(60)"
POLITE = '''
def end(*_):
    (home / 'ends').open('a').write(f'{name}\\\\n')
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(home / f'{name} is polite').touch()
time.sleep(60)
'''
"""


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path, program: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program), str(home)], stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def starts(self) -> list[tuple[str, int]]:
        path = self.home / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(name, int(pid)) for name, pid in (line.split() for line in lines)]

    def wait_for_starts(self, count: int, within_s: float = 10.0) -> list[tuple[str, int]]:
        give_up = time.monotonic() + within_s
        while len(self.starts()) < count:
            assert time.monotonic() < give_up, self.starts()
            time.sleep(0.02)
        return self.starts()

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(within_s)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[type[Supervised]]:
    running: list[Supervised] = []

    class Tracked(Supervised):
        def __init__(self, program: str) -> None:  # type: ignore[override]
            super().__init__(tmp_path, program)
            running.append(self)

    yield Tracked  # type: ignore[misc]
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()
        assert not [pid for _, pid in each.starts() if alive(pid)]


def alive(pid: int) -> bool:
    give_up = time.monotonic() + 2.0
    while time.monotonic() < give_up:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.02)
    return True


def test_later_parts_start_once_earlier_ones_serve_and_stop_before_them(supervised: type[Supervised]) -> None:
    run = supervised(
        """
        Supervisor([
            part("store", "time.sleep(0.5); (home / 'served').touch()\\n" + POLITE, stage=0,
                 is_up=lambda: (home / "served").exists()),
            part("api", "assert (home / 'served').exists()\\n" + POLITE, stage=1),
            part("worker", "assert (home / 'served').exists()\\n" + POLITE, stage=2),
        ], say).run(lambda: len(list(home.glob("* is polite"))) == 3, lambda: print("ready", flush=True))
        """
    )
    assert run.line() == "ready"
    assert len(run.starts()) == 3
    assert run.stop() == 0
    assert (run.home / "ends").read_text().split() == ["worker", "api", "store"]


def test_a_killed_part_is_back_at_once_and_the_others_are_left_alone(supervised: type[Supervised]) -> None:
    run = supervised(
        """
        Supervisor([part("a", STAY), part("b", STAY)], say).run(lambda: True, lambda: print("ready", flush=True))
        """
    )
    assert run.line() == "ready"
    (_, a), (_, _) = sorted(run.wait_for_starts(2))
    began = time.monotonic()
    os.kill(a, signal.SIGKILL)
    assert "a ended (SIGKILL), restarting now" in run.line()
    assert [name for name, _ in run.wait_for_starts(3)].count("b") == 1
    assert time.monotonic() - began < 2.0
    assert run.stop() == 0


def test_a_part_that_cannot_start_is_tried_again_and_again_and_its_last_words_are_told(
    supervised: type[Supervised],
) -> None:
    run = supervised(
        """
        Supervisor([part("broken", "sys.exit('no module named x')"), part("good", STAY)], say).run(
            lambda: True, lambda: None)
        """
    )
    assert "broken ended (exit status 1), restarting now. It said: no module named x" in run.line()
    names = [name for name, _ in run.wait_for_starts(5)]
    assert names.count("good") == 1
    assert run.stop() == 0


def test_pauses_grow_but_a_dead_part_is_never_left_for_five_seconds() -> None:
    pauses = [pause_before_restart(failures) for failures in range(1, 50)]
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S < 5.0


def test_a_part_that_does_not_want_to_stop_is_killed_after_its_grace(supervised: type[Supervised]) -> None:
    run = supervised(
        """
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (home / 'deaf').touch(); time.sleep(60)"
        Supervisor([part("deaf", deaf, grace_s=0.5)], say).run(
            lambda: (home / "deaf").exists(), lambda: print("ready", flush=True))
        """
    )
    assert run.line() == "ready"
    began = time.monotonic()
    assert run.stop() == 0
    assert 0.5 <= time.monotonic() - began < 3.0


def test_asking_twice_does_not_wait(supervised: type[Supervised]) -> None:
    run = supervised(
        """
        deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (home / name).touch(); time.sleep(60)"
        names = ["one", "two", "three"]
        Supervisor([part(n, deaf, grace_s=2.0, stage=i) for i, n in enumerate(names)], say).run(
            lambda: all((home / n).exists() for n in names), lambda: print("ready", flush=True))
        """
    )
    assert run.line() == "ready"
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert run.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 4.0


def test_a_killed_supervisor_leaves_nothing_behind(supervised: type[Supervised]) -> None:
    run = supervised("Supervisor([part('a', STAY), part('b', STAY)], say).run(lambda: True, lambda: None)")
    pids = [pid for _, pid in run.wait_for_starts(2)]
    run.process.kill()
    run.process.wait()
    assert not [pid for pid in pids if alive(pid)]
