"""``results.md``: a table a row, what the bars ask for and why one is missed, and all that else was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.contestants import DENSE_BYTES
from benchmarks.machine import machine_line
from benchmarks.report_curves import coalescing_section, curve_sections, plot_section
from benchmarks.results import FOLDER, best
from benchmarks.rows import ROWS, TOLERANCES
from benchmarks.schedule import minutes
from benchmarks.wording import minimum_table, named, seconds, times

__all__ = ["BARS", "explain_miss", "row_lines", "write_report"]

BARS: Final = {"cold": 3.0, "warm": 10.0}
"""How many times faster than the fastest peer a solve has to be."""
HEADER: Final = (
    "dtype",
    "right-hand sides",
    "fastest peer",
    "its cold",
    "its warm",
    "ihvp",
    "cold",
    "warm",
    "× cold",
    "× warm",
)

INTRODUCTION: Final = """# Benchmark

How long does it take to solve (H + λI) x = b for a trained network, here and with the libraries that do the same?
Made by `make bench`; `make bench ROW=digits-mlp` renews one row. All numbers come from `results.json`.

* **Cold** is the first solve on a model, with all set-up; **warm** the second one, with other right-hand sides, on
  whatever the library kept of the first.
* **×** is how many times faster ihvp is than the fastest peer of that column; bold where the bar is met (cold ≥
  {cold:g}×, warm ≥ {warm:g}×). Below 1, the peer is faster.
* Every contestant gets the same files: weights, data, λ, right-hand sides (gradients of test points' losses) and
  tolerance: a relative residual of {tolerances}. One judge recomputes it in float64 with an
  operator of its own (of 64 solutions, every fourth). Who misses the tolerance is run again with a smaller one until
  it is met, unless it took more than {slow:g} times as long as the fastest of its side already; who never meets it
  cannot be the fastest.
* `direct` forms the matrix and factors it; it takes part where three matrices of p × p numbers fit {mebibytes} MiB.
* Each contestant runs in an environment of its own with all cores, each solve in a process forked after all imports,
  lazy ones too. Who is fastest of its side, ours or the peers', or within {close:g} times of that, cold or warm, is
  run {repeats} times, all of them in turn, and seconds are medians; but once where that takes more than {long:g} s
  (column *runs*).
* What cannot change a ratio is left out. A solve is stopped after {limit:g} s; of contestants that keep nothing for a
  second one, after {far:g} times the fastest of their side so far, and their second one is not run if the first took
  more than {slow:g} times as long as the fastest second one. Who was stopped, or took {slow:g} times as long as the
  fastest of its side in both solves of 16 right-hand sides, is not run with more of them; who solves one by one, nor
  where it would take too long by extrapolation.
"""


def write_report(results: dict[str, Any], folder: Path = FOLDER) -> None:
    """Renders all there is."""
    from benchmarks.race import CLOSE, FAR, LIMIT, LONG, REPEATS, SLOW

    tolerances = ", ".join(f"{rtol:g} in {dtype}" for dtype, rtol in TOLERANCES.items())
    rows = {name: results["rows"][name] for name in ROWS if name in results["rows"]}
    numbers = {"limit": LIMIT, "far": FAR, "slow": SLOW, "close": CLOSE, "repeats": REPEATS, "long": LONG}
    numbers["mebibytes"] = DENSE_BYTES >> 20
    parts = [INTRODUCTION.format(tolerances=tolerances, **numbers, **BARS), _bars(rows)]
    parts += [_row(name, part) for name, part in rows.items()]
    parts += [coalescing_section(results.get("coalescing")), curve_sections(rows), plot_section(folder / "plots")]
    parts += [_time(results.get("seconds", {})), _details(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")


def row_lines(part: dict[str, Any]) -> list[list[str]]:
    """The table of a row, a line a cell, in the columns of the header."""
    lines = []
    for key, cell in part["cells"].items():
        dtype, count = key.split("/")
        peers = {which: best(cell, which, ours=False) for which in BARS}
        ours = {which: best(cell, which, ours=True) for which in BARS}
        lines.append(
            [
                dtype,
                count,
                named(peers.values()),
                *(_time_of(peers[which]) for which in BARS),
                named(ours.values()),
                *(_time_of(ours[which]) for which in BARS),
                *(_ratio(ours[which], peers[which], BARS[which]) for which in BARS),
            ]
        )
    return lines


def explain_miss(cell: dict[str, dict[str, Any]], which: str) -> str | None:
    """Why a bar is missed in a cell, by counts of the fastest of both sides; None where it is met or has no peer."""
    ours, peer = best(cell, which, ours=True), best(cell, which, ours=False)
    if ours is None:
        said = {name: entry["remark"] or "not converged" for name, entry in cell.items() if name.startswith("ihvp")}
        return "none of ours met the tolerance: " + "; ".join(f"{name}: {remark}" for name, remark in said.items())
    if peer is None or peer[1] >= BARS[which] * ours[1]:
        return None
    sides = "; ".join(_counts(name, cell[name], which) for name in (ours[0], peer[0]))
    return f"{which} {times(peer[1] / ours[1])} of {BARS[which]:g}×. {sides}"


def _counts(name: str, entry: dict[str, Any], which: str) -> str:
    """Iterations, products and milliseconds a product of a solve, as far as they can be counted."""
    facts = entry["facts"][which]
    info = facts.get("info", {})
    said = [] if facts["iterations"] is None else [f"{facts['iterations']} iterations"]
    products = facts.get("products") or info.get("hvps")
    if products:
        taken = facts.get("product_seconds")
        said.append(
            f"{products:.0f} products" + (f" of {seconds(taken / products)} ({seconds(taken)})" if taken else "")
        )
    timings = {
        part: value for part, value in info.get("timings", {}).items() if value >= 0.01 * entry[f"{which}_median"]
    }
    if timings:
        said.append(", ".join(f"{part} {seconds(value)}" for part, value in timings.items()))
    if "product" in info.get("strategy", {}):
        said.append(f"products by {info['strategy']['product']}")
    return f"{name}, {seconds(entry[f'{which}_median'])}: " + ", ".join(said)


def _bars(rows: dict[str, Any]) -> str:
    """How many cells meet each bar."""
    lines = []
    for which, bar in BARS.items():
        ratios = [
            peer[1] / ours[1]
            for part in rows.values()
            for cell in part["cells"].values()
            if (ours := best(cell, which, ours=True)) and (peer := best(cell, which, ours=False))
        ]
        if ratios:
            met = sum(ratio >= bar for ratio in ratios)
            lines.append(
                f"* {which} ≥ {bar:g}×: met in {met} of {len(ratios)} cells; "
                f"the ratios go from {times(min(ratios))} to {times(max(ratios))}."
            )
    return "\n".join(["## The bars", "", *lines, ""]) if lines else ""


def _row(name: str, part: dict[str, Any]) -> str:
    if not part["cells"]:
        return ""
    problem = part["problem"]
    lines = [
        f"## {name}",
        "",
        (
            f"{problem['title']}: p = {problem['p']:,} parameters, n = {problem['n']:,} points, "
            f"λ = {problem['damping']:g}. {problem.get('why', '')}"
        ).strip(),
        "",
        _machine(part["machine"]) + (" Quick run: one repeat." if part["quick"] else ""),
        "",
        *minimum_table(HEADER, row_lines(part), left=(0, 2, 5)),
        "",
    ]
    misses = [
        f"* {key.replace('/', ', ')}: {miss}."
        for key, cell in part["cells"].items()
        for which in BARS
        if (miss := explain_miss(cell, which))
    ]
    absent = {
        contestant: entry["remark"]
        for cell in part["cells"].values()
        for contestant, entry in cell.items()
        if not entry["cold"] and entry["remark"] and not entry["remark"].startswith(">")
    }
    if absent:
        lines += ["Cannot run this row, or not all of it:", ""]
        lines += [f"* {contestant}: {_cell(remark)}." for contestant, remark in absent.items()] + [""]
    if misses:
        lines += ["Bars missed, and what was counted:", "", *misses, ""]
    return "\n".join(lines)


def _details(rows: dict[str, Any]) -> str:
    lines = ["## Every contestant", ""]
    for name, part in rows.items():
        for key, cell in part["cells"].items():
            dtype, count = key.split("/")
            sides = "1 right-hand side" if count == "1" else f"{count} right-hand sides"
            lines += [f"### {name}, {dtype}, {sides}", ""]
            header = ("", "cold", "warm", "runs", "residual", "iterations", "products", "remark")
            lines += minimum_table(header, [_entry(*pair) for pair in cell.items()], left=(0, 7))
            lines += [""]
    return "\n".join(lines) if len(lines) > 2 else ""


def _entry(name: str, entry: dict[str, Any]) -> list[str]:
    remark = entry["remark"] or ""
    if entry["predicted"] is not None:
        remark = f"{remark} (about {entry['predicted']:.0f} s by extrapolation)"
    facts = (entry["facts"] or {}).get("cold", {})
    if entry["cold"] and name.startswith("ihvp") and facts.get("status", "converged") != "converged":
        remark = f"{remark} {facts['status']}".strip()
    products = facts.get("products") or facts.get("info", {}).get("hvps")
    bold = "**" if name.startswith("ihvp") else ""
    return [
        f"{bold}{name}{bold}",
        seconds(entry["cold_median"]),
        seconds(entry["warm_median"]),
        f"{len(entry['cold']) or ''}",
        "" if entry["residual"] is None else f"{entry['residual']:.1e}",
        f"{entry['iterations'] or ''}",
        f"{products:.0f}" if products else "",
        _cell(remark),
    ]


def _time(spent: dict[str, dict[str, float]]) -> str:
    """Where the benchmark's own time went, by row."""
    if not spent:
        return ""
    lines = []
    for row, steps in spent.items():
        table = {name: taken for name, taken in steps.items() if "/" in name}
        others = {name.replace("_", " "): taken for name, taken in steps.items() if "/" not in name}
        lines.append(
            [
                row,
                minutes(sum(table.values())),
                ", ".join(f"{name} {minutes(taken)}" for name, taken in others.items()),
                minutes(sum(steps.values())),
            ]
        )
    whole = minutes(sum(sum(steps.values()) for steps in spent.values()))
    table_lines = minimum_table(("row", "table", "other steps", "together"), lines, left=(0, 2))
    return "\n".join(["## What a run takes", "", *table_lines, "", f"Altogether {whole} (minutes:seconds).", ""])


def _machine(machine: dict[str, Any]) -> str:
    peers = "; ".join(
        ", ".join(f"{name} {version}" for name, version in versions.items()) for versions in machine["peers"].values()
    )
    return (
        f"{machine['date']}, commit {machine['commit']}: {machine_line(machine)}, "
        f"torch {machine['torch']}. Peers: {peers or 'none installed'}."
    )


def _ratio(ours: tuple[str, float] | None, peer: tuple[str, float] | None, bar: float) -> str:
    if ours is None or peer is None:
        return "–"
    ratio = peer[1] / ours[1]
    said = times(ratio).removesuffix("×")
    return f"**{said}**" if ratio >= bar else said


def _time_of(pair: tuple[str, float] | None) -> str:
    return "–" if pair is None else seconds(pair[1])


def _cell(text: str) -> str:
    """Without what would end a table's cell."""
    return text.replace("|", "/")
