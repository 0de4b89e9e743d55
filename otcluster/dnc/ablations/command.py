"""The commands ``otcluster dnc ablate`` and ``otcluster dnc ablations``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from otcluster.dnc.ablations.comparison import Comparison
from otcluster.dnc.ablations.plan import Ablation
from otcluster.dnc.ablations.progress import RunsTerminal
from otcluster.dnc.ablations.report import table_markdown
from otcluster.dnc.ablations.variants import axis, load_set, set_names, variant, vary
from otcluster.dnc.ablations.work import ablate, compare
from otcluster.runs.guard import guarded
from otcluster.runs.ranks import disconnect, need_one_process

_FAILED = 1  # the exit code where a run failed and the others went on


def ablations_command() -> None:
    """List the sets of variants inside the package."""
    for name in set_names():
        typer.echo(f"{name:16} {load_set(name)[0]}")


def ablate_command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a YAML file.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of all variants.")] = None,
    varied: Annotated[
        list[str] | None, typer.Option("--vary", metavar="KEY=A,B,C", help="Values of a key; several options are combined.")
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="'NAME: KEY=VALUE ...'", help="A variant of several changes; repeat it for others."),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME", help="A set of the package, or a YAML file.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 3,
    splits: Annotated[int, typer.Option("--splits", min=1, help="How many ways of holding out test images.")] = 1,
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of the images.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where runs and tables go. Default: runs/ablate-RECIPE.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="How many runs at once, each in a process of its own.")] = 1,
    report: Annotated[bool, typer.Option("--report", help="Train nothing: tables of what is finished.")] = False,
) -> None:
    """Train variants of a recipe with several seeds and compare them, or go on with it."""
    found: list[Comparison] = []

    def action() -> None:
        axes = [vary(text) for text in varied or []]
        axes += [axis(variant(text) for text in named)] if named else []
        axes += [each for name in sets or [] for each in load_set(name)[1]]
        plan = Ablation.plan(recipe, changes or [], axes=axes, seeds=seeds, splits=splits, data=data)
        root = out or Path("runs") / "-".join(["ablate", plan.name, *(Path(name).stem for name in sets or [])])
        if report:
            need_one_process("ablate --report")
            found.append(compare(plan, root))
        else:
            with RunsTerminal(Console(quiet=not _first())) as terminal:
                found.append(ablate(plan, root, jobs=jobs, watcher=terminal))
            disconnect()
        if _first():
            typer.echo(table_markdown(found[0]))
            typer.echo(f"{sum(row.n for row in found[0].rows)} of {len(plan.runs)} runs compared, in {root}")

    guarded(action)
    if found and found[0].failed and not report:
        raise typer.Exit(_FAILED)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"
