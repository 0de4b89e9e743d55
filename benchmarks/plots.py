"""The plots of the documentation, drawn from rows that were measured before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_LABELS = {"n": "samples n", "k": "clusters k", "epsilon": "epsilon"}
# Okabe and Ito's colours, which differ for all eyes; what is ours is drawn thicker.
_COLOURS = ("#0072B2", "#56B4E9", "#999999", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#000000")


def draw(points: list[dict[str, Any]], folder: Path, device: str) -> list[tuple[Path, str]]:
    """A file for each axis, seconds beside error; the paths, each with a text for those who do not see it."""
    names = list(dict.fromkeys(point["candidate"] for point in points))
    drawn = []
    for axis in dict.fromkeys(point["axis"] for point in points):
        here = [point for point in points if point["axis"] == axis]
        path = folder / f"benchmarks-{device}-{axis}.svg"
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"svg.hashsalt": path.stem}):
            figure = _figure(here, axis, names)
            figure.savefig(path, metadata={"Date": None})
        shown = [name for name in names if any(point["candidate"] == name for point in here)]
        drawn.append((path, f"Two plots against {_LABELS[axis]}: seconds of a call, and L1 error; for {'; '.join(shown)}."))
    return drawn


def _figure(points: list[dict[str, Any]], axis: str, names: list[str]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_facecolor("white")
    for axes, value, label in zip(figure.subplots(1, 2), ("seconds", "error"), ("seconds of a call", "L1 error"), strict=True):
        for number, name in enumerate(names):
            # An error of 0, or none at all, has no place on a logarithmic axis.
            curve = sorted((p[axis], p[value]) for p in points if p["candidate"] == name and p[value])
            if curve:
                ours = not name.startswith(("POT", "OTT", "SwAV"))
                axes.plot(
                    *zip(*curve, strict=True),
                    color=_COLOURS[number % len(_COLOURS)],
                    linewidth=2.5 if ours else 1.2,
                    marker="o" if ours else "s",
                    markersize=4,
                    label=name,
                )
        if value == "seconds":
            floor = sorted({(p[axis], p["floor_seconds"]) for p in points})
            axes.plot(*zip(*floor, strict=True), color="black", linestyle=":", linewidth=1, label="floor")
        axes.set(xscale="log", yscale="log", xlabel=_LABELS[axis], ylabel=label)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure
