"""The plots, drawn anew from all results there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.curves.growth import BUDGET, COUNT, slope
from benchmarks.results import FOLDER, best
from benchmarks.rows import ROWS

__all__ = ["draw_plots"]

OURS: Final = "#c1272d"
PEERS: Final = {
    "pydvl 0.10 block CG": "#1f4e79",
    "pydvl 0.10 block CG + Nyström": "#5b9bd5",
    "curvlinops CG": "#7f7f7f",
}
DPI: Final = 150


def draw_plots(results: dict[str, Any], folder: Path = FOLDER / "plots") -> None:
    """Writes the plots for which there are numbers; those of ``benchmarks.report_curves.PLOTS``."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "font.size": 9}
    )
    rows = {name: results["rows"][name] for name in ROWS if name in results["rows"]}
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _residuals(rows, folder / "residual-against-time.png")
    _ratios(rows, folder / "speed-up.png")
    _right_hand_sides(rows, folder / "right-hand-sides.png")
    _time_against_points(rows, folder / "time-against-points.png")
    _memory_against_points(rows, folder / "memory-against-points.png")
    _time_against_parameters(rows, folder / "time-against-parameters.png")
    _products(rows, folder / "products.png")
    _coalescing(results.get("coalescing"), folder / "coalescing.png")


def _panels(names: list[str], height: float = 3.0) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.6 * columns, height * lines), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for axis in flat[len(names) :]:
        axis.set_axis_off()
    return figure, flat[: len(names)]


def _legend(figure: Any, axis: Any) -> None:
    """One legend for all panels, below them where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2 if len(figure.axes) == 1 else len(labels),
        fontsize=7,
        frameon=False,
    )


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    # Without a date in it, the same numbers give the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def _residuals(rows: dict[str, Any], path: Path) -> None:
    drawn = {name: part["curves"]["residuals"] for name, part in rows.items() if part["curves"].get("residuals")}
    if not drawn:
        return
    figure, axes = _panels(list(drawn))
    for axis, (name, histories) in zip(axes, drawn.items(), strict=True):
        for contestant, points in histories.items():
            if points:
                ours = contestant.startswith("ihvp")
                axis.plot(
                    *zip(*points, strict=True),
                    color=OURS if ours else PEERS.get(contestant, "#999999"),
                    marker="." if ours else "o",
                    markersize=4,
                    linewidth=2 if ours else 1,
                    label=contestant,
                )
        axis.set(xscale="log", yscale="log", title=name, xlabel="seconds, cold", ylabel="worst relative residual")
        axis.minorticks_off()
    _legend(figure, axes[0])
    figure.suptitle("Residual against time: 16 right-hand sides, float32")
    _save(figure, path)


def _ratios(rows: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    bars = []
    for name, part in rows.items():
        for key, cell in part["cells"].items():
            found = {
                which: (best(cell, which, ours=False), best(cell, which, ours=True)) for which in ("cold", "warm")
            }
            ratios = {which: peer[1] / ours[1] for which, (peer, ours) in found.items() if peer and ours}
            if ratios:
                bars.append((f"{name}, {key.replace('/', ', ')}", ratios))
    if not bars:
        return
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.28 * len(bars)), layout="constrained")
    for shift, which, color, bar in ((-0.2, "cold", OURS, 3.0), (0.2, "warm", "#e8a0a0", 10.0)):
        places = [place + shift for place in range(len(bars))]
        axis.barh(places, [ratios.get(which, 0.0) for _, ratios in bars], 0.38, color=color, label=which)
        axis.axvline(bar, color=color, linestyle=":", linewidth=1)
    axis.set_yticks(range(len(bars)), [label for label, _ in bars])
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="times faster than the fastest peer; dotted: what is to be reached")
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.grid(visible=False, axis="y")
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _right_hand_sides(rows: dict[str, Any], path: Path) -> None:
    lines = {}
    for name, found in _curves(rows, "right_hand_sides").items():
        one = next((at["seconds"] for at in found if at["count"] == 1), None)
        if one is not None:
            lines[name] = [(at["count"], at["count"] * one / at["seconds"]) for at in found]
    labels = {"xlabel": "right-hand sides k", "ylabel": "times faster than k solves of one"}
    _lines(lines, path, "Right-hand sides solved together (cold, cg, float32)", reference=None, **labels)


def _time_against_points(rows: dict[str, Any], path: Path) -> None:
    lines = {
        name: [(at["points"], at["seconds"] / at["iterations"]) for at in found]
        for name, found in _curves(rows, "points").items()
    }
    labels = {"xlabel": "points n", "ylabel": "seconds an iteration"}
    _lines(lines, path, f"Time against n: cg, {COUNT} right-hand sides, float32", reference="∝ n", **labels)


def _time_against_parameters(rows: dict[str, Any], path: Path) -> None:
    lines = {
        name: [(at["parameters"], at["seconds"]) for at in found]
        for name, found in _curves(rows, "parameters").items()
    }
    labels = {"xlabel": "parameters p", "ylabel": "seconds a product"}
    _lines(lines, path, "Time against p: one Hessian-vector product, float32", reference="∝ p", **labels)


def _memory_against_points(rows: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    found = {name: at for name, at in _curves(rows, "points").items() if all("base_bytes" in point for point in at)}
    if not found:
        return
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for name, at in found.items():
        extra = [(point["peak_bytes"] - point["base_bytes"]) / 2**20 for point in at]
        axis.plot([point["points"] for point in at], extra, marker="o", markersize=4, label=name)
    axis.axhline(BUDGET / 2**20, color="black", linestyle=":", linewidth=1, label="budget")
    axis.set(xscale="log", ylim=(0, None), xlabel="points n", ylabel="MiB on top of model and data")
    axis.set_title("Peak memory against n, at a stated budget", fontsize=9)
    axis.legend(frameon=False, fontsize=7)
    _save(figure, path)


def _products(rows: dict[str, Any], path: Path) -> None:
    found = _curves(rows, "products")
    if not found:
        return
    figure, axes = _panels(list(found))
    for axis, (name, blocks) in zip(axes, found.items(), strict=True):
        strategies = list(next(iter(blocks.values()))["strategies"])
        for number, (block, measured) in enumerate(blocks.items()):
            costs = [measured["strategies"].get(strategy) for strategy in strategies]
            places = [place + 0.4 * number for place in range(len(strategies))]
            heights = [cost if isinstance(cost, float) else 0.0 for cost in costs]
            axis.bar(places, heights, 0.38, label=f"{block} at a time", color=("#1f4e79", "#5b9bd5")[number % 2])
        axis.set_xticks([place + 0.2 for place in range(len(strategies))], strategies, fontsize=7)
        axis.set(title=name, ylabel="gradients a vector")
        axis.grid(visible=False, axis="x")
    _legend(figure, axes[0])
    _save(figure, path)


def _coalescing(part: dict[str, Any] | None, path: Path) -> None:
    import matplotlib.pyplot as plt

    if not part:
        return
    networks = part["networks"]
    figure, axis = plt.subplots(figsize=(5.8, 3.6), layout="constrained")
    ways = list(networks[0]["ways"])
    for number, way in enumerate(ways):
        places = [place + 0.27 * number for place in range(len(networks))]
        heights = [network["ways"][way]["median"] for network in networks]
        bars = axis.bar(places, heights, 0.25, label=way, color=(OURS, "#5b9bd5", "#9a9a9a")[number % 3])
        if number:
            fast = [network["ways"][ways[0]]["median"] for network in networks]
            axis.bar_label(
                bars, [f"{slow / quick:.1f}×" for slow, quick in zip(heights, fast, strict=True)], fontsize=7
            )
    axis.set_xticks([place + 0.27 for place in range(len(networks))], [f"p = {n['parameters']:,}" for n in networks])
    axis.set(yscale="log", ylabel="seconds until the last result")
    axis.set_title("64 queued jobs of one right-hand side on one model", fontsize=9)
    axis.grid(visible=False, axis="x")
    axis.legend(frameon=False, fontsize=7)
    _save(figure, path)


def _curves(rows: dict[str, Any], name: str) -> dict[str, Any]:
    """One curve of all rows that have it."""
    return {row: part["curves"][name] for row, part in rows.items() if part["curves"].get(name)}


def _lines(
    lines: dict[str, list[tuple[float, float]]], path: Path, title: str, *, reference: str | None, **labels: str
) -> None:
    """A line a row on logarithmic axes, with what linear growth would look like where ``reference`` names it."""
    import matplotlib.pyplot as plt

    lines = {name: pairs for name, pairs in lines.items() if pairs}
    if not lines:
        return
    figure, axis = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for name, pairs in lines.items():
        found = slope(pairs)
        label = f"{name}, slope {found:.2f}" if reference and found is not None else name
        axis.plot(*zip(*pairs, strict=True), marker="o", markersize=4, label=label)
    if reference is not None:
        every = [x for pairs in lines.values() for x, _ in pairs]
        x, y = next(iter(lines.values()))[0]
        ends = (min(every), max(every))
        axis.plot(ends, [y * end / x for end in ends], color="black", linestyle=":", linewidth=1, label=reference)
    axis.set(xscale="log", yscale="log", **labels)
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False, fontsize=7)
    _save(figure, path)
