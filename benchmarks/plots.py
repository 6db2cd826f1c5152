"""The plots, drawn anew from all results there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

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
    """Writes the plots for which there are numbers: time, residuals, growth, right-hand sides."""
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
    _right_hand_sides(rows, folder / "right-hand-sides.png")
    _ratios(rows, folder / "speed-up.png")
    _growth(rows, folder / "growth.png")


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


def _right_hand_sides(rows: dict[str, Any], path: Path) -> None:
    figure, axes = _panels(list(rows))
    for axis, (name, part) in zip(axes, rows.items(), strict=True):
        for ours, which, style in (
            (True, "cold", "-"),
            (True, "warm", "--"),
            (False, "cold", "-"),
            (False, "warm", "--"),
        ):
            points = []
            for key, cell in part["cells"].items():
                dtype, count = key.split("/")
                found = best(cell, which, ours=ours)
                if dtype == "float32" and found:
                    points.append((int(count), found[1] / int(count)))
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    linestyle=style,
                    marker="o",
                    markersize=4,
                    color=OURS if ours else "#1f4e79",
                    label=f"{'ihvp' if ours else 'fastest peer'}, {which}",
                )
        axis.set(xscale="log", yscale="log", title=name, xlabel="right-hand sides", ylabel="seconds each")
        axis.set_xticks([1, 16, 64], ["1", "16", "64"])
        axis.minorticks_off()
    _legend(figure, axes[0])
    figure.suptitle("Time a right-hand side, when many are solved together (float32)")
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


def _growth(rows: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    if not any(part["curves"].get("points") for part in rows.values()):
        return
    figure, (time, memory, width) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for index, (name, part) in enumerate(rows.items()):
        points, parameters = part["curves"].get("points") or [], part["curves"].get("parameters") or []
        style = {"color": f"C{index}", "marker": "o", "markersize": 4, "label": name}
        if points:
            n = [at["points"] for at in points]
            time.plot(n, [at["seconds"] for at in points], **style)
            memory.plot(n, [at["peak_bytes"] / 2**20 for at in points], **style)
        if parameters:
            width.plot([at["parameters"] for at in parameters], [at["seconds"] for at in parameters], **style)
    time.set(xscale="log", yscale="log", xlabel="points n", ylabel="seconds", title="Cold solve, 16 right-hand sides")
    memory.set(xscale="log", ylim=(0, None), xlabel="points n", ylabel="MiB", title="Peak memory of the process")
    width.set(xscale="log", yscale="log", xlabel="parameters p", ylabel="seconds", title="One product")
    width.set_visible(bool(width.lines))
    time.legend(frameon=False, fontsize=7)
    _save(figure, path)
