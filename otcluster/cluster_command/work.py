"""Cluster files of vectors into a directory, or go on where an earlier call left off."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otcluster.assignment import Status
from otcluster.cluster_command.checkpoint import Found, State, save_state
from otcluster.cluster_command.data import Data, first_not_finite, open_data, part_of, place
from otcluster.cluster_command.folder import Folder
from otcluster.cluster_command.progress import Progress, Silent
from otcluster.cluster_command.report import draw, measures, versions
from otcluster.cluster_command.settings import Settings
from otcluster.clustering.kmeans import KMeansResult, kmeans
from otcluster.clustering.progress import KMeansProgress
from otcluster.clustering.samples import NotFiniteError
from otcluster.clustering.starts import Start
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted, raised_signals
from otcluster.runs.ranks import Processes, connected

_SAVING = 0.1  # of the time may go into checkpoints
Labels = npt.NDArray[np.int32]


def cluster(
    paths: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    weights: Path | None = None,
    timeout: float = 1800.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cluster the vectors of some files; under ``torchrun`` the processes share them.

    Args:
        paths: Files or folders, as :func:`otcluster.clustering.sources.open_vectors` takes them.
        settings: How.
        out: Directory: new, empty, or of an earlier call with the same settings and files, which is then gone on with.
        weights: A ``.npy`` file with a weight for each vector.
        timeout: Seconds that the processes wait for each other.
        progress: What to tell, and whom. Default: nobody.

    Returns:
        What ``report.json`` holds.

    Raises:
        RunError: Files, settings or directory are not as they should be, or another process has ended.
        Interrupted: SIGINT or SIGTERM came. The same call goes on from the last checkpoint.
        OSError: Something could not be written; what was there before is whole.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(folder + "/x.npy", np.array([[0.0], [0.1], [9.0]]))
        ...     report = cluster([Path(folder, "x.npy")], Settings(2), Path(folder, "out"))
        ...     np.load(folder + "/out/labels.npy").tolist(), report["sizes"]
        ([0, 0, 1], [2, 1])
    """
    work: _Work | None = None
    with raised_signals() as caught:
        try:
            with connected(timeout) as ranks:
                speaks = progress if progress is not None and ranks.is_first else Silent()
                ranks.check_same("settings", repr((settings, [str(path) for path in paths], str(weights))))
                data = ranks.together(lambda: open_data(paths, weights, settings))
                settings, folder = data.completed(settings), Folder(out)
                report, state = ranks.from_first(lambda: folder.found(settings, data))
                if report is not None:
                    speaks.note(f"{out} is finished: nothing to do")
                    return report
                work = _Work(settings, data, folder, ranks, speaks, state)
                return work.run()
        except KeyboardInterrupt:
            if not caught:
                raise
            when = "before the first round" if work is None else work.leave()
            raise Interrupted(caught[0], when, saved=work is not None and work.state is not None) from None
        except MemoryError as error:
            raise RunError(f"there is not enough memory: {str(error) or 'an array could not be made'}") from error


class _Work:
    def __init__(
        self, settings: Settings, data: Data, folder: Folder, ranks: Processes, progress: Progress, state: State | None
    ) -> None:
        self.settings, self.data, self.folder, self.ranks, self.progress = settings, data, folder, ranks, progress
        self.state = state
        self.best: Found | None = None if state is None else state.best
        self.labels: npt.NDArray[np.int64] | None = None  # of the best, of the vectors here
        self.before = 0.0 if state is None else state.seconds
        self.began = time.perf_counter()
        self.unsaved, self.saved_at, self.saving = False, -np.inf, 0.0
        n, width = data.shape
        self.part = ranks.together(lambda: part_of(data, settings, ranks))
        where = "held in memory" if self.part.is_held else "read anew in each round"
        among = f", shared by {ranks.n} processes" if ranks.n > 1 else ""
        progress.note(f"{n} vectors of length {width}, {data.source.dtype}, {data.n_bytes / 1e6:.1f} MB, {where}{among}")

    def run(self) -> dict[str, Any]:
        """The starts that are left, and everything that follows from the best."""
        state = self.state
        if state is not None:
            self.ranks.from_first(lambda: self.folder.claim(self.settings, self.data))
            self.progress.note(f"going on {self._standing}")
        for turn in range(0 if state is None else state.turn, self.settings.n_init):
            init: Any = self.settings.start
            if state is not None and turn == state.turn:
                init = KMeansProgress(state.centroids, state.n_iter, state.converged, turn)
            result = self._kmeans(init, turn)
            if self.best is None or result.inertia < self.best.inertia:
                converged = result.status is Status.CONVERGED
                self.best = Found(turn, result.n_iter, result.inertia, converged, np.asarray(result.centroids))
                self.labels = result.labels
        assert self.best is not None
        if self.labels is None:  # it came before the start that this call went on with
            best = self.best
            self.labels = self._kmeans(KMeansProgress(best.centroids, best.n_iter, best.converged), best.turn).labels
        return self._finish(self.best)

    def _kmeans(self, init: Any, turn: int) -> KMeansResult:
        settings, part = self.settings, self.part
        if isinstance(init, Start):
            self.progress.note(f"drawing {settings.n_clusters} centroids to start from, by {settings.init}")
        try:
            with warnings.catch_warnings(record=True) as noticed:
                warnings.simplefilter("always", UserWarning)
                result = kmeans(
                    part.rows,
                    settings.n_clusters,
                    assign=settings.solver,
                    metric=settings.metric,
                    init=init,
                    max_iter=settings.max_iter,
                    tol=settings.tol,
                    sample_weight=part.weights,
                    seed=settings.seed + turn,
                    reducer=self.ranks.reducer,
                    progress=lambda told: self._watch(replace(told, turn=turn)),
                )
        except RunError:
            raise
        except (ValueError, TypeError) as error:
            raise RunError(self._explained(error)) from error
        except RuntimeError as error:
            if self.ranks.n == 1:
                raise
            raise RunError(f"{error}; what was saved is whole, and the same command goes on from there") from error
        for each in noticed:
            self.progress.note(f"warning: {each.message}")
        return result

    def _explained(self, error: Exception) -> str:
        """What k-means says, with the place of the first entry that is not finite."""
        if not isinstance(error, NotFiniteError):
            return str(error)
        found = [row for row in self.ranks.gathered(first_not_finite(self.part)) if row is not None]
        return f"the vectors must be finite: there is NaN or infinity in {place(self.data.source, min(found))}"

    def _watch(self, told: KMeansProgress) -> None:
        """On every process after each round: a checkpoint by the first of them, and its display."""
        seconds = self.before + time.perf_counter() - self.began
        state = State(told.turn, told.n_iter, told.converged, seconds, np.asarray(told.centroids), self.best)
        self.state, self.unsaved = state, True
        self.ranks.together(self._save_if_due)
        self.progress.round(told, self.settings)

    def _save_if_due(self) -> None:
        assert self.state is not None
        due = time.perf_counter() - self.saved_at > self.saving / _SAVING
        if self.ranks.is_first and (due or self.state.n_iter == 0 or self.state.converged):
            self._save()

    def _save(self) -> None:
        assert self.state is not None
        began = time.perf_counter()
        if not self.folder.settings.is_file() or self.state.n_iter == 0:
            self.folder.claim(self.settings, self.data)
        save_state(self.folder.checkpoint, self.state)
        self.unsaved, self.saved_at = False, time.perf_counter()
        self.saving = self.saved_at - began

    @property
    def _standing(self) -> str:
        state = self.state
        if state is None:
            return "before the first round"
        return f"after round {state.n_iter}" + (f" of start {state.turn + 1}" if self.settings.n_init > 1 else "")

    def leave(self) -> str:
        """Save what is not saved yet. Returns how far it came."""
        if self.unsaved and self.ranks.is_first:
            self._save()
        return self._standing

    def _finish(self, best: Found) -> dict[str, Any]:
        assert self.labels is not None
        labels = self.ranks.joined(self.labels.astype(np.int32))
        return self.ranks.from_first(lambda: self._write(best, labels))

    def _write(self, best: Found, labels: Labels) -> dict[str, Any]:
        """What the run leaves. The report comes last, as the mark."""
        folder, settings, data = self.folder, self.settings, self.data
        report = {
            "status": "CONVERGED" if best.converged else "MAX_ITER",
            "iterations": best.n_iter,
            "inertia": best.inertia,
            "start": best.turn,
            "vectors": data.shape[0],
            "length": data.shape[1],
            "dtype": str(data.source.dtype),
            **measures(labels, data, settings.n_clusters),
            "settings": settings.as_dict(),
            "files": [name for name, *_ in data.mark],
            "processes": self.ranks.n,
            "versions": versions(),
        }
        folder.save_array(folder.labels, labels)
        folder.save_array(folder.centroids, best.centroids)
        draw(folder.picture, data, settings, labels, best.centroids)
        report["seconds"] = round(self.before + time.perf_counter() - self.began, 3)
        folder.save_report(report)
        return report
