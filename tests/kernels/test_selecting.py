"""When kernels are taken and when not, why not, and that all of them are reached through the public face."""

from __future__ import annotations

import ast
import inspect
import logging

import pytest
import torch

import otcluster as otc
from otcluster._kernels import dense, grouped, long_rows, own, select, survey
from otcluster.dnc import DNCHead
from tests.kernels.conftest import INTERPRETED
from tests.kernels.public import both, device_like
from tests.kernels.reference import DTYPES, EPS, F16, F32, INF, are_best

__all__ = ["both", "device_like"]

MODULES = (dense, grouped, own, survey)
SOLVERS = {
    "three rounds": otc.SinkhornKnopp(),
    "to 1e-3": otc.SinkhornKnopp(0.1, 30, 1e-3),
    "of a head": otc.LogSinkhorn(max_iter=10, tol=0.01),
    "to 1e-6": otc.LogSinkhorn(0.1),
    "plain rounds": otc.LogSinkhorn(0.1, 7, None),
}
N, K, D, GROUPS = 41, 5, 24, 4


@pytest.fixture(autouse=True)
def unsaid():
    """Nothing was logged yet."""
    select._say.cache_clear()


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that were launched."""
    names = set()
    for module in MODULES:
        original = module.launch

        def watch(kernel, *args, original=original, **options):
            names.add(kernel.fn.__name__)
            original(kernel, *args, **options)

        monkeypatch.setattr(module, "launch", watch)
    return names


def drawn(place, *shape, dtype=F32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(place, dtype)


def in_groups(place, n=N):
    """Unsorted, with one sample in group 2 and none in group 3."""
    ids = torch.arange(n) * 5 % 2
    ids[7] = 2
    return {"groups": ids.to(place), "n_groups": GROUPS}


def problem_of(place, kind, dtype=F32, **more):
    if "points" in kind:
        centroids = drawn(place, GROUPS, K, D, dtype=dtype)
        source = otc.PointScores(drawn(place, N, D, dtype=dtype), centroids, metric="cosine")
    else:
        source = drawn(place, *([3] if kind == "batch" else []), N, K, dtype=dtype).tanh()
        if kind == "forbidden":
            source[::3, 1] = -INF
    if "groups" in kind:
        more |= in_groups(place)
    if kind == "masses" or kind == "groups with masses":
        more["sample_mass"] = drawn(place, N, seed=3).abs() * (torch.arange(N, device=place) % 6 > 0)
        share = drawn(place, *([GROUPS] if "groups" in kind else []), K, seed=4).abs() + 0.1
        share[..., 2] = 0
        more["cluster_share"] = share
    return otc.Problem(source, **more)


KINDS = ["dense", "batch", "masses", "forbidden", "groups", "groups with masses", "points in groups"]


def told(answer):
    """All that an answer says."""
    return {
        "plan": answer.plan(),
        "sizes": answer.cluster_sizes(),
        "error": answer.marginal_error,
        "f": answer.potentials[0],
        "g": answer.potentials[1],
        "value": answer.transport_value(),
    }


def agree(one, two, slack=2e-5):
    for name, (mine, theirs) in {name: (one[name], two[name]) for name in one}.items():
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine == -INF, theirs == -INF), name
        finite = theirs > -INF
        scale = max(1.0, float(theirs[finite].abs().max()) if finite.any() else 0.0)
        torch.testing.assert_close(mine[finite], theirs[finite], rtol=0, atol=slack * scale, msg=lambda text: f"{name}: {text}")


def labels_fit(answer):
    """Labels are where its plan is largest, to rounding."""
    plan, labels = answer.plan(), answer.labels()
    assert labels.dtype == torch.int64
    assert labels.shape == plan.shape[:-1]
    there = plan.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (plan.amax(-1) - there <= 1e-4 * plan.amax(-1)).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_that_without_kernels(place, both, kind, name):
    def ask():
        answer = otc.solve(problem_of(place, kind), SOLVERS[name])
        labels_fit(answer)
        return answer, told(answer)

    (mine, one), (theirs, two) = both(ask)
    # By rounding one may stop a round earlier, at the very tolerance.
    same = torch.equal(mine.n_iter, theirs.n_iter)
    agree(one, two, slack=2e-5 if same else 10 * (SOLVERS[name].tol or 0))
    assert mine.status is theirs.status or not same


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["dense", "groups", "points in groups"])
@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-3])
def test_dtypes_and_strengths(place, both, kind, dtype, epsilon):
    def ask():
        answer = otc.solve(problem_of(place, kind, dtype), otc.SinkhornKnopp(epsilon))
        return answer, answer.plan(), answer.labels()

    (answer, plan, labels), (_, other, others) = both(ask)
    # Cosines of the two paths are rounded at other places.
    assert (plan - other).abs().max() <= 64 * EPS * max(1, 1 / epsilon)
    assert labels.shape == others.shape
    if kind == "dense":
        are_best(labels, answer.problem.scores.given, answer.cluster_potential, epsilon)


@pytest.mark.parametrize("kind", KINDS)
def test_a_start(place, both, kind):
    start = drawn(place, *([3] if kind == "batch" else [GROUPS] if "groups" in kind else []), K, seed=7) / 10
    for solver in (otc.SinkhornKnopp(max_iter=2), otc.LogSinkhorn(max_iter=4, tol=1e-2)):
        agree(*both(lambda solver=solver: told(otc.solve(problem_of(place, kind), solver, start=(None, start)))))


@pytest.mark.parametrize("masses", [{"assigned_mass": 20.0}, {"cluster_side": 0.5}], ids=str)
@pytest.mark.parametrize("kind", ["dense", "forbidden"])
def test_partial_and_relaxed_problems(place, both, kind, masses):
    for solver in (otc.SinkhornKnopp(), otc.LogSinkhorn(0.1, tol=1e-5)):
        agree(*both(lambda solver=solver: told(otc.solve(problem_of(place, kind, **masses), solver))), slack=2e-4)


def test_a_relaxed_side_of_groups(place, both):
    agree(*both(lambda: told(otc.solve(problem_of(place, "groups", cluster_side=0.5), otc.SinkhornKnopp()))))


@pytest.mark.parametrize("kind", ["dense", "batch", "groups", "points in groups"])
def test_gradients(place, both, kind):
    def ask():
        problem = problem_of(place, kind)
        leaves = {name: each.clone().requires_grad_() for name, each in problem.scores.sources.items()}
        source = otc.PointScores(*leaves.values(), metric="cosine") if "points" in kind else leaves["scores"]
        given = in_groups(place) if "groups" in kind else {}
        answer = otc.solve(otc.Problem(source, **given), otc.SinkhornKnopp(0.2), gradient=otc.UnrolledGradient())
        weight = drawn(place, *answer.plan().shape, seed=9)
        ((answer.plan() * weight).sum() + answer.transport_value().sum()).backward()
        return {**{name: each.grad for name, each in leaves.items()}, "plan": answer.plan().detach()}

    agree(*both(ask), slack=1e-4)


def test_an_implicit_gradient(place, both):
    def ask():
        scores = problem_of(place, "dense").scores.given.clone().requires_grad_()
        answer = otc.solve(otc.Problem(scores), otc.LogSinkhorn(0.2), gradient=otc.ImplicitGradient())
        (answer.plan() * drawn(place, N, K, seed=9)).sum().backward()
        return {"scores": scores.grad}

    agree(*both(ask), slack=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_new_samples(place, both, kind):
    def ask():
        answer = otc.solve(problem_of(place, kind), otc.SinkhornKnopp(0.1))
        if "points" in kind:
            new = otc.PointScores(drawn(place, 13, D, seed=5), drawn(place, GROUPS, K, D), metric="cosine")
        else:
            new = drawn(place, *([3] if kind == "batch" else []), 13, K, seed=5).tanh()
        # Of the group that had no samples, too.
        groups = {"groups": torch.arange(13, device=place) % GROUPS} if "groups" in kind else {}
        found = answer.assign(new, **groups)
        labels_fit(found)
        return {"plan": found.plan(), "sizes": found.cluster_sizes(), "error": found.marginal_error}

    agree(*both(ask))


def test_labels_of_exact_sizes(place, both):
    scores = drawn(place, 40, K).tanh()
    for labels in both(lambda: otc.sinkhorn_knopp(scores).balanced_labels()):
        assert labels.bincount(minlength=K).tolist() == [8] * K


@pytest.mark.parametrize("options", [{}, {"n_subcentroids": [3, 1, 4]}, {"solver": otc.SinkhornKnopp()}], ids=str)
def test_a_head_observes(place, both, options):
    features, labels = drawn(place, 60, D), (torch.arange(60) * 7 % 3).to(place)

    def ask():
        head = DNCHead(D, n_classes=3, memory=90, **options).to(place)
        for _ in range(3):
            head.observe(features, labels)
        return {"centroids": head.subcentroids.clone(), "logits": head(features).detach()}

    agree(*both(ask), slack=1e-4)


def test_no_samples_and_no_groups(place, both):
    for shape, given in (
        ((0, K), {}),
        ((0, 4, K), {}),
        ((3, 0, K), {}),
        ((0, K), {"groups": torch.zeros(0, dtype=torch.int64, device=place), "n_groups": 3}),
        ((0, K), {"groups": torch.zeros(0, dtype=torch.int64, device=place), "n_groups": 0}),
    ):
        for solver in SOLVERS.values():
            mine, theirs = both(
                lambda shape=shape, given=given, solver=solver: otc.solve(
                    otc.Problem(torch.zeros(shape, device=place), **given), solver
                )
            )
            assert mine.labels().shape == theirs.labels().shape == shape[:-1]
            assert torch.equal(mine.cluster_sizes(), theirs.cluster_sizes())
            assert torch.equal(mine.marginal_error, theirs.marginal_error)


def test_all_kernels_are_reached(place, monkeypatch, device_like, launched):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    if INTERPRETED:
        monkeypatch.setattr(dense, "_FEW", 4096)
        monkeypatch.setattr(dense, "_COLUMNS", 8192)
    wide = drawn(place, 2, dense.WIDEST + 10, dtype=F16)
    for answer in (
        otc.sinkhorn_knopp(wide),
        *(otc.solve(problem_of(place, kind), SOLVERS["three rounds"]) for kind in ("dense", "points in groups")),
    ):
        answer.labels()
        answer.plan()
        answer.cluster_sizes()
    assert launched == kernels_of((*MODULES, long_rows))


def kernels_of(modules):
    """What they launch themselves: kernels that no other kernel calls."""
    found = set()
    for module in modules:
        functions = [each for each in ast.parse(inspect.getsource(module)).body if isinstance(each, ast.FunctionDef)]
        jits = [each for each in functions if any(getattr(mark, "id", "") == "jit" for mark in each.decorator_list)]
        called = {
            node.func.id for each in jits for node in ast.walk(each) if isinstance(node, ast.Call) and hasattr(node.func, "id")
        }
        found |= {each.name for each in jits} - called
    assert len(found) > len(modules)
    return found


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("dense", "three rounds", {"_first_part", "_columns_part", "_merged"}),
        ("batch", "to 1e-6", {"_first_part", "_columns_part", "_merged"}),
        ("groups", "three rounds", {"_rounds"}),
        ("groups", "of a head", {"_rounds"}),
        ("groups", "to 1e-3", {"_rounds"}),
        ("points in groups", "three rounds", {"_rounds", "_own"}),
        ("points in groups", "of a head", {"_rounds", "_own"}),
        ("groups", "to 1e-6", set()),  # by steps that are no rounds
    ],
)
def test_which_kernels_solve(place, monkeypatch, launched, kind, name, expected):
    for asked in ("auto", "0"):
        monkeypatch.setenv("OTCLUSTER_KERNELS", asked)
        assert launched_for(place, launched, kind, name) == (set() if asked == "0" else expected)


@pytest.mark.parametrize("asked", ["1", None])
def test_they_are_the_same_where_kernels_must_be_taken_and_where_nobody_says(place, monkeypatch, launched, asked):
    if asked is None:
        monkeypatch.delenv("OTCLUSTER_KERNELS", raising=False)
    else:
        monkeypatch.setenv("OTCLUSTER_KERNELS", asked)
    assert launched_for(place, launched, "points in groups", "of a head") == {"_rounds", "_own"}
    assert launched_for(place, launched, "groups", "to 1e-6") == set()


def launched_for(place, launched, kind, name):
    problem = problem_of(place, kind)
    launched.clear()
    otc.solve(problem, SOLVERS[name])
    return launched


@pytest.mark.parametrize("value", ["yes", "", "2", "AUTO"])
def test_other_values_are_refused(place, monkeypatch, value):
    monkeypatch.setenv("OTCLUSTER_KERNELS", value)
    with pytest.raises(ValueError, match=f"OTCLUSTER_KERNELS must be auto, 0 or 1, got '{value}'"):
        otc.sinkhorn_knopp(drawn(place, N, K))


def refused(place):
    """Problems that no kernel takes, and why."""
    dense_scores, many = drawn(place, N, K), {"groups": torch.zeros(N, dtype=torch.int64, device=place), "n_groups": 1}
    return {
        "float64 is computed without kernels": lambda: otc.Problem(dense_scores.double(), check_values=False),
        "not contiguous: call .contiguous()": lambda: otc.Problem(drawn(place, K, N).T, check_values=False),
        "groups of more than 128 clusters": lambda: otc.Problem(drawn(place, N, 129), **many, check_values=False),
        "more than 65536 rows": lambda: otc.Problem(
            torch.zeros(70_000, 1, device=place),
            groups=torch.zeros(70_000, dtype=torch.int64, device=place), n_groups=1, check_values=False,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("reason", ["float64", "not contiguous", "groups of more", "more than 65536"])
def test_what_no_kernel_takes(place, monkeypatch, caplog, launched, device_like, reason):
    reason, make = next((text, make) for text, make in refused(place).items() if reason in text)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    with pytest.raises(ValueError, match=r"no kernel does .*: .* Mend that, or unset OTCLUSTER_KERNELS") as told:
        otc.solve(make(), otc.SinkhornKnopp())
    assert reason in str(told.value)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "auto")
    with caplog.at_level(logging.INFO, "otcluster"):
        answers = [otc.solve(make(), otc.SinkhornKnopp()).plan() for _ in range(2)]
    assert [reason in each.getMessage() for each in caplog.records].count(True) == 1  # said once
    caplog.clear()
    monkeypatch.setenv("OTCLUSTER_KERNELS", "0")
    with caplog.at_level(logging.INFO, "otcluster"):
        assert torch.equal(answers[0], otc.solve(make(), otc.SinkhornKnopp()).plan())
    assert not caplog.records  # nobody asked
    assert not launched


def test_triton_is_absent(place, monkeypatch, caplog, launched):
    monkeypatch.setattr(select, "_ABSENT", "triton is not installed")
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    with pytest.raises(ValueError, match="triton is not installed"):
        otc.sinkhorn_knopp(drawn(place, N, K))
    monkeypatch.setenv("OTCLUSTER_KERNELS", "auto")
    with caplog.at_level(logging.INFO, "otcluster"):
        otc.sinkhorn_knopp(drawn(place, N, K)).labels()
    assert "no kernel does rounds over scores: triton is not installed" in caplog.text
    assert not launched


def test_a_host_has_no_kernels(monkeypatch, caplog, launched):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    with caplog.at_level(logging.INFO, "otcluster"):
        otc.sinkhorn_knopp(torch.rand(N, K)).labels()
    assert not caplog.records
    assert not launched


def test_scores_changed_since_are_refused(place, monkeypatch):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    scores = drawn(place, N, K)
    answer = otc.sinkhorn_knopp(scores)
    scores += 1
    for ask in (answer.labels, answer.plan, answer.cluster_sizes):
        with pytest.raises(RuntimeError, match="was changed in place"):
            ask()


@pytest.mark.parametrize("kind", ["dense", "groups", "points in groups"])
def test_answers_are_their_own_and_the_same_each_time(place, monkeypatch, kind):
    monkeypatch.setenv("OTCLUSTER_KERNELS", "1")
    one, two = (otc.solve(problem_of(place, kind), SOLVERS["of a head"]) for _ in range(2))
    for name, ask in {"labels": one.labels, "sizes": one.cluster_sizes, "plan": one.plan}.items():
        first = ask()
        kept = first.clone()
        first.zero_()
        assert torch.equal(ask(), kept), name
    assert torch.equal(one.cluster_potential, two.cluster_potential)
    assert torch.equal(one.labels(), two.labels())
    if kind == "dense":
        assert torch.equal(one.plan(), two.plan())


def test_old_devices_have_none(monkeypatch):
    found = {"capability": (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found["capability"])
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select._too_old(torch.device("cuda", 0)) == "the device has compute capability 7.5, and kernels need 8.0"
    found["capability"] = (8, 0)
    assert select._too_old(torch.device("cuda", 0)) is None
    assert select._too_old(torch.device("cpu")) is None


def test_without_a_compiler_there_are_none(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(select.shutil, "which", lambda name: None)
    assert "C compiler" in select._what_is_missing()
    monkeypatch.setattr(select.shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    assert select._what_is_missing() is None
