"""An example as a command: where it writes, how it ends, and what it says of errors."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from examples.running_service import ServiceDidNotStart
from ihvp.errors import IhvpError

__all__ = ["console", "exit_status", "run_example"]

console: Final = Console(highlight=False)


def run_example(name: str, about: str | None, body: Callable[[Path], bool], arguments: Sequence[str] | None) -> int:
    """Runs an example; returns the exit status.

    Args:
        name: Of its module.
        about: Its description.
        body: Does it, given the folder for all that is written; says whether every certificate is good.
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    parser.add_argument("--out", type=Path, default=Path("demo") / name, help="folder of all that is written")
    out: Path = parser.parse_args(arguments).out

    def run() -> int:
        began = time.monotonic()
        good = body(out)
        if not good:
            console.print("Not every certificate says converged: see the table above.", style="red")
        console.print(f"Done in {time.monotonic() - began:.1f} s.")
        return 0 if good else 1

    return exit_status(run, out)


def exit_status(run: Callable[[], int], out: Path) -> int:
    """What a program ends with; says in a line what went wrong, if something did.

    Args:
        run: Does it.
        out: The folder for all that is written, made before.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return run()
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except ServiceDidNotStart as error:
        console.print(f"The service did not start: {error}.")
        return 2
    except IhvpError as error:
        console.print(f"error: {error}", markup=False)
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
