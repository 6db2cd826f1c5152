"""``results.md``: the table, what the bars ask for, and row by row why one is missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.results import FOLDER, best
from benchmarks.rows import ROWS, TOLERANCES

__all__ = ["BARS", "explain_miss", "write_report"]

BARS: Final = {"cold": 3.0, "warm": 10.0}
"""How many times faster than the fastest peer a solve has to be."""

INTRODUCTION: Final = """# Benchmark

Made by `make bench`; `make bench ROW=digits-mlp` renews one row.

Every contestant gets the same files: weights, data, λ, right-hand sides (gradients of test points' losses) and
tolerance. It runs in an environment of its own with all cores, in a process forked after all imports, lazy ones too.
**Cold** is the first solve on a model, with all set-up. **Warm** is the second solve, with other right-hand sides, on
whatever the library kept of the first. One judge recomputes the residual of the solutions in float64 (of 64, every
fourth), with an operator of its own; a contestant that misses the tolerance is run again with a smaller one until it
meets it. Runs are interleaved, seconds are medians. Ratios are against the fastest peer of each column.
The tolerances are {tolerances}, as the service has them by default. To reach: cold ≥ {cold:g}×, warm ≥ {warm:g}×.
"""


def write_report(results: dict[str, Any], folder: Path = FOLDER) -> None:
    """Renders all rows there are."""
    tolerances = " and ".join(f"{rtol:g} in {dtype}" for dtype, rtol in TOLERANCES.items())
    parts = [INTRODUCTION.format(tolerances=tolerances, **BARS)]
    named = [name for name in ROWS if name in results["rows"]]
    parts += [_summary(results["rows"], named)]
    parts += [_row(name, results["rows"][name]) for name in named]
    (folder / "results.md").write_text("\n".join(parts), encoding="utf-8")


def explain_miss(cell: dict[str, dict[str, Any]], which: str) -> str | None:
    """Why a bar is missed in a cell, from what the fastest of ours said about its time; None where it is met."""
    ours, peer = best(cell, which, ours=True), best(cell, which, ours=False)
    if ours is None:
        said = {name: entry["remark"] or "not converged" for name, entry in cell.items() if name.startswith("ihvp")}
        return "none of ours met the tolerance: " + "; ".join(f"{name}: {remark}" for name, remark in said.items())
    if peer is None or peer[1] >= BARS[which] * ours[1]:
        return None
    facts = cell[ours[0]]["facts"][which]
    timings = facts["info"].get("timings", {})
    spent = ", ".join(f"{name} {_seconds(value)}" for name, value in timings.items())
    strategy = facts["info"].get("strategy", {})
    how = f"; products by {strategy['product']}" if "product" in strategy else ""
    return (
        f"{which} {peer[1] / ours[1]:.1f}× of {BARS[which]:g}×: {ours[0]} needs {facts['iterations']} iterations "
        f"({spent}{how}), {peer[0]} {cell[peer[0]]['iterations'] or '?'}"
    )


def _summary(rows: dict[str, Any], named: list[str]) -> str:
    lines = [
        (
            "| row | dtype | right-hand sides | fastest peer | cold | warm "
            "| ihvp | cold | warm | × cold | × warm | residual |"
        ),
        "|---|---|---:|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name in named:
        for key, cell in rows[name]["cells"].items():
            dtype, count = key.split("/")
            found = {(which, ours): best(cell, which, ours=ours) for which in BARS for ours in (True, False)}
            lines.append(
                f"| {name} | {dtype} | {count} | {_names(found, ours=False)} | {_time(found['cold', False])} | "
                f"{_time(found['warm', False])} | {_names(found, ours=True)} | {_time(found['cold', True])} | "
                f"{_time(found['warm', True])} | {_ratio(found, 'cold')} | {_ratio(found, 'warm')} | "
                f"{_residual(cell, found['cold', True])} |"
            )
    return "\n".join([*lines, ""])


def _row(name: str, part: dict[str, Any]) -> str:
    problem, machine = part["problem"], part["machine"]
    lines = [
        f"## {name}",
        "",
        f"{problem['title']}: p = {problem['p']:,}, n = {problem['n']:,}, λ = {problem['damping']:g}.",
        "",
        _machine(machine) + (" Quick run: one repeat." if part["quick"] else ""),
        "",
    ]
    for key, cell in part["cells"].items():
        dtype, count = key.split("/")
        lines += [f"### {dtype}, {count} right-hand sides" if count != "1" else f"### {dtype}, 1 right-hand side", ""]
        lines += ["| | cold | warm | residual | iterations | |", "|---|---:|---:|---:|---:|---|"]
        lines += [_entry(contestant, entry) for contestant, entry in cell.items()]
        misses = [miss for which in BARS if (miss := explain_miss(cell, which))]
        lines += ["", *(f"* Bar missed: {miss}." for miss in misses), ""]
    return "\n".join([*lines, *_products(part["curves"]), *_growth(part["curves"])])


def _entry(name: str, entry: dict[str, Any]) -> str:
    remark = entry["remark"] or ""
    if entry["predicted"] is not None:
        remark = f"{remark} (about {entry['predicted']:.0f} s by extrapolation)"
    if entry["reached"] and name.startswith("ihvp"):
        remark = f"{remark} {entry['facts']['cold']['status']}".strip() if remark else ""
    residual = "" if entry["residual"] is None else f"{entry['residual']:.1e}"
    bold = "**" if name.startswith("ihvp") else ""
    return (
        f"| {bold}{name}{bold} | {_seconds(entry['cold_median'])} | {_seconds(entry['warm_median'])} | {residual} | "
        f"{entry['iterations'] or ''} | {remark.replace('|', '/')} |"
    )


def _products(curves: dict[str, Any]) -> list[str]:
    if "products" not in curves:
        return []
    names = list(next(iter(curves["products"].values()))["strategies"])
    lines = ["### Cost of a Hessian-vector product, in gradients", ""]
    lines += ["| vectors at a time | one gradient | " + " | ".join(names) + " | auto took |"]
    lines += ["|---:" * (len(names) + 2) + "|---|"]
    for block, found in curves["products"].items():
        costs = [
            f"{cost:.2f}" if isinstance(cost, float) else "–"
            for cost in (found["strategies"].get(name) for name in names)
        ]
        chosen = found["auto"]
        took = f"{chosen['product']}, {chosen['rows_at_once']} at once" if chosen else "–"
        lines.append(f"| {block} | {_seconds(found['gradient'])} | " + " | ".join(costs) + f" | {took} |")
    return [*lines, ""]


def _growth(curves: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    if curves.get("points"):
        lines += ["### Growth with the points (cg, 16 right-hand sides, a budget of 128 MiB)", ""]
        lines += ["| n | seconds | iterations | peak memory |", "|---:|---:|---:|---:|"]
        lines += [
            f"| {at['points']:,} | {_seconds(at['seconds'])} | {at['iterations']} "
            f"| {at['peak_bytes'] / 2**20:.0f} MiB |"
            for at in curves["points"]
        ]
        lines += [""]
    if curves.get("parameters"):
        lines += ["### Growth of a product with the parameters", "", "| p | seconds |", "|---:|---:|"]
        lines += [f"| {at['parameters']:,} | {_seconds(at['seconds'])} |" for at in curves["parameters"]]
        lines += [""]
    return lines


def _machine(machine: dict[str, Any]) -> str:
    peers = "; ".join(
        ", ".join(f"{name} {version}" for name, version in versions.items()) for versions in machine["peers"].values()
    )
    return (
        f"{machine['date']}, commit {machine['commit']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}, "
        f"torch {machine['torch']}. Peers: {peers or 'none installed'}."
    )


def _names(found: dict[tuple[str, bool], tuple[str, float] | None], *, ours: bool) -> str:
    names = dict.fromkeys(pair[0].removeprefix("ihvp ") for which in BARS if (pair := found[which, ours]))
    return " / ".join(names) or "–"


def _ratio(found: dict[tuple[str, bool], tuple[str, float] | None], which: str) -> str:
    ours, peer = found[which, True], found[which, False]
    if ours is None or peer is None:
        return "–"
    ratio = peer[1] / ours[1]
    return f"**{ratio:.1f}**" if ratio >= BARS[which] else f"{ratio:.1f}"


def _residual(cell: dict[str, dict[str, Any]], ours: tuple[str, float] | None) -> str:
    return "–" if ours is None else f"{cell[ours[0]]['residual']:.1e}"


def _time(pair: tuple[str, float] | None) -> str:
    return "–" if pair is None else _seconds(pair[1])


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1e3:.1f} ms"
