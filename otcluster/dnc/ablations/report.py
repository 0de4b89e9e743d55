"""What an ablation leaves: ``table.csv``, ``table.md``, ``results.json`` and ``results.png``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from otcluster.dnc.ablations.comparison import Comparison, Row
from otcluster.dnc.ablations.variants import Axis
from otcluster.runs.files import replaced, write_text


def write_report(comparison: Comparison, title: str, axes: Sequence[Axis], out: Path) -> None:
    """Write all four to ``out``, each whole or not at all."""
    write_text(out / "table.csv", table_csv(comparison))
    write_text(out / "table.md", table_markdown(comparison))
    results = {"recipe": title, **asdict(comparison)}
    write_text(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    draw(comparison, title, axes, out / "results.png")


def table_csv(comparison: Comparison) -> str:
    """A line for each variant; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in comparison.rows)
    return text.getvalue()


def table_markdown(comparison: Comparison) -> str:
    """A line for each variant, to be read, and below it one for each run that failed."""
    lines = [
        f"| variant | runs | test {comparison.measure} | deviation | difference, points | 95 % | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in comparison.rows:
        states = [f"{row.failed} failed"] * bool(row.failed) + [f"{row.missing} missing"] * bool(row.missing)
        runs = f"{row.n}" + (f" ({', '.join(states)})" if states else "")
        interval = "" if row.low is None or row.high is None else f"[{100 * row.low:+.2f}, {100 * row.high:+.2f}]"
        difference = "" if row.difference is None else f"{100 * row.difference:+.2f}"
        cells = [
            row.variant.replace("|", r"\|"), runs, _number(row.mean, 4), _number(row.deviation, 4), difference, interval,
            _number(row.seconds, 0),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if comparison.failed:
        lines += ["", *(f"- {each.folder} failed: {each.failed}" for each in comparison.failed)]
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def draw(comparison: Comparison, title: str, axes: Sequence[Axis], path: Path) -> None:
    """Mean and deviation of each variant, and every run as a dot: along the key where one of numbers varies, or else bars."""
    numeric = axes[0] if len(axes) == 1 and axes[0].values is not None else None
    height = 3.8 if numeric else 1.4 + 0.36 * len(comparison.rows)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    if numeric is not None and numeric.values is not None:
        _draw_line(plot, comparison, numeric.key or "", numeric.values)
    else:
        _draw_bars(plot, comparison)
    plot.grid(alpha=0.3)
    figure.suptitle(f"{title}: mean and standard deviation of the test {comparison.measure}", fontsize=10, parse_math=False)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=130)


def _draw_line(plot: Axes, comparison: Comparison, key: str, values: Sequence[float]) -> None:
    # Evenly spaced: values of such keys are 1, 2, 4, 8 or 0.9, 0.99, 0.999, and no scale fits all.
    rows = [row for _, row in sorted(zip(values, comparison.rows, strict=True), key=lambda each: each[0])]
    known = [(place, row) for place, row in enumerate(rows) if row.mean is not None]
    plot.errorbar(
        [place for place, _ in known], [row.mean or 0.0 for _, row in known], [row.deviation or 0.0 for _, row in known],
        marker="o", capsize=4,
    )  # fmt: skip
    for place, row in enumerate(rows):
        own = _values(comparison, row)
        plot.plot([place] * len(own), own, ".", color="0.3", markersize=4, zorder=3)
    plot.set_xticks(range(len(rows)), [f"{value:g}" for value in sorted(values)])
    plot.set_xlabel(key)
    plot.set_ylabel(f"test {comparison.measure}")


def _draw_bars(plot: Axes, comparison: Comparison) -> None:
    rows = list(comparison.rows)
    found = [each.value for each in comparison.outcomes if each.value is not None]
    places = range(len(rows))
    plot.barh(places, [row.mean or 0.0 for row in rows], xerr=[row.deviation or 0.0 for row in rows], capsize=4, alpha=0.7)
    for place, row in zip(places, rows, strict=True):
        own = _values(comparison, row)
        plot.plot(own, [place] * len(own), ".", color="0.3", markersize=4, zorder=3)
    if found:  # differences are small beside the values: the axis does not begin at zero, and says so by its numbers
        margin = max(max(found) - min(found), 0.004) * 0.6
        plot.set_xlim(max(min(found) - margin, 0.0), max(found) + margin)
    plot.set_yticks(places, [row.variant for row in rows], fontsize=8, parse_math=False)
    plot.invert_yaxis()
    plot.set_xlabel(f"test {comparison.measure}")


def _values(comparison: Comparison, row: Row) -> list[float]:
    return [each.value for each in comparison.outcomes if each.variant == row.variant and each.value is not None]
