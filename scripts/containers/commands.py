"""Commands of other programs: what they say goes into a log, what goes wrong becomes one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["FAILED", "SKIPPED", "CommandFailed", "Skipped", "answer", "ended", "run", "say"]

FAILED: Final = 1
SKIPPED: Final = 77  # what test harnesses take for "skipped" since automake
_SHOWN: Final = 15


class Skipped(Exception):
    """The platform cannot do it; the text is the reason."""


class CommandFailed(Exception):
    """A command ended with another status than 0; the text names it and shows what it said last."""


def say(line: str) -> None:
    """One line for whoever looks on."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def run(command: Sequence[str | Path], environment: Mapping[str, str], log: Path, timeout_s: float = 1800) -> None:
    """Runs a command to its end; all that it says is appended to the log.

    Raises:
        CommandFailed: It ended with another status than 0, or not in time.
    """
    words = [str(word) for word in command]
    with log.open("ab") as file:
        file.write(f"$ {' '.join(words)}\n".encode())
        file.flush()
        start = file.tell()
        try:
            status = subprocess.run(
                words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{words[0]} has not ended in {timeout_s:.0f} s; see {log}") from None
    if status:
        said = log.read_bytes()[start:].decode(errors="replace").splitlines()
        raise CommandFailed(
            "\n".join([f"{' '.join(words[:3])} … ended with status {status}; see {log}", *said[-_SHOWN:]])
        )


def answer(command: Sequence[str | Path], environment: Mapping[str, str], timeout_s: float = 120) -> str:
    """What a command writes to its standard output.

    Raises:
        CommandFailed: It ended with another status than 0, or not in time.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{' '.join(words[:3])} … has not ended in {timeout_s:.0f} s") from None
    if done.returncode:
        raise CommandFailed(
            f"{' '.join(words[:3])} … ended with status {done.returncode}: {done.stderr.strip()[-800:]}"
        )
    return done.stdout


def ended(step: Callable[[], None]) -> int:
    """Exit status of a step of ``make containers``: 0, 1 where something failed, 77 where it cannot be done here."""
    try:
        step()
    except Skipped as skipped:
        say(f"skipped: {skipped}")
        return SKIPPED
    except CommandFailed as failed:
        say(f"containers: {failed}")
        return FAILED
    return 0
