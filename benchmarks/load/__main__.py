"""``python -m benchmarks.load``: measures the service and writes ``load.md``, ``load.json`` and ``load.png``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.load.fill import fill
from benchmarks.load.measure import at_size, held_streams, overhead, process_figures, rates
from benchmarks.load.report import bars, write_load_report
from benchmarks.load.service import LoadedService
from benchmarks.load.wrk import find_wrk
from benchmarks.machine import describe_machine

FOLDER: Final = Path(__file__).parent
NO_WRK: Final = "make load needs wrk, which is not installed here: apt-get install wrk"


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        seconds: Of each run of wrk.
        repeats: Of the rates.
        samples: Jobs of the overhead, and lists of a kind.
        streams: Event streams to hold, step by step.
        kept: Finished jobs in the store, step by step.
        same_store: Whether they are put beside the jobs of the rates.
    """

    seconds: float
    repeats: int
    samples: int
    streams: tuple[int, ...]
    kept: tuple[int, ...]
    same_store: bool = False


FULL: Final = Extent(5.0, 3, 400, (100, 500, 1000, 2000, 4000, 8000), (100, 1_000, 10_000))
QUICK: Final = Extent(1.0, 1, 15, (20,), (50, 200), same_store=True)


def measure(extent: Extent, folder: Path) -> dict[str, Any]:
    """All of it, on services whose data are in a folder."""
    found: dict[str, Any] = {"machine": describe_machine(), "sizes": []}
    began = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {what}", flush=True)

    data_dir = folder / "data"
    with LoadedService(data_dir) as service:
        tell("rates beside the floor")
        found["rates"] = rates(service, extent.seconds, extent.repeats)
        tell("from submit to visible result")
        found["overhead"] = overhead(service, extent.samples)
        # Before the streams: an interpreter hands little of what thousands of them took back to the machine.
        tell("the API process")
        found["api"] = process_figures(service, extent.repeats)
        tell("event streams")
        found["streams"] = held_streams(service, extent.streams, 5 * extent.seconds)
    # A store of its own, so that only the jobs that are put there are kept in it.
    if not extent.same_store:
        data_dir = folder / "kept"
        with LoadedService(data_dir):
            tell("a store to fill")
    there = 0
    for kept in extent.kept:
        tell(f"filling to {kept:,} finished jobs")
        fill(data_dir, kept - there)
        with LoadedService(data_dir) as service:
            tell(f"with {kept:,} finished jobs kept")
            found["sizes"].append(at_size(service, kept, extent.seconds, max(5, extent.samples // 20)))
        there = kept
    return found


def main() -> int:
    """Runs what is asked for.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--kept", type=int, nargs="+", help="finished jobs to keep, step by step")
    asked = parser.parse_args()
    if find_wrk() is None:
        print(NO_WRK, file=sys.stderr)
        return 2
    extent = QUICK if asked.quick else FULL
    if asked.kept:
        extent = replace(extent, kept=tuple(asked.kept))
    # A quick run tells nothing of the service: it must not replace one that does.
    out = asked.out or (Path(".bench/load") if asked.quick else FOLDER)
    with tempfile.TemporaryDirectory(prefix="ihvp-load-", dir=_disk()) as folder:
        found = {"quick": asked.quick, **measure(extent, Path(folder))}
    write_load_report(found, out)
    for what, measured, bar, reached in bars(found):
        print(f"{what:45} {measured:>10}   {bar:>8} {'' if reached else '  missed'}")
    print(f"{out}/load.md, load.json, load.png")
    return 0


def _disk() -> Path:
    """A folder on the disk that the checkout is on: /tmp may be memory, which syncs for nothing."""
    folder = Path(".bench")
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
