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


META = {
    "dense": lambda: otc.Problem(torch.empty(N, K, device="meta", dtype=torch.bfloat16)),
    "masses": lambda: otc.Problem(
        torch.empty(2, N, K, device="meta"),
        sample_mass=torch.empty(2, N, device="meta"),
        cluster_share=torch.empty(K, device="meta"),
        assigned_mass=8.0,
    ),
    "groups": lambda: otc.Problem(
        torch.empty(N, K, device="meta"), groups=torch.empty(N, dtype=torch.int64, device="meta"), n_groups=GROUPS
    ),
    "points": lambda: otc.Problem(
        otc.PointScores(torch.empty(2, N, D, device="meta"), torch.empty(K, D, device="meta"), metric="cosine"), cluster_side=1
    ),
}


@pytest.mark.parametrize("make", META.values(), ids=META)
def test_tensors_without_values_have_answers_without_values(make):
    problem = make()
    answer = otc.solve(problem, otc.SinkhornKnopp())
    f, g = answer.potentials
    shapes = {
        (*problem.sample_shape, K): [answer.plan()],
        problem.sample_shape: [answer.labels(), f],
        (*problem.problem_shape, K): [answer.cluster_sizes(), g],
        problem.problem_shape: [answer.marginal_error, answer.n_iter],
    }
    for shape, found in shapes.items():
        assert {(tuple(each.shape), each.device.type) for each in found} == {(shape, "meta")}
    assert answer.plan().dtype == torch.float32
    for look in (lambda: otc.solve(problem, otc.LogSinkhorn()), answer.balanced_labels):
        with pytest.raises(TypeError, match="tensors on meta have no values: use fixed rounds"):
            look()


def test_a_default_device_elsewhere_moves_nothing():
    scores = torch.rand(N, 600)
    plain = [otc.nearest(scores).labels(), otc.log_sinkhorn(scores).plan(), otc.exact_balanced(scores[:, :K]).plan()]
    with torch.device("meta"):
        found = [otc.nearest(scores).labels(), otc.log_sinkhorn(scores).plan(), otc.exact_balanced(scores[:, :K]).plan()]
    for one, two in zip(plain, found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
