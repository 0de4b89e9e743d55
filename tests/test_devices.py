"""Work on a device that is not there: tensors without values, so that each look and each copy to or from the host is seen."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import otcluster as otc

N, K, D, GROUPS = 40, 6, 5, 3
SOLVERS = [otc.SinkhornKnopp(), otc.LogSinkhorn(max_iter=4, tol=None), otc.Nearest()]


class NoCopies(TorchDispatchMode):
    """Raises where the host gives a tensor to the device, or the other way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "_to_copy" in func.name():
            places = {args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type}
            assert places == {"cuda"}, f"copied between {' and '.join(sorted(places))}"
        return func(*args, **kwargs)


def there(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="cuda")


def ids(n=N):
    return torch.zeros(n, dtype=torch.int64, device="cuda")


def points(metric, *own, dtype=torch.float32):
    return otc.PointScores(there(N, D, dtype=dtype), there(*own, K, D, dtype=dtype), metric=metric)


def grouped():
    return {"groups": ids(), "n_groups": GROUPS}


PROBLEMS = {
    "dense": lambda: otc.Problem(there(N, K), check_values=False),
    "bfloat16": lambda: otc.Problem(there(N, K, dtype=torch.bfloat16), check_values=False),
    "float64": lambda: otc.Problem(there(N, K, dtype=torch.float64), check_values=False),
    "batch": lambda: otc.Problem(there(2, N, K), check_values=False),
    "masses": lambda: otc.Problem(there(N, K), sample_mass=there(N), cluster_share=there(K), check_values=False),
    "groups": lambda: otc.Problem(there(N, K), cluster_share=there(GROUPS, K), **grouped(), check_values=False),
    "relaxed": lambda: otc.Problem(there(N, K), cluster_side=0.5, check_values=False),
    "partial": lambda: otc.Problem(there(N, K), assigned_mass=8.0, check_values=False),
    **{
        f"points, {metric}": lambda metric=metric: otc.Problem(points(metric, dtype=torch.float16), check_values=False)
        for metric in ("dot", "cosine", "sqeuclidean")
    },
    **{
        f"points in groups, {metric}": lambda metric=metric: otc.Problem(
            points(metric, GROUPS), **grouped(), check_values=False
        )
        for metric in ("dot", "cosine", "sqeuclidean")
    },
}


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_fixed_rounds_look_at_nothing_and_stay(make, solver):
    with FakeTensorMode(), NoCopies():
        problem = make()
        if isinstance(solver, otc.Nearest) and (problem.cluster_side is not None or problem.assigned_mass is not None):
            pytest.skip("no case: Nearest has no masses to hold to")
        answer = otc.solve(problem, solver)
        found = [answer.plan(), answer.labels(), answer.cluster_sizes(), answer.marginal_error, answer.transport_value()]
        assert {value.device.type for value in (*found, *answer.potentials)} == {"cuda"}


def test_a_tolerance_and_checks_look():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        otc.Problem(there(N, K))
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        otc.solve(otc.Problem(there(N, K), check_values=False), otc.LogSinkhorn())


@pytest.mark.parametrize("averaging", [otc.MomentumMean(), otc.SumsAndCounts()], ids=lambda value: type(value).__name__)
def test_steps_of_stores_without_checks_look_at_nothing(averaging):
    with FakeTensorMode():
        store = otc.CentroidStore(n_classes=GROUPS, n_centroids=K, dim=D, momentum=0.9, averaging=averaging).to("cuda")
        queues = [otc.MemoryQueue(16, D).to("cuda"), otc.ClassQueue(16, D, n_classes=GROUPS).to("cuda")]
        with NoCopies():
            for assigned in (ids(), there(N, K)):
                store.update(there(N, D), ids(), assigned, check_values=False)
            for queue in queues:
                queue.push(there(N, D), ids(), check_values=False)
        assert store.centroids.device.type == "cuda"
