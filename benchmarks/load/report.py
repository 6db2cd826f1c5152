"""The tables and the plot of a load run, with its bars and what missed them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine_line

__all__ = ["write_load_report"]

Found = Mapping[str, Any]

BARS: Final = {"poll": 0.7, "p50_ms": 10.0, "p99_ms": 50.0, "rss_mib": 120.0, "start_s": 1.5}
PLOT: Final = "load.png"


def write_load_report(found: Found, folder: Path) -> None:
    """Writes ``load.json``, ``load.md`` and ``load.png``.

    Args:
        found: What was measured, JSON-ready.
        folder: Where to; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "load.json").write_text(json.dumps(found, indent=1) + "\n")
    parts = [_head(found), _bars(found), _served(found["rates"]), _overhead(found["overhead"])]
    parts += [_streams(found["streams"]), _sizes(found["sizes"]), f"![Load]({PLOT})\n"]
    (folder / "load.md").write_text("\n".join(parts))
    _draw(found, folder / PLOT)


def bars(found: Found) -> list[tuple[str, str, str, bool]]:
    """Each bar: what, what was measured, what it should be, and whether it was reached."""
    served = found["rates"]["served"]
    ratio = served["poll"]["rate"] / served["floor: GET one key"]["rate"]
    rows = [("polls beside the floor", f"{ratio:.2f}", f"≥ {BARS['poll']:g}", ratio >= BARS["poll"])]
    for name, told in found["overhead"]["ways"].items():
        for quantile in ("p50", "p99"):
            value, bar = told["beside_the_solve_ms"][quantile], BARS[f"{quantile}_ms"]
            rows.append((f"{name}: {quantile}", f"{value:.1f} ms", f"≤ {bar:g} ms", value <= bar))
    api = found["api"]
    rows.append(("API process: memory", f"{api['rss_mib']:.0f} MiB", "≤ 120 MB", api["rss_mib"] <= BARS["rss_mib"]))
    rows.append(("API process: start", f"{api['start_s']:.2f} s", "≤ 1.5 s", api["start_s"] <= BARS["start_s"]))
    rows.append(
        ("API process: torch", "loaded" if api["torch_loaded"] else "not loaded", "not", not api["torch_loaded"])
    )
    return rows


def _head(found: Found) -> str:
    machine = found["machine"]
    quick = "\nA quick run: its numbers say that the measurement works, nothing else.\n" if found["quick"] else ""
    return (
        "# Load\n\n"
        f"Made by `make load` on {machine['date']}: {machine_line(machine)}, commit {machine['commit']}. "
        "wrk, the service with its store, worker and reconciler, and the floor share the cores. "
        "wrk holds 16 connections.\n"
        f"{quick}"
    )


def _bars(found: Found) -> str:
    lines = ["## Bars", "", "| what | measured | bar | |", "|---|---:|---:|---|"]
    lines += [f"| {what} | {measured} | {bar} | {'' if ok else 'missed'} |" for what, measured, bar, ok in bars(found)]
    return "\n".join([*lines, ""])


def _served(rates: Found) -> str:
    served = rates["served"]
    floors = {"poll": "floor: GET one key", "submit": "floor: POST one entry, synced"}
    floors["poll, If-None-Match (304)"] = floors["poll"]
    lines = ["## Requests a second, beside the floor", "", "| what | a second | of the floor | p50 | p99 | CPU |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, told in served.items():
        floor = floors.get(name)
        share = "" if floor is None else f"{told['rate'] / served[floor]['rate']:.2f}"
        times = " | ".join(f"{told[each]:.1f} ms" for each in ("p50_ms", "p99_ms"))
        lines.append(f"| {name} | {told['rate']:.0f} | {share} | {times} | {told['cpu_ms']:.2f} ms |")
    text = (
        "\nThe floor is a bare FastAPI application on the same store: one route reads one key, one writes one entry. "
        "Runs are interleaved; medians of the repeats. While jobs are submitted, each with a right-hand side "
        "of its own that becomes a synced blob, the worker rests; afterwards it solved "
        f"{rates['solved_per_s']:.0f} of them a second, counted from when it went on. "
        "CPU is what the serving process spent on a request; it does not depend on what else runs. "
        f"One append and its sync take {rates['sync_ms']:.2f} ms on this disk. The floor waits for one; a submit "
        "waits for its blob, the names of its blob's folders, and the job, one after the other.\n"
    )
    return "\n".join([*lines, text])


def _overhead(overheads: Found) -> str:
    lines = [
        "## From submit to visible result, less the solve",
        "",
        "| how | p50 | of the floor | p99 | most | with the solve, p50 |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    floor = overheads["floor_ms"]
    for name, told in overheads["ways"].items():
        spread, whole = told["beside_the_solve_ms"], told["in_all_ms"]
        half, high, most = _times(spread)
        lines.append(
            f"| {name} | {half} | {spread['p50'] / floor['p50']:.2f} | {high} | {most} | {whole['p50']:.1f} ms |"
        )
    half, high, most = _times(floor)
    lines.append(f"| floor: a message through Celery and back | {half} | | {high} | {most} | |")
    samples = next(iter(overheads["ways"].values()))["samples"]
    text = (
        f"\n{samples} jobs of each kind, in turn and one after the other; warm model, nine numbers in x. The floor is "
        "the bare application with a bare Celery worker on the same store: it writes an entry, sends the message, and "
        "waits for the answer, which the worker writes at once. It checks, claims and solves nothing.\n"
    )
    return "\n".join([*lines, text])


def _times(spread: Mapping[str, float]) -> list[str]:
    return [f"{spread[each]:.1f} ms" for each in ("p50", "p99", "most")]


def _streams(rungs: Sequence[Found]) -> str:
    lines = [
        "## Event streams held",
        "",
        "| asked for | held | API memory | descriptors | poll meanwhile, p50 | slowest of 30 |",
    ]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    for rung in rungs:
        polls = f"{rung['poll_p50_ms']:.1f} ms | {rung['poll_p99_ms']:.1f} ms"
        lines.append(
            f"| {rung['wanted']} | {rung['held']} | {rung['rss_mib']:.0f} MiB | {rung['descriptors']} | {polls} |"
        )
    last = rungs[-1]
    why = (
        "No limit was reached: this is as far as was asked."
        if last["held"] >= last["wanted"]
        else f"The last step was not reached within the time; descriptors open in the API: {last['descriptors']}."
    )
    return "\n".join([*lines, f"\n{why}\n"])


def _sizes(sizes: Sequence[Found]) -> str:
    lines = [
        "## With so many finished jobs kept",
        "",
        "| what | " + " | ".join(f"{s['kept']:,}" for s in sizes) + " |",
    ]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in [key for key in sizes[0] if key != "kept"]:
        cells = [_cell(size[name]) for size in sizes]
        lines += [f"| {name.removesuffix('_s')} | {' | '.join(cells)} |"]
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['rate']:.0f}/s" if "rate" in value else f"{value['p50_ms']:.1f} ms"
    return f"{value:.2f} s"


def _draw(found: Found, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    served = found["rates"]["served"]
    left.barh(list(served), [told["rate"] for told in served.values()])
    left.invert_yaxis()
    left.set_xlabel("requests a second")
    sizes = found["sizes"]
    for name in ("poll", "submit"):
        right.plot(
            [s["kept"] for s in sizes], [s[name]["rate"] / sizes[0][name]["rate"] for s in sizes], "o-", label=name
        )
    for name in [key for key in sizes[0] if key.startswith("list")]:
        relative = [sizes[0][name]["p50_ms"] / s[name]["p50_ms"] for s in sizes]
        right.plot([s["kept"] for s in sizes], relative, ".--", label=name)
    right.set_xscale("symlog", linthresh=100)
    right.set_ylim(bottom=0)
    right.set_xlabel("finished jobs kept")
    right.set_ylabel("speed, beside the first column")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
