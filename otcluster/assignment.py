"""The answer: which sample belongs to which cluster, how sure, and how far from what was asked."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from otcluster import labelling, passes
from otcluster._ops.generic import Array
from otcluster.balancing.problems import rounded_labels
from otcluster.feasibility import is_infeasible
from otcluster.gradients import Answer, Gradient
from otcluster.new_samples import problem_of_new_samples
from otcluster.plans import transport_value
from otcluster.problem import Problem
from otcluster.scores import Scores

_INFINITY = float("inf")


class Status(enum.Enum):
    """How a solve ended, from best to worst; the value says it in words.

    Example:
        >>> print(Status.MAX_ITER.value)
        max_iter rounds were used up before the tolerance was met: raise max_iter, tol or epsilon
    """

    CONVERGED = "the masses are met within the tolerance"
    FIXED_ROUNDS = "the rounds asked for were done; how far the masses are met is in marginal_error"
    MAX_ITER = "max_iter rounds were used up before the tolerance was met: raise max_iter, tol or epsilon"
    INFEASIBLE = "no plan meets the masses: some samples may only go where there is too little room for them together"


class Assignment(ABC):
    """The answer of :func:`otcluster.solve`.

    What is asked of it is computed then, from the inputs as they were at the solve: if one was changed in place since, what
    would be wrong raises a RuntimeError instead. (torch counts changes; NumPy does not, so do not change its arrays.)

    Attributes:
        problem: What was asked.
        solver: Which algorithm, with its hyper-parameters.
    """

    def __init__(self, problem: Problem, solver: Any, g: Array, n_iter: Any) -> None:
        self.problem = problem
        self.solver = solver
        self._g, self._n_iter = g, n_iter

    @property
    def n_iter(self) -> Array:
        """Rounds done, one number per problem."""
        ops, rounds = self.problem.ops, self._n_iter
        many = ops.full((self.problem.n_problems,), rounds, ops.integer) if isinstance(rounds, int) else rounds
        return self._per_problem(many)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.problem!r}, {self.solver!r})"

    @property
    @abstractmethod
    def status(self) -> Status:
        """How the solve ended; the worst of all problems."""

    @property
    @abstractmethod
    def marginal_error(self) -> Array:
        """Share of the mass in the wrong place, one number per problem: the L1 error of both sides over the total mass.

        A relaxed side (:class:`otcluster.RelaxedKL`) is in the wrong place by as much as a half-round of the clusters would
        still move: zero at the optimum, whatever the columns are.
        """

    @property
    @abstractmethod
    def potentials(self) -> tuple[Array, Array]:
        """``(f, g)`` of shapes (..., n) and (..., k), or (n_groups, k), in units of the scores."""

    @abstractmethod
    def labels(self) -> Array:
        """The cluster of each sample: the largest entry of its row of the plan, the lowest index among equals.

        Returns:
            int64, (..., n); within the group, when grouped. -1 for a sample of no mass that may join no cluster, and for one
            of a partial problem of which more stays outside than goes to any cluster. The clusters are *not* of equal size in
            general, however well the plan is balanced.
        """

    def balanced_labels(self) -> Array:
        """Labels of which each cluster has as many as its mass asks for: the plan, rounded to whole samples.

        On a relaxed side that is the mass that the plan gives it. The masses are rounded by largest remainder. Of all labels
        with these sizes that respect forbidden pairs, the likeliest under an entropic plan are those with the largest sum of
        scores; these are near them, and the same for small problems (up to 65,536 scores). :class:`ExactBalanced` finds them
        always, and proves it, in more time. Samples of no mass take no place: each has its best cluster, or -1 where it may
        join none. Of a partial problem, -1 are those that stay outside. Prefer :meth:`labels` where each sample should have
        its likeliest cluster, whatever the sizes.

        Returns:
            int64, (..., n); within the group, when grouped.

        Raises:
            ValueError: Samples differ in mass (other than none), or are shared by several ranks.
            InfeasibleError: Forbidden pairs leave no labels with these sizes.
            RuntimeError: An input was changed in place since.
        """
        self.problem.need_all_samples("balanced_labels")
        self.problem.check_unchanged()
        with self.problem.ops.quiet():
            return self._per_sample(rounded_labels(self._to_round(), self._g, getattr(self, "epsilon", None)))

    @abstractmethod
    def plan(self) -> Array:
        """The mass of each sample in each cluster, (..., n, k); rows sum to ``sample_mass``. Formed anew at each call.

        Of a partial problem, they sum to at most that: the rest stays outside.
        """

    @abstractmethod
    def cluster_sizes(self) -> Array:
        """Column sums of the plan (mass, not counts of :meth:`labels`), (..., k) or (n_groups, k)."""

    @abstractmethod
    def transport_value(self) -> Array:
        """What the plan is worth: the sum of plan times scores over the pairs that hold mass.

        The objective of unregularised transport: no entropy is in it. In the units of scores times mass. Minus the transport
        cost, where scores are minus costs.

        Returns:
            One number per problem: the batch shape, or (n_groups,).
        """

    def assign(self, scores: Array | Scores, *, sample_mass: Array | None = None, groups: Array | None = None) -> Assignment:
        """Assign other samples to the same clusters, under the potential of the clusters that this answer holds.

        That potential stays as it is: no rounds are done, and what becomes of a new sample does not depend on the others. Rows
        of the plan are exact. The masses of the clusters, which are the old shares of the new mass, are met as far as the new
        samples are like the old ones: ``marginal_error`` says how far. ``status`` is FIXED_ROUNDS, after 0 rounds (CONVERGED
        for :class:`Nearest`, which holds to no masses). Prefer :func:`otcluster.solve` with ``start`` where the new samples
        must be balanced themselves.

        Prices of :class:`ExactBalanced` give each new sample its best cluster, and no sizes are met. A partial problem leaves
        outside what likes no cluster enough, whatever the share of it. A group that had no samples has no prices: its new
        samples go by their scores alone.

        Args:
            scores: Similarities of the new samples and the same clusters, (..., n_new, k), with the leading dimensions of this
                answer; or a :class:`PointScores`. In the library, on the device and in the precision of the old scores.
            sample_mass: Mass of each new sample, (..., n_new). Default: ones.
            groups: The group of each new sample, (n_new,), if this answer is of groups.

        Returns:
            The assignment of the new samples, without a gradient. Samples that ranks share are those of this rank.

        Raises:
            TypeError: ``scores`` are of another library or precision.
            ValueError: They are of another number of clusters or other leading dimensions, ``groups`` are missing or given for
                nothing, or a value is impossible.
            InfeasibleError: A new sample may join no cluster.

        Example:
            >>> import numpy as np
            >>> import otcluster as otc
            >>> answer = otc.log_sinkhorn(np.array([[1.0, 0.0], [0.9, 0.8]]), epsilon=0.05)
            >>> answer.assign(np.array([[0.9, 0.0], [0.7, 0.6], [0.2, 0.9]])).labels()
            array([0, 1, 1])
        """
        problem = problem_of_new_samples(self.problem, scores, sample_mass, groups)
        with problem.ops.quiet():
            return self._for_samples(problem, self._g)

    @abstractmethod
    def _for_samples(self, problem: Problem, g: Array) -> Assignment:
        """The answer for the samples of ``problem`` under the potential ``g``, (n_problems, k)."""

    def with_gradient(self, gradient: Gradient, start: Array | None) -> Assignment:
        """The same answer, with ``gradient`` recorded; called by :func:`otcluster.solve`.

        Raises:
            ValueError: The answer has no such derivative.
        """
        raise ValueError(
            f"gradient={gradient!r} needs a soft plan, and that of {self.solver!r} is hard: it jumps where it changes at all. "
            "Use SinkhornKnopp or LogSinkhorn"
        )

    @property
    def cluster_potential(self) -> Array:
        """The potential of the clusters as solvers hold it: (n_problems, k), in the wide dtype."""
        return self._g

    def _to_round(self) -> Problem:
        """The problem whose masses :meth:`balanced_labels` meets."""
        if self.problem.cluster_side is None:
            return self.problem
        # A relaxed side asks for no more than the plan gives it.
        ops = self.problem.ops
        sizes = ops.xp.reshape(ops.cast(self.cluster_sizes(), ops.wide), (self.problem.n_problems, self.problem.n_clusters))
        return self.problem.with_clusters(sizes)

    def _per_problem(self, values: Array) -> Array:
        return self.problem.ops.xp.reshape(self.problem.ops.copy(values), self.problem.problem_shape)

    def _per_sample(self, values: Array, *tail: int) -> Array:
        return self.problem.ops.xp.reshape(values, (*self.problem.sample_shape, *tail))

    def _worth(self, plan_of: Callable[[slice, slice, Array], Array]) -> Array:
        return self._per_problem(self.problem.ops.cast(transport_value(self.problem, plan_of), self.problem.dtype))

    def _per_cluster(self, values: Array) -> Array:
        ops = self.problem.ops
        shape = (*self.problem.problem_shape, self.problem.n_clusters)
        return ops.cast(ops.copy(ops.xp.reshape(values, shape)), self.problem.dtype)


class EntropicAssignment(Assignment):
    """An answer that holds the potential of the clusters; everything else follows from it and the scores."""

    def __init__(
        self,
        problem: Problem,
        solver: Any,
        g: Array,
        epsilon: float,
        n_iter: Any,
        *,
        error: Array | None = None,
        converged: Array | None = None,
        labels: Array | None = None,
    ) -> None:
        super().__init__(problem, solver, g, n_iter)
        self.epsilon, self._labels = epsilon, labels
        self._error, self._converged = error, converged
        self._status: Status | None = None
        self._sums: tuple[Array, Array] | None = None
        self._recorded: Answer | None = None

    @property
    def status(self) -> Status:
        if self._status is None:
            self._status = self._find_status()
        return self._status

    def _find_status(self) -> Status:
        if self._converged is not None and bool(self.problem.ops.xp.all(self._converged)):
            return Status.CONVERGED
        if self.problem.has_forbidden:
            self.problem.check_unchanged()
            with self.problem.ops.quiet():
                if is_infeasible(self.problem):
                    return Status.INFEASIBLE
        return Status.FIXED_ROUNDS if self._converged is None else Status.MAX_ITER

    @property
    def marginal_error(self) -> Array:
        if self._error is None:
            columns, lost = self._columns()
            with self.problem.ops.quiet():
                self._error = passes.column_error(self.problem, self._g, columns, lost, self.epsilon)
        return self._per_problem(self._error)

    @property
    def potentials(self) -> tuple[Array, Array]:
        self.problem.check_unchanged()
        ops = self.problem.ops
        with ops.quiet():
            f = passes.sample_potential(self.problem, self._g, self.epsilon)
            return self._per_sample(ops.cast(f, self.problem.dtype)), self._per_cluster(self._g)

    def labels(self) -> Array:
        self.problem.check_unchanged()
        if self._labels is not None:
            return self.problem.ops.copy(self._labels)
        with self.problem.ops.quiet():
            return self._per_sample(passes.plan_labels(self.problem, self._g, self.epsilon))

    def plan(self) -> Array:
        return self._plan() if self._recorded is None else self._recorded.of_plan(self._plan)

    def _plan(self) -> Array:
        self.problem.check_unchanged()
        with self.problem.ops.quiet():
            return self._per_sample(passes.plan(self.problem, self._g, self.epsilon), self.problem.n_clusters)

    def transport_value(self) -> Array:
        return self._value() if self._recorded is None else self._recorded.of_value(self._value)

    def _value(self) -> Array:
        self.problem.check_unchanged()
        with self.problem.ops.quiet():
            return self._worth(passes.tile_plan(self.problem, self._g, self.epsilon))

    def with_gradient(self, gradient: Gradient, start: Array | None) -> Assignment:
        gradient.check_solver(self.solver)
        if self._converged is not None and self.status is not Status.CONVERGED:
            worst = self.problem.ops.facts([self.problem.ops.xp.max(self.marginal_error)])[0]
            raise ValueError(
                f"{gradient!r} differentiates a converged answer, but marginal_error is {worst:.3g} and tol is "
                f"{self.solver.tol}: {self.status.value}"
            )
        self._recorded = Answer(gradient, self.problem, self.solver, self.epsilon, self._g, start)
        return self

    def cluster_sizes(self) -> Array:
        return self._per_cluster(self._columns()[0])

    def _for_samples(self, problem: Problem, g: Array) -> Assignment:
        xp = problem.ops.xp
        # A group without samples ended without a price, which for open clusters is the price of nothing.
        answer = EntropicAssignment(
            problem, self.solver, xp.where(xp.isfinite(g) | (problem.clusters <= 0), g, xp.zeros_like(g)), self.epsilon, 0
        )
        answer._status = Status.FIXED_ROUNDS
        return answer

    def _columns(self) -> tuple[Array, Array]:
        if self._sums is None:
            self.problem.check_unchanged()
            with self.problem.ops.quiet():
                self._sums = passes.plan_columns(self.problem, self._g, self.epsilon)
        return self._sums


class HardAssignment(Assignment):
    """An answer that holds a label for each sample."""

    def __init__(self, problem: Problem, solver: Any, g: Array, labels: Array, best: Array) -> None:
        super().__init__(problem, solver, g, 0)
        self._labels, self._best = labels, best

    @property
    def status(self) -> Status:
        return Status.CONVERGED

    @property
    def marginal_error(self) -> Array:
        problem, xp = self.problem, self.problem.ops.xp
        with problem.ops.quiet():
            assigned = xp.sum(labelling.label_mass(problem, self._labels), axis=-1)
            error = (problem.totals - assigned) / xp.where(problem.totals > 0, problem.totals, xp.ones_like(problem.totals))
            return self._per_problem(xp.abs(error))

    @property
    def potentials(self) -> tuple[Array, Array]:
        xp = self.problem.ops.xp
        held = (self.problem.weights > 0) & (self._labels >= 0)
        f = xp.where(held, -self._best, xp.full_like(self._best, -_INFINITY))
        return self._per_sample(f), self._per_cluster(self._g)

    def labels(self) -> Array:
        return self._per_sample(self.problem.ops.copy(self._labels))

    def plan(self) -> Array:
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        own = self._labels[..., None] == ops.arange(problem.n_clusters)
        mass = problem.weights[..., None]
        return self._per_sample(xp.where(own, mass, xp.zeros_like(mass)), problem.n_clusters)

    def transport_value(self) -> Array:
        problem, ops, xp = self.problem, self.problem.ops, self.problem.ops.xp
        problem.check_unchanged()

        def plan_of(batches: slice, rows: slice, scores: Array) -> Array:
            own = self._labels[batches, rows][..., None] == ops.arange(problem.n_clusters)
            mass = problem.weights[batches, rows][..., None]
            return xp.where(own, mass, xp.zeros_like(mass))

        with ops.quiet():
            return self._worth(plan_of)

    def cluster_sizes(self) -> Array:
        with self.problem.ops.quiet():
            return self._per_cluster(labelling.label_mass(self.problem, self._labels))

    def _for_samples(self, problem: Problem, g: Array) -> Assignment:
        return HardAssignment(problem, self.solver, g, *labelling.nearest(problem, g))
