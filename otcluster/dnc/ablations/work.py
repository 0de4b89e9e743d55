"""Training every run of an ablation, and comparing them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from otcluster.dnc.ablations.comparison import Comparison, Outcome
from otcluster.dnc.ablations.jobs import run_jobs
from otcluster.dnc.ablations.plan import Ablation, Run
from otcluster.dnc.ablations.progress import Unwatched, Watcher
from otcluster.dnc.ablations.report import write_report
from otcluster.dnc.ablations.training import finished, trained
from otcluster.dnc.data import load_data
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.ranks import Ranks, connected
from otcluster.dnc.recipe import Recipe
from otcluster.dnc.run import RunFiles
from otcluster.runs.errors import RunError
from otcluster.runs.files import partial_files, write_text
from otcluster.runs.interruption import Interrupted, caught_signals

_MARK = "ablation.yaml"


def ablate(ablation: Ablation, out: str | Path, *, jobs: int = 1, watcher: Watcher | None = None) -> Comparison:
    """Train every run of an ablation that is not finished, and compare them.

    Each is a run directory of its own, ``out/<variant>/seed-<s>``, so that an ablation which was stopped goes on: finished runs
    are read, the others are gone on with. After each run ``table.csv``, ``table.md``, ``results.json`` and ``results.png`` are
    written anew. A run that fails is noted with its reason, and the others go on. Under ``torchrun`` all processes call it,
    and train each run together.

    Args:
        ablation: From :meth:`Ablation.plan`.
        out: Directory: new, empty, or that of an ablation, to which variants and seeds may be added.
        jobs: How many runs at once, each in a process of its own, on the GPUs in turn where there are some.
        watcher: Who is told. Default: nobody.

    Returns:
        The comparison; ``failed`` tells whether a run failed.

    Raises:
        RunError: The directory or one of a run holds something else; nothing was changed. Or a process of the launch was lost.
        RecipeError: ``jobs`` is not positive, or more than one under ``torchrun``.
        DataError: The images cannot be read, or they have test images of their own and several splits were asked for.
        Interrupted: SIGINT or SIGTERM came; the same call goes on from there.

    Example:
        >>> import tempfile
        >>> from otcluster.dnc.ablations.variants import vary
        >>> changes = ["train.epochs=1", "data.image_size=8"]
        >>> plan = Ablation.plan("digits", changes, axes=[vary("head.kind=linear,dnc")], seeds=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     comparison = ablate(plan, folder + "/heads")
        >>> [(row.variant, row.n) for row in comparison.rows]
        [('head.kind=linear', 1), ('head.kind=dnc', 1)]
    """
    watcher = Unwatched() if watcher is None else watcher
    if jobs < 1:
        raise RecipeError(f"jobs must be at least 1, got {jobs}")
    with connected(ablation.runs[0].recipe.train) as ranks:
        if jobs > 1 and ranks.n > 1:
            raise RecipeError(f"jobs={jobs} under torchrun, whose {ranks.n} processes train each run together: leave one out")
        ranks.from_first(lambda: _claim(ablation, Path(out)))
        work = _Work(ablation, Path(out), watcher, writes=ranks.is_first)
        with caught_signals() as caught:
            if jobs == 1:
                work.one_after_the_other(ranks, caught)
            else:
                work.side_by_side(jobs, caught)
        return work.comparison()


def compare(ablation: Ablation, out: str | Path) -> Comparison:
    """Compare what is finished of an ablation, and write its tables, without training anything.

    Raises:
        RunError: The directory or one of a run holds something else.
    """
    if not Path(out).is_dir():
        raise RunError(f"there is no ablation in {out} yet")
    _check(ablation, Path(out))
    work = _Work(ablation, Path(out), Unwatched(), writes=True)
    work.report()
    return work.comparison()


def _check(ablation: Ablation, out: Path) -> None:
    there = out.is_dir() and not {*out.iterdir()} <= {*partial_files(out)}
    if (out.exists() and not out.is_dir()) or (there and not (out / _MARK).is_file()):
        raise RunError(f"{out} exists and is no ablation: choose another --out")
    for run in ablation.runs:
        RunFiles(out / run.folder).check(run.recipe)


def _claim(ablation: Ablation, out: Path) -> None:
    _check(ablation, out)
    splits = {run.split: run.recipe for run in ablation.runs}
    if len(splits) > 1:
        prints = {_fingerprint(recipe) for recipe in list(splits.values())[:2]}
        if len(prints) == 1:
            raise DataError("these images have test images of their own: --splits would repeat the same one, leave it out")
    out.mkdir(parents=True, exist_ok=True)
    for leftover in partial_files(out):
        leftover.unlink(missing_ok=True)
    seeds = list(dict.fromkeys(run.seed for run in ablation.runs))
    lines = [f"recipe: {ablation.name}", f"seeds: {seeds}", f"splits: {len(splits)}", "variants:"]
    lines += [f"- {{name: {variant.name!r}, changes: {list(variant.changes)!r}}}" for variant in ablation.variants]
    write_text(out / _MARK, "\n".join(lines) + "\n")


def _fingerprint(recipe: Recipe) -> str:
    if not recipe.of_pixels:
        return load_data(recipe.data).fingerprint
    from otcluster.dnc.pixels.runs import load_images

    return load_images(recipe).fingerprint


class _Work:
    """What is done, and what is known of each run so far."""

    def __init__(self, ablation: Ablation, out: Path, watcher: Watcher, *, writes: bool) -> None:
        self.ablation, self.out, self.watcher, self.writes = ablation, out, watcher, writes
        self.outcomes = {run.folder: finished(run, out) for run in ablation.runs}

    def comparison(self) -> Comparison:
        measure = "mean IoU" if self.ablation.runs[0].recipe.of_pixels else "accuracy"
        return Comparison.of([variant.name for variant in self.ablation.variants], list(self.outcomes.values()), measure)

    def report(self) -> None:
        if self.writes:
            write_report(self.comparison(), self.ablation.name, self.ablation.axes, self.out)

    def begin(self) -> None:
        self.watcher.begin(len(self.outcomes), sum(each.value is not None for each in self.outcomes.values()))
        self.report()

    def end(self, run: Run, outcome: Outcome) -> None:
        if outcome == self.outcomes[run.folder] and outcome.failed is None:
            return  # it was finished before
        self.outcomes[run.folder] = outcome
        self.watcher.ended(run, outcome)
        self.report()

    def one_after_the_other(self, ranks: Ranks, caught: list[int]) -> None:
        """Train in this process, or in all processes of the launch together."""
        self.begin()
        for run in self.ablation.runs:
            if signum := ranks.greatest(caught[0] if caught else 0):  # between two runs, where no training heeds it
                raise Interrupted(signum, "between two runs")
            self.end(run, trained(run, self.out, partial(self.watcher.moved, run)))

    def side_by_side(self, jobs: int, caught: list[int]) -> None:
        """Train in several processes."""
        self.begin()
        run_jobs(self.ablation.runs, self.out, jobs, caught, moved=self.watcher.moved, ended=self.end)
