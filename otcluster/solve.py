"""The one verb: a problem and a solver make an assignment. And the same in one line, for a matrix of scores."""

from __future__ import annotations

from typing import Any

from otcluster._ops.generic import Array
from otcluster.assignment import Assignment
from otcluster.balancing.sizes import Size
from otcluster.distributed import Reducer, check_reducer
from otcluster.gradients import Gradient, check_gradient
from otcluster.partial import PartialAssignment, extended, extended_start
from otcluster.problem import Problem
from otcluster.scores import Scores
from otcluster.sharding import joined
from otcluster.solvers import ExactBalanced, LogSinkhorn, Nearest, SinkhornKnopp, Solver, start_potential


def solve(
    problem: Problem,
    solver: Solver,
    *,
    start: Assignment | tuple[Array | None, Array] | None = None,
    gradient: Gradient | None = None,
    reducer: Reducer | None = None,
) -> Assignment:
    """Assign the samples of ``problem`` to its clusters.

    No gradient is recorded unless one is asked for, autocast does not apply, and no input is written to.

    Args:
        problem: Scores of shape (..., n, k) with the masses to respect.
        solver: Which algorithm, with its hyper-parameters.
        start: Where to begin: potentials ``(f, g)``, or an assignment to the same number of clusters, of the same samples or
            of others. Only g is read (f follows from it and may be None), -inf in it counting as 0 for an open cluster.
        gradient: :class:`ImplicitGradient` or :class:`UnrolledGradient`: the ``plan()`` and the ``transport_value()`` of the
            answer can then be differentiated after the scores, or the points and the centroids, that are torch tensors.
            Nothing flows to ``start``. Between ranks it is that of the sum of what all of them differentiate, and they must
            differentiate the same things in the same order, since the backward pass exchanges numbers. Default: no gradient.
        reducer: Sums over the ranks that share the samples; None when all are here. Every rank makes a problem of its own
            rows (there may be none), with ``sharded=True``, and calls this with the same solver. ``cluster_mass``,
            ``cluster_share``, ``cluster_side``, ``assigned_mass``, ``n_groups``, centroids and ``start`` are the same on every
            rank. The answer is that of one
            process with all rows: errors, status and sizes are those of all samples, and must be asked on every rank, since
            that may exchange numbers; labels, plan and the potential of the samples are of the rank's rows.

    Returns:
        The assignment, which gives labels of shape (..., n), the plan of shape (..., n, k) and the rest on demand.

    Raises:
        TypeError: ``problem`` is no Problem, ``solver`` no solver, ``start`` no start, ``gradient`` no gradient or ``reducer``
            no reducer; or ``gradient`` is given and the scores are no torch tensors.
        ValueError: The solver cannot work on this problem, or begins nowhere (:class:`Nearest`) and a ``start`` is given; the
            answer has not the ``gradient`` asked for, or a mass requires one; a rank's values are impossible, or the problem
            is sharded and there is no reducer.
        RuntimeError: An input was changed in place since the problem was made.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[1.0, 0.0], [0.9, 0.8]])
        >>> solve(Problem(scores), LogSinkhorn(epsilon=0.05)).labels()
        array([0, 1])
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}: wrap the scores, Problem(scores)")
    if isinstance(solver, type) or not callable(getattr(solver, "run", None)):  # as Solver asks, and quicker than isinstance
        raise TypeError(f"solver must be a solver such as SinkhornKnopp(epsilon=0.05), got {solver!r}")
    if gradient is not None:
        check_gradient(gradient, problem)
    check_reducer(reducer)
    if reducer is None:
        if problem.sharded:
            raise ValueError("problem is sharded and no reducer is given: pass reducer=, or leave sharded=True out")
        problem.check_unchanged()
    with problem.ops.quiet():
        if reducer is not None:
            problem = joined(problem, solver, reducer, started=start is not None, gradient=gradient)
        begin = None if start is None else start_potential(problem, start)
        if problem.assigned_mass is None:
            return _run(problem, solver, begin, gradient)
        whole = extended(problem)
        begin = None if begin is None else extended_start(whole, begin)
        return PartialAssignment(problem, _run(whole, solver, begin, gradient))


def _run(problem: Problem, solver: Solver, begin: Array | None, gradient: Gradient | None) -> Assignment:
    answer = solver.run(problem) if begin is None else solver.run(problem, start=begin)
    return answer if gradient is None else answer.with_gradient(gradient, begin)


def sinkhorn_knopp(scores: Array | Scores, *, epsilon: float = 0.05, max_iter: int = 3, **masses: Any) -> Assignment:
    """Balance softly in ``max_iter`` rounds: :func:`solve` with :class:`SinkhornKnopp`.

    Prefer :func:`log_sinkhorn` when the masses must be right.

    Args:
        scores: Similarities, (..., n, k), larger is closer; or :class:`PointScores`.
        epsilon: Entropic strength, in units of the scores.
        max_iter: Rounds.
        **masses: ``sample_mass``, ``cluster_mass``, ``cluster_share``, ``cluster_side``, ``assigned_mass``, ``groups``,
            ``n_groups``, ``check_values`` of :class:`Problem`.

    Returns:
        The assignment.

    Raises:
        TypeError, ValueError: As :class:`Problem` and :class:`SinkhornKnopp` raise.

    Example:
        >>> import numpy as np
        >>> sinkhorn_knopp(np.array([[1.0, 0.0], [0.9, 0.8]])).labels()
        array([0, 1])

    Source: Caron et al., "SwAV" (2020).
    """
    return solve(Problem(scores, **masses), SinkhornKnopp(epsilon=epsilon, max_iter=max_iter))


def log_sinkhorn(
    scores: Array | Scores, *, epsilon: float = 0.05, max_iter: int = 1000, tol: float | None = 1e-6, **masses: Any
) -> Assignment:
    """Balance softly until the masses are right: :func:`solve` with :class:`LogSinkhorn`.

    Prefer :func:`sinkhorn_knopp` where a few rounds are enough.

    Args:
        scores: Similarities, (..., n, k), larger is closer; or :class:`PointScores`.
        epsilon: Entropic strength, in units of the scores.
        max_iter: Rounds at most.
        tol: Largest ``marginal_error`` that counts as converged.
        **masses: ``sample_mass``, ``cluster_mass``, ``cluster_share``, ``cluster_side``, ``assigned_mass``, ``groups``,
            ``n_groups``, ``check_values`` of :class:`Problem`.

    Returns:
        The assignment; its ``status`` says whether the tolerance was met.

    Raises:
        TypeError, ValueError: As :class:`Problem` and :class:`LogSinkhorn` raise.

    Example:
        >>> import numpy as np
        >>> log_sinkhorn(np.array([[1.0, 0.0], [0.9, 0.8]])).cluster_sizes().round(3)
        array([1., 1.])

    Source: Cuturi, "Sinkhorn distances" (2013).
    """
    return solve(Problem(scores, **masses), LogSinkhorn(epsilon=epsilon, max_iter=max_iter, tol=tol))


def nearest(scores: Array | Scores, **masses: Any) -> Assignment:
    """Assign each sample to the cluster with its largest score: :func:`solve` with :class:`Nearest`.

    Prefer the balanced solvers where clusters must share the samples.

    Args:
        scores: Similarities, (..., n, k), larger is closer; or :class:`PointScores`.
        **masses: ``sample_mass``, ``cluster_mass``, ``cluster_share``, ``cluster_side``, ``assigned_mass``, ``groups``,
            ``n_groups``, ``check_values`` of :class:`Problem`.

    Returns:
        The assignment.

    Raises:
        TypeError, ValueError: As :class:`Problem` raises.

    Example:
        >>> import numpy as np
        >>> nearest(np.array([[1.0, 0.0], [0.9, 0.8]])).labels()
        array([0, 0])

    Source: Lloyd (1982).
    """
    return solve(Problem(scores, **masses), Nearest())


def exact_balanced(scores: Array | Scores, *, size_min: Size = None, size_max: Size = None, **masses: Any) -> Assignment:
    """Assign to clusters of exact sizes with the largest sum of scores: :func:`solve` with :class:`ExactBalanced`.

    Prefer :func:`log_sinkhorn` for soft labels.

    Args:
        scores: Similarities, (..., n, k), larger is closer; or :class:`PointScores`.
        size_min: Fewest samples of a cluster, one number or a tuple with one for each.
        size_max: Most samples of a cluster. Without either the sizes are n / k, rounded down or up.
        **masses: ``sample_mass``, ``cluster_mass``, ``cluster_share``, ``groups``, ``n_groups``, ``check_values`` of
            :class:`Problem`.

    Returns:
        The assignment; its ``dual_gap`` proves it optimal.

    Raises:
        TypeError, ValueError: As :class:`Problem` and :class:`ExactBalanced` raise.
        InfeasibleError: No assignment has the sizes.

    Example:
        >>> import numpy as np
        >>> exact_balanced(np.array([[1.0, 0.0], [0.9, 0.8]])).labels()
        array([0, 1])

    Source: Ahuja, Magnanti & Orlin, "Network flows" (1993).
    """
    return solve(Problem(scores, **masses), ExactBalanced(size_min=size_min, size_max=size_max))
