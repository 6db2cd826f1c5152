"""The parts of ``results.md`` beside the table: coalescing, growth, right-hand sides, products, overhead, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.coalescing import ARMS, JOBS, TOGETHER
from benchmarks.curves.growth import BUDGET, COUNT, slope
from benchmarks.wording import minimum_table, seconds, times

__all__ = ["COALESCING_BAR", "OVERHEAD_BAR", "PLOTS", "coalescing_section", "curve_sections", "plot_section"]

COALESCING_BAR: Final = 5.0
"""How many times sooner 64 jobs have to be done together than one by one."""
OVERHEAD_BAR: Final = 0.02
"""What part of a solve its live history may cost."""
PLOTS: Final = {
    "speed-up": "Times faster than the fastest peer, cell by cell",
    "residual-against-time": "Residual against time, 16 right-hand sides in float32",
    "time-against-points": "Time of an iteration against the number of points n",
    "time-against-parameters": "Time of a product against the number of parameters p",
    "memory-against-points": "Peak memory against n",
    "right-hand-sides": "Speed-up by the number of right-hand sides solved together",
    "coalescing": "64 queued jobs, together and one by one",
    "products": "What a product costs by each strategy",
}
"""Files of the plots and what they show."""

ABOUT_COALESCING: Final = """\
{jobs} jobs of one right-hand side each wait in the queue of a service (a Valkey that syncs every write, one worker
process) when it wakes; seconds until the last result is visible, and in brackets the Hessian-vector products of all
jobs. To reach: {bar:g}×. One by one *with reuse* each solve starts from what the ones before have left, as the service
always does: the ratio to it is what coalescing adds. *Without reuse* each job is solved as if it were the only one."""
ABOUT_GROWTH: Final = """\
Time is to be linear in n and p: exponents of 1, by least squares in logarithms. Memory is to be bounded by the budget,
{budget:.0f} MiB here, whatever n is; what is measured is the whole process, in which torch's own pages of first use
come on top (14 to 29 MiB here). In n: `cg` on {count} right-hand sides in float32, the points and copies of them.
In p: one product, networks narrower and wider than the row's; for softmax regression, more and fewer features."""
ABOUT_OVERHEAD: Final = """\
May cost {bar:g} % of a solve (cold, `cg`, 16 right-hand sides, float32). *History* is a callback that keeps every
iteration's residuals, *service* the worker's own, whose thread also writes them to a Valkey that syncs every write: at
most four times a second, and the first and the last iteration always, along with the job's end where that comes sooner
(*writes* counts the others, a solve). First the part of the time spent in the callback, measured around it; then *in
all*, the median over interleaved rounds of the time against a solve without a callback, which sees the thread too. The
last column is the same for a second solve without one: what is smaller than that cannot be seen."""


def coalescing_section(part: dict[str, Any] | None) -> str:
    """64 queued jobs, together and one by one; nothing where it has not been measured."""
    if not part:
        return ""
    alone = [name for name in ARMS if name != TOGETHER]
    lines = []
    for network in part["networks"]:
        ways = network["ways"]
        fast = ways[TOGETHER]["median"]
        cells = [f"{seconds(ways[name]['median'])} ({ways[name]['products']:.0f})" for name in ARMS]
        ratios = [ways[name]["median"] / fast for name in alone]
        marked = [f"**{ratio:.1f}**" if ratio >= COALESCING_BAR else f"{ratio:.1f}" for ratio in ratios]
        lines.append([f"{network['parameters']:,}", *cells, *marked])
    header = ("p", *ARMS, *(f"× {name}" for name in alone))
    return "\n".join(
        [
            "## Coalescing",
            "",
            ABOUT_COALESCING.format(jobs=JOBS, bar=COALESCING_BAR),
            "",
            *minimum_table(header, lines),
            "",
            *(["Quick run: one repeat.", ""] if part["quick"] else []),
        ]
    )


def curve_sections(rows: dict[str, Any]) -> str:
    """Growth, right-hand sides, overhead and products of all rows that have them."""
    curves = {name: part["curves"] for name, part in rows.items() if part.get("curves")}
    parts = [_growth(curves), _right_hand_sides(curves), _overhead(curves), _products(curves)]
    return "\n".join(line for part in parts for line in part)


def plot_section(folder: Path) -> str:
    """Names the plots that there are."""
    there = [(name, text) for name, text in PLOTS.items() if (folder / f"{name}.png").exists()]
    if not there:
        return ""
    return "\n".join(["## Plots", "", *(f"* [{text}](plots/{name}.png)" for name, text in there), ""])


def _growth(curves: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in curves.items():
        points, parameters = found.get("points") or [], found.get("parameters") or []
        by_n = slope([(at["points"], at["seconds"] / at["iterations"]) for at in points])
        by_p = slope([(at["parameters"], at["seconds"]) for at in parameters])
        if by_n is None and by_p is None:
            continue
        extra = [(at["peak_bytes"] - at["base_bytes"]) / 2**20 for at in points if "base_bytes" in at]
        lines.append(
            [
                name,
                f"{points[0]['points']:,} – {points[-1]['points']:,}" if points else "",
                "" if by_n is None else f"n^{by_n:.2f}",
                f"{min(extra):.0f} – {max(extra):.0f} MiB" if extra else "",
                f"{parameters[0]['parameters']:,} – {parameters[-1]['parameters']:,}" if parameters else "",
                "" if by_p is None else f"p^{by_p:.2f}",
            ]
        )
    if not lines:
        return []
    header = ("row", "n", "an iteration grows as", "memory on top of model and data", "p", "a product grows as")
    return [
        "## Growth",
        "",
        ABOUT_GROWTH.format(budget=BUDGET / 2**20, count=COUNT),
        "",
        *minimum_table(header, lines, left=(0,)),
        "",
    ]


def _right_hand_sides(curves: dict[str, Any]) -> list[str]:
    found = {name: part["right_hand_sides"] for name, part in curves.items() if part.get("right_hand_sides")}
    if not found:
        return []
    counts = sorted({at["count"] for part in found.values() for at in part})
    lines = []
    for name, part in found.items():
        by_count = {at["count"]: at for at in part}
        one = by_count[1]["seconds"]
        cells = [
            f"{times(count * one / by_count[count]['seconds'])} ({seconds(by_count[count]['seconds'])})"
            if count in by_count
            else "–"
            for count in counts
        ]
        lines.append([name, *cells])
    return [
        "## Right-hand sides together",
        "",
        "A block of k against k solves of one (cold, `cg`, float32): how many times faster, and the block's time.",
        "",
        *minimum_table(("row", *(f"k = {count}" for count in counts)), lines, left=(0,)),
        "",
    ]


def _overhead(curves: dict[str, Any]) -> list[str]:
    lines = []
    for name, part in curves.items():
        found = part.get("overhead")
        if not found:
            continue
        cells = []
        for callback in found["callbacks"].values():
            inside = f"{100 * callback['inside']:.2f} %"
            met = max(callback["inside"], callback["ratio"]) <= OVERHEAD_BAR
            cells += [f"**{inside}**" if met else inside, f"{100 * callback['ratio']:+.1f} %"]
        spread = f"{100 * found['spread']:+.1f} %"
        facts = [seconds(found["seconds"]), f"{found['iterations']}", f"{found['rounds']}"]
        writes = f"{found['writes']:.1f}" if "writes" in found else "–"
        lines.append([name, *facts, *cells, writes, spread])
    if not lines:
        return []
    arms = ("history", "in all", "service", "in all", "writes", "no callback again")
    header = ("row", "solve", "iterations", "rounds", *arms)
    return [
        "## The live residual history",
        "",
        ABOUT_OVERHEAD.format(bar=100 * OVERHEAD_BAR),
        "",
        *minimum_table(header, lines, left=(0,)),
        "",
    ]


def _products(curves: dict[str, Any]) -> list[str]:
    lines: list[list[str]] = []
    names: list[str] = []
    for row, part in curves.items():
        for block, found in (part.get("products") or {}).items():
            names = names or list(found["strategies"])
            costs = [_cost(found["strategies"].get(name)) for name in names]
            chosen = found["auto"]
            took = f"{chosen['product']}, {chosen['rows_at_once']} at once" if chosen else "–"
            lines.append([row, block, seconds(found["gradient"]), *costs, took])
    if not lines:
        return []
    header = ("row", "vectors at a time", "one gradient", *names, "auto took")
    return [
        "## A Hessian-vector product, in gradients of the same loss",
        "",
        "By each strategy, a vector; *auto* is the one that a solve measures and chooses.",
        "",
        *minimum_table(header, lines, left=(0, len(header) - 1)),
        "",
    ]


def _cost(cost: Any) -> str:
    return f"{cost:.2f}" if isinstance(cost, float) else "–"
