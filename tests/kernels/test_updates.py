"""The update of a store by kernels: sums by centroid and the step, against what torch makes of it."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import otcluster as otc
from otcluster._kernels import updates

# The interpreter warns of what a device does not: exponents of groups without samples.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in divide")
CLASSES, K, DIM = 5, 3, 20
STORES = {
    "means": {},
    "sums": {"averaging": otc.SumsAndCounts()},
    "sqeuclidean": {"metric": "sqeuclidean"},
    "sqeuclidean sums": {"metric": "sqeuclidean", "averaging": otc.SumsAndCounts()},
    "schedule": {"momentum": otc.CosineMomentum(0.5, 1.0, 3)},
    "number of a schedule": {"momentum": lambda done: 0.75, "averaging": otc.SumsAndCounts()},
    "float32 of a schedule": {"momentum": lambda done: 1 - 1 / (done + 2)},
    "all": {"momentum": 1},
    "some closed": {"n_centroids": [1, 3, 2, 3, 1]},
    "room": {"n_centroids": 2, "room": 3, "averaging": otc.SumsAndCounts()},
    "one": {"n_centroids": 1},
    "reseed": {"revival": otc.Reseed(patience=1)},
    "split": {"revival": otc.SplitLargest(patience=1), "averaging": otc.SumsAndCounts()},
}


class Twice:
    """Two ranks that have the same samples."""

    def sum(self, array):
        return array * 2

    def max(self, array):
        return array


class Asked(TorchDispatchMode):
    """The names of the operations that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def by(monkeypatch):
    """Have updates done by kernels, or by torch."""
    return lambda kernels: monkeypatch.setenv("OTCLUSTER_KERNELS", "1" if kernels else "0")


def make(place, **arguments):
    options = {"n_classes": CLASSES, "n_centroids": K, "dim": DIM, "momentum": 0.8, **arguments}
    return otc.CentroidStore(**options).to(place)


def draw(place, n=50, seed=0, dtype=torch.float32):
    """Features; labels, most of them of class 1, none of class 3, some out of range; choices, some out of range; a mask."""
    drawn = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, DIM, generator=drawn) + 0.5).to(dtype)
    labels = torch.tensor([-7, 0, 1, 1, 1, 2, 4, CLASSES, 300])[torch.randint(9, (n,), generator=drawn)]
    chosen = torch.randint(-1, K, (n,), generator=drawn)
    chosen = torch.where(torch.rand(n, generator=drawn) < 0.1, torch.tensor([-9, K, 77, -2])[torch.arange(n) % 4], chosen)
    return *(each.to(place) for each in (x, labels, chosen)), (torch.rand(n, generator=drawn) < 0.6).to(place)


def are_one(mine, theirs, rtol=1e-6, atol=1e-6):
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=rtol, atol=atol)


def both(by, place, steps, **arguments):
    """A store that kernels updated, and one that torch did, each with the same steps."""
    found = []
    for kernels in (True, False):
        by(kernels)
        store = make(place, **arguments)
        for step in steps:
            step(store)
        found.append(store)
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", STORES.values(), ids=STORES)
def test_updates_are_those_of_torch(place, by, options, masked):
    def step(seed):
        x, labels, chosen, mask = draw(place, seed=seed)
        if masked:
            x[~mask] = torch.nan
        return lambda store: store.update(x, labels, chosen, sample_mask=mask if masked else None, check_values=False)

    mine, theirs = both(by, place, [step(seed) for seed in range(3)], **options)
    assert not torch.equal(mine.age, torch.zeros_like(mine.age))
    assert mine.age.view(CLASSES, -1)[3].tolist() == [0] * mine.n_centroids  # no samples: nothing of it moves
    are_one(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_features_of_half_precision(place, by, dtype):
    x, labels, chosen, mask = draw(place, dtype=dtype)
    are_one(*both(by, place, [lambda store: store.update(x, labels, chosen, sample_mask=mask, check_values=False)]))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_and_choices_of_any_integers(place, by, kind):
    x, labels, chosen, _ = draw(place)
    labels, chosen = labels.clamp(0, CLASSES).to(kind), chosen.clamp(0, K).to(kind)
    are_one(*both(by, place, [lambda store: store.update(x, labels, chosen, check_values=False)]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_one_set_without_classes(place, by, n, masked):
    x, _, chosen, mask = draw(place, n)
    mask = mask if masked else None
    steps = [lambda store: store.update(x, None, chosen, sample_mask=mask, check_values=False)] * 2
    are_one(*both(by, place, steps, n_classes=None))


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_samples(place, by, n):
    x, labels, chosen = torch.ones(n, DIM, device=place), torch.full((n,), 2, device=place), torch.full((n,), 1, device=place)
    mine, theirs = both(by, place, [lambda store: store.update(x, labels, chosen)])
    are_one(mine, theirs)
    assert int(mine.n_updates) == 1
    assert int(mine.age.sum()) == n * K


@pytest.mark.parametrize(("dim", "k"), [(1, 1), (17, 32), (100, 5), (300, 2)])
def test_odd_sizes(place, by, dim, k):
    drawn = torch.Generator().manual_seed(dim)
    x = torch.randn(40, dim, generator=drawn).to(place)
    labels, chosen = (torch.randint(most, (40,), generator=drawn).to(place) for most in (CLASSES, k))
    step = lambda store: store.update(x, labels, chosen)  # noqa: E731
    are_one(*both(by, place, [step, step], dim=dim, n_centroids=k))


def test_sums_are_the_same_each_time_and_near_those_of_float64(place, monkeypatch):
    monkeypatch.setattr(updates, "_SPARE", 8 if place.type == "cuda" else 4)  # several programs share a class
    x, labels, chosen, mask = draw(place, 400)
    ids, order = torch.sort(labels, stable=True)
    starts = torch.searchsorted(ids, torch.arange(CLASSES + 1, device=place))
    is_open = torch.ones(CLASSES, K, dtype=torch.bool, device=place)
    fits = mask & (labels >= 0) & (labels < CLASSES) & (chosen >= 0) & (chosen < K)
    places = (labels * K + chosen)[fits]
    exact = torch.zeros(CLASSES * K, DIM, dtype=torch.float64, device=place).index_add_(0, places, x[fits].double())
    plain = torch.zeros(CLASSES * K, DIM, device=place).index_add_(0, places, x[fits])
    found = [updates.class_sums(x, order, starts, chosen, mask, is_open) for _ in range(3)]
    sums, counts, bad = updates.parted(found[0], CLASSES, K, DIM)
    for other in found[1:]:
        for one, two in zip((sums, counts, bad), updates.parted(other, CLASSES, K, DIM), strict=True):
            assert torch.equal(one, two)
    assert (sums - exact).abs().max() <= 2 * (plain - exact).abs().max()
    assert counts.tolist() == torch.bincount(places, minlength=CLASSES * K).tolist()
    for c in range(CLASSES):
        its = chosen[mask & (labels == c)]
        assert bad[c] == ((its < -1) | (its >= K)).sum()


def test_an_update_is_the_same_each_time(place, by):
    by(True)
    found = []
    for _ in range(2):
        store = make(place, averaging=otc.SumsAndCounts())
        for seed in range(3):
            x, labels, chosen, mask = draw(place, seed=seed)
            store.update(x, labels, chosen, sample_mask=mask, check_values=False)
        found.append(store.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def answer(store, x, labels):
    """Of which centroid of its class each sample is, by a grouped problem."""
    points = otc.PointScores(x, store.centroids, metric="cosine")
    problem = otc.Problem(points, groups=labels, n_groups=CLASSES, check_values=False)
    return otc.solve(problem, otc.SinkhornKnopp())


def test_rows_that_a_problem_has_sorted_are_not_sorted_again(place, by):
    x, labels, _, mask = draw(place)
    labels = labels.clamp(0, CLASSES - 1)
    steps = [lambda store: store.update(x, labels, answer(store, x, labels), sample_mask=mask, check_values=False)] * 2
    are_one(*both(by, place, steps))
    by(True)
    store = make(place)
    for given, sorts in ((labels, 0), (labels.clone(), 1)):
        solved = answer(store, x, labels)
        with Asked() as asked:
            store.update(x, given, solved, check_values=False)
        assert asked.names.count("sort") == sorts
    other = labels.flip(0).contiguous()  # of other labels than the update's
    solved = answer(store, x, other)
    one, two = make(place), make(place)
    one.update(x, labels, solved, check_values=False)
    two.update(x, labels, solved.labels(), check_values=False)
    are_one(one, two, rtol=0, atol=0)


def test_an_answer_knows_that_centroids_have_moved_since(place, by):
    by(True)
    x, labels, _, _ = draw(place)
    labels = labels.clamp(0, CLASSES - 1)
    store = make(place)
    solved = answer(store, x, labels)
    store.update(x, labels, solved, check_values=False)
    with pytest.raises(RuntimeError, match="centroids was changed in place"):
        solved.labels()


@pytest.mark.parametrize("averaging", [otc.MomentumMean(), otc.SumsAndCounts()], ids=repr)
def test_sums_of_several_ranks(place, by, averaging):
    x, labels, chosen, _ = draw(place)
    labels, chosen = labels.clamp(0, CLASSES - 1), chosen.clamp(-1, K - 1)
    steps = [lambda store: store.update(x, labels, chosen, reducer=Twice())] * 2
    mine, theirs = both(by, place, steps, averaging=averaging)
    are_one(mine, theirs)
    bad = chosen.clone()
    bad[0] = K
    by(True)
    with pytest.raises(ValueError, match=r"assignment must lie in \[-1, 3\)"):
        mine.update(x, labels, bad, reducer=Twice())
    are_one(mine, theirs)


def test_values_that_cannot_be_are_refused(place, by):
    by(True)
    x, labels, chosen, mask = draw(place)
    labels, chosen = labels.clamp(0, CLASSES - 1), chosen.clamp(-1, 0)
    store = make(place, n_centroids=[1, 3, 2, 3, 1])
    before = {name: value.clone() for name, value in store.state_dict().items()}
    last = torch.arange(len(x), device=place) == len(x) - 1
    of_four = torch.where(last, 4, labels)
    for features, given, choices, message in (
        (x, torch.where(last, CLASSES, labels), chosen, "labels must lie in"),
        (x, torch.where(last, -1, labels), chosen, "labels must lie in"),
        (x, labels, torch.where(last, K, chosen), "assignment must lie in"),
        (x, labels, torch.where(last, -2, chosen), "assignment must lie in"),
        (x, of_four, torch.where(last, 1, chosen), "a centroid that class 4 does not have"),
        (torch.where(last[:, None], torch.nan, x), labels, torch.where(last, 0, chosen), "features must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            store.update(features, given, choices)
        assert all(torch.equal(value, before[name]) for name, value in store.state_dict().items())
        if message != "features must be finite":
            store.update(features, given, choices, sample_mask=mask & ~last)
            store.load_state_dict(before)


def test_what_kernels_do_not_take_is_done_by_torch_or_refused(place, by, monkeypatch):
    x, labels, chosen, _ = draw(place)
    labels, chosen = labels.clamp(0, CLASSES - 1), chosen.clamp(-1, K - 1)

    class Shares(otc.MomentumMean):
        def shares(self, usage, counts, momentum):
            keep, add = super().shares(usage, counts, momentum)
            return keep[:1], add

    cases = [
        ({"dtype": torch.float64}, x, "float64 is updated without kernels"),
        ({}, x.double(), "float64 is computed without kernels"),
        ({}, x.T.contiguous().T, "not contiguous"),
        ({"n_centroids": 33}, x, "more than 32 centroids"),
        ({"averaging": Shares()}, x, "one share for each centroid"),
    ]
    if place.type == "cuda":
        cases.append(({"momentum": lambda done: torch.tensor(0.5)}, x, "momentum is on another device"))
    for options, features, reason in cases:
        by(False)
        theirs = make(place, **options)
        theirs.update(features, labels, chosen)
        monkeypatch.setenv("OTCLUSTER_KERNELS", "auto")
        mine = make(place, **options)
        mine.update(features, labels, chosen)
        are_one(mine, theirs)
        by(True)
        with pytest.raises(ValueError, match=reason):
            make(place, **options).update(features, labels, chosen)


def test_centroids_that_do_not_fit_on_chip_are_moved_by_torch(place, by):
    x = torch.ones(4, 8193, device=place)
    labels = torch.arange(4, device=place)
    by(True)
    with pytest.raises(ValueError, match="more than 8192 dimensions"):
        make(place, dim=8193).update(x, labels, labels * 0)
    many = torch.ones(4, 1, device=place)
    with pytest.raises(ValueError, match="more than 32 centroids"):
        make(place, dim=1, n_centroids=2000).update(many, labels, labels * 0)


@pytest.mark.parametrize(("averaging", "most"), [(otc.MomentumMean(), 20), (otc.SumsAndCounts(), 26)], ids=["means", "sums"])
def test_an_update_asks_torch_for_little(cuda, by, averaging, most):
    by(True)
    x, labels, chosen, _ = draw(cuda)
    store = make(cuda, averaging=averaging)
    with Asked() as asked:
        store.update(x, labels, chosen, check_values=False)
    assert len(asked.names) <= most, asked.names


@pytest.mark.parametrize("options", STORES.values(), ids=STORES)
def test_an_update_compiles_as_one_graph(cuda, by, options):
    by(True)
    plain, traced = make(cuda, **options), make(cuda, **options)
    torch.compiler.reset()
    update = torch.compile(traced.update, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x, labels, chosen, mask = draw(cuda, seed=seed)
        plain.update(x, labels, chosen, sample_mask=mask, check_values=False)
        update(x, labels, chosen, sample_mask=mask, check_values=False)
    are_one(traced, plain)


def test_a_graph_captures_an_update(cuda, by):
    by(True)
    x, labels, chosen, _ = draw(cuda)
    plain, captured = make(cuda), make(cuda)
    plain.update(x, labels, chosen, check_values=False)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        captured.update(x, labels, chosen, check_values=False)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.update(x, labels, chosen, check_values=False)
    for seed in (1, 2):
        for mine, given in zip((x, labels, chosen), draw(cuda, seed=seed), strict=False):
            mine.copy_(given)
        graph.replay()
        plain.update(x, labels, chosen, check_values=False)
    are_one(captured, plain)


@pytest.mark.parametrize("n_classes", [1000, 3])
def test_large_updates(cuda, by, n_classes):
    drawn = torch.Generator(device=cuda).manual_seed(0)
    x = torch.randn(16_384, 2048, device=cuda, generator=drawn)
    labels = torch.randint(n_classes, (16_384,), device=cuda, generator=drawn)
    labels[:6000] = 0
    chosen = torch.randint(4, (16_384,), device=cuda, generator=drawn)
    steps = [lambda store: store.update(x, labels, chosen)] * 2
    are_one(*both(by, cuda, steps, n_classes=n_classes, n_centroids=4, dim=2048), rtol=2e-6)
