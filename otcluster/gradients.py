"""Gradients of plans and of transport values: which derivative is meant, and how it is found.

Both kinds answer one question. What does a gradient at the potential of the clusters say about the scores that it was found
from? At convergence the potential is defined by the masses, whatever way led there. After a fixed number of rounds it is what
those rounds made of the scores, and the rounds are gone through backwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from otcluster import half_rounds, passes
from otcluster._ops.generic import Array
from otcluster.adjoint import Chain, Upstream, column_gradient, prices_as_upstream, source_gradients, value_upstream
from otcluster.prices import prices
from otcluster.problem import Problem


class Gradient(ABC):
    """What :func:`otcluster.solve` records, so that plans and transport values can be differentiated."""

    @abstractmethod
    def check_solver(self, solver: Any) -> None:
        """Raise ValueError if this is not the derivative of what ``solver`` computes."""

    @abstractmethod
    def chain(self, answer: Answer, at_potential: Array) -> Chain:
        """What ``at_potential``, epsilon times the gradient at g of the answer, says about the scores."""


@dataclass(frozen=True)
class ImplicitGradient(Gradient):
    """Differentiate what the solve converged to, whatever the way that it took.

    The derivative is that of the exact plan, found from the optimality of the answer by one linear system for each problem: of
    size k x k, or without forming it where clusters are too many. Memory does not depend on the number of rounds. The answer
    must be ``CONVERGED``, and the derivative is only as good as its tolerance. Prefer :class:`UnrolledGradient` for a fixed
    number of rounds, which has another derivative.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> scores = torch.tensor([[1.0, 0.0], [0.9, 0.8]], requires_grad=True)
        >>> solver = otc.LogSinkhorn(epsilon=0.2)
        >>> answer = otc.solve(otc.Problem(scores), solver, gradient=otc.ImplicitGradient())
        >>> answer.transport_value().backward()
        >>> scores.grad.sum(dim=1).round(decimals=3)
        tensor([1., 1.])

    Source: Luise et al., "Differential properties of Sinkhorn approximation" (2018); Eisenberger et al. (2022).
    """

    def check_solver(self, solver: Any) -> None:
        if solver.tol is None:
            raise ValueError(
                f"ImplicitGradient differentiates a converged answer, but {solver!r} has no tolerance: "
                "give the solver a tol, or use UnrolledGradient() for a fixed number of rounds"
            )

    def chain(self, answer: Answer, at_potential: Array) -> Chain:
        return Chain((answer.g, -prices(answer.problem, answer.g, answer.epsilon, at_potential)))


@dataclass(frozen=True)
class UnrolledGradient(Gradient):
    """Differentiate the rounds that were done, all of them.

    The derivative is that of exactly ``max_iter`` rounds, as the training codes that use Sinkhorn-Knopp would have it if they
    recorded it. The rounds are done again when the gradient is asked for, and only the potentials of the clusters are kept: k
    numbers a round. Prefer :class:`ImplicitGradient` for a solver with a tolerance.

    Example:
        >>> import torch
        >>> import otcluster as otc
        >>> scores = torch.tensor([[1.0, 0.0], [0.9, 0.8]], requires_grad=True)
        >>> solver = otc.SinkhornKnopp(epsilon=0.2, max_iter=3)
        >>> plan = otc.solve(otc.Problem(scores), solver, gradient=otc.UnrolledGradient()).plan()
        >>> plan[:, 0].square().sum().backward()
        >>> scores.grad.shape
        torch.Size([2, 2])

    Source: Adams & Zemel, "Ranking via Sinkhorn propagation" (2011).
    """

    def check_solver(self, solver: Any) -> None:
        if solver.tol is not None:
            raise ValueError(
                f"UnrolledGradient differentiates a fixed number of rounds, but {solver!r} stops at a tolerance: "
                "set tol=None, or use ImplicitGradient()"
            )

    def chain(self, answer: Answer, at_potential: Array) -> Chain:
        problem, epsilon, xp, side = answer.problem, answer.epsilon, answer.problem.ops.xp, answer.problem.cluster_side
        pull = 1.0 if side is None else side.pull(xp, problem.clusters, epsilon)
        g = half_rounds.first_potential(problem, epsilon) if answer.start is None else answer.start
        path: list[tuple[Array, Array]] = []
        for _ in range(answer.solver.max_iter - (answer.start is None)):
            columns, _ = passes.plan_columns(problem, g, epsilon)
            path.append((g, columns))
            g = half_rounds.raised(problem, g, columns, epsilon)
        rounds: list[tuple[Array, Array]] = []
        least = float(xp.finfo(problem.dtype).smallest_normal)
        for g, columns in reversed(path):
            at_potential = pull * at_potential
            held = columns > least  # a smaller sum is not what a round goes by
            price = xp.where(held, -at_potential / xp.where(held, columns, xp.ones_like(columns)), xp.zeros_like(columns))
            rounds.append((g, price))
            at_settled = at_potential if side is None else side.unsettled(xp, g, problem.clusters, at_potential)
            at_potential = at_settled + column_gradient(problem, g, epsilon, prices_as_upstream(problem, price))
        at_answer = answer.g, xp.zeros_like(answer.g)
        if answer.start is not None:
            return Chain(at_answer, rounds)
        strict = problem.copied()  # the first half-round is a share of that of a strict side
        strict._set(cluster_side=None)
        return Chain(at_answer, rounds, (half_rounds.first_potential(strict, epsilon), pull * at_potential))


@dataclass(frozen=True, eq=False)
class Answer:
    """What was solved and found, and which derivative of it was asked for."""

    gradient: Gradient
    problem: Problem
    solver: Any
    epsilon: float
    g: Array
    start: Array | None

    def of_plan(self, make: Callable[[], Array]) -> Array:
        """The plan that ``make`` forms, (..., n, k), with its derivative."""
        problem = self.problem
        shape = (int(problem.weights.shape[0]), problem.n_samples, problem.n_clusters)

        def pullback(upstream: Array, needed: Sequence[bool]) -> list[Array | None]:
            flat = problem.ops.xp.reshape(upstream, shape)
            return self._pull(lambda batches, rows, scores: flat[batches, rows, :], None, needed)

        return self._attach(make, pullback)

    def of_value(self, make: Callable[[], Array]) -> Array:
        """The transport value that ``make`` forms, one number per problem, with its derivative."""
        problem = self.problem

        def pullback(upstream: Array, needed: Sequence[bool]) -> list[Array | None]:
            # The value is one for all ranks: what it is worth to any of them counts.
            (factor,) = problem.summed(problem.ops.xp.reshape(upstream, (problem.n_problems, 1)))
            return self._pull(value_upstream(problem, factor), factor, needed)

        return self._attach(make, pullback)

    def _attach(self, make: Callable[[], Array], pullback: Any) -> Array:
        return self.problem.ops.autograd.attach(make, pullback, list(self.problem.scores.sources.values()))

    def _pull(self, upstream: Upstream, direct: Array | None, needed: Sequence[bool]) -> list[Array | None]:
        self.problem.check_unchanged()
        with self.problem.ops.quiet():
            at_potential = column_gradient(self.problem, self.g, self.epsilon, upstream)
            chain = self.gradient.chain(self, at_potential)
            return source_gradients(self.problem, self.epsilon, chain, upstream, direct, needed)


def check_gradient(gradient: Any, problem: Problem) -> None:
    """Raise unless ``gradient`` is one, and can be recorded for ``problem``.

    Raises:
        TypeError: ``gradient`` is no gradient, or the library of the scores records none.
        ValueError: Something else than the scores (a mass) requires a gradient.
    """
    if not isinstance(gradient, Gradient):
        raise TypeError(f"gradient must be None, ImplicitGradient() or UnrolledGradient(), got {gradient!r}")
    if problem.ops.autograd is None:
        found = type(next(iter(problem.scores.sources.values())))
        raise TypeError(f"gradients need torch tensors, got scores of {found.__module__}.{found.__name__}: convert them first")
    for name, values in problem.given.items():
        if name not in problem.scores.sources and getattr(values, "requires_grad", False):
            raise ValueError(f"{name} requires a gradient, which only scores, points and centroids get: pass {name}.detach()")
