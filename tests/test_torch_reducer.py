"""TorchReducer between processes; whatever else ranks may do wrong is tried with ranks that are threads, in test_sharded."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

import otcluster as otc
from otcluster.dnc import DNCHead
from tests import processes
from tests.strategies import clustered_scores

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")

N_RANKS = 4
EPSILON = 0.1
SOLVERS = {
    "sinkhorn": otc.SinkhornKnopp(EPSILON),
    "newton": otc.LogSinkhorn(EPSILON),
    "rounds": otc.LogSinkhorn(EPSILON, acceleration=otc.PlainRounds()),
    "nearest": otc.Nearest(),
}
# Which ranks share the rows, and where the rows of one end and those of the next begin.
SPLITS = {"1 to 4": ([0, 1, 2, 3], [64, 300, 301]), "an empty rank": ([0, 2, 3], [64, 64]), "two": ([1, 3], [384])}
LATE = 2.0  # seconds that ranks wait for one that does not come


def scores_of(library):
    scores = clustered_scores(512, 16)
    return torch.from_numpy(scores).float() if library == "torch" else scores


def rows_of(array, cuts, rank):
    start, stop = list(itertools.pairwise([0, *cuts, len(array)]))[rank]
    return array[start:stop]


class Counting(otc.TorchReducer):
    """Counts the numbers that are exchanged."""

    def __init__(self, group=None):
        super().__init__(group)
        self.sizes = []

    def _reduced(self, array, operation):
        self.sizes.append(array.size if isinstance(array, np.ndarray) else array.numel())
        return super()._reduced(array, operation)


def work(folder):
    """What each of the processes does; the tests below look at what it leaves."""
    rank = int(os.environ["RANK"])
    early = otc.TorchReducer()  # as in a model that is built before the launcher connects the ranks
    with pytest.raises(RuntimeError, match="WORLD_SIZE is '4' and there is no process group"):
        early.sum(torch.zeros(1))
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {"plans": {}, "exchanged": {}}
    for name, (members, cuts) in SPLITS.items():
        group = dist.new_group(members, timeout=timedelta(seconds=60)) if len(members) < N_RANKS else None
        if rank not in members:
            with pytest.raises(ValueError, match="this rank is not in group"):
                otc.TorchReducer(group)
            continue
        at = members.index(rank)
        for library in ("torch", "numpy"):
            own = rows_of(scores_of(library), cuts, at)
            for solver in SOLVERS:
                reducer = Counting(group)
                answer = otc.solve(otc.Problem(own, sharded=True), SOLVERS[solver], reducer=reducer)
                g, error = answer.potentials[1], answer.marginal_error
                found["plans"][name, library, solver] = answer.plan(), answer.labels(), g, error, answer.n_iter
                found["exchanged"][name, library, solver] = reducer.sizes
        assert (reducer.rank, reducer.n_ranks) == (at, len(members))
        found["gathered", name] = reducer.gather(rows_of(torch.arange(512), cuts, at))
        assert copy.deepcopy({"reducer": otc.TorchReducer(group)})["reducer"].group is group
    found["reduced"] = {
        str(dtype): (early.sum(torch.full((2, 3), rank + 1, dtype=dtype)), early.max(torch.tensor([rank, -rank], dtype=dtype)))
        for dtype in (torch.float32, torch.float64, torch.int64)
    }
    assert early.sum(torch.zeros(0, 3)).shape == (0, 3)
    assert early.gather(torch.zeros(0, 3)).shape == (0, 3)
    found["errors"] = errors_on(rank, early)
    found["learnt"] = {name: learn(early, wrap) for name, wrap in WRAPPERS.items()}
    group = dist.new_group(timeout=timedelta(seconds=LATE))
    dist.barrier()
    if rank == 3:
        time.sleep(2 * LATE)
    else:
        found["late"] = failed(otc.TorchReducer(group))
    dist.barrier()
    if rank == 3:
        torch.save(found, folder / f"{rank}.pt")
        os._exit(0)  # without a word to the others
    found["gone"] = failed(early)
    torch.save(found, folder / f"{rank}.pt")
    os._exit(0)  # nobody is left to take leave of


def sharded(backbone):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(backbone, mesh=dist.init_device_mesh("cpu", (N_RANKS,)))


WRAPPERS = {"DDP": torch.nn.parallel.DistributedDataParallel, "FSDP2": sharded}


def learn(reducer, wrap=lambda backbone: backbone):
    """Sub-centroids after some steps of a user's own loop, as the page on several processes shows it."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    head = DNCHead(6, 3, n_subcentroids=2, momentum=0.9, memory=60).double()
    backbone = wrap(torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh()).double())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    for _ in range(5):
        batch = torch.from_numpy(rng.normal(size=(24, 8))), torch.from_numpy(rng.integers(0, 3, 24))
        cuts = [24] if reducer.n_ranks == 1 else [7, 7, 20, 24]
        x, y = (each[[0, *cuts][reducer.rank] : cuts[reducer.rank]] for each in batch)
        features = backbone(x)
        n = reducer.sum(torch.tensor([len(y)])).item()
        loss = torch.nn.functional.cross_entropy(head(features), y, reduction="sum") * (reducer.n_ranks / n)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        head.observe(features, y, reducer=reducer)
    return head.state_dict()


def errors_on(rank, reducer):
    scores = clustered_scores(10, 3)
    if rank == 2:
        scores[4] = np.nan
    with pytest.raises(ValueError, match="must not be NaN") as raised:
        otc.solve(otc.Problem(scores, sharded=True), otc.SinkhornKnopp(), reducer=reducer)
    return str(raised.value)


def failed(reducer):
    """What an exchange that fails says, and how long it took to."""
    before = time.perf_counter()
    with pytest.raises(RuntimeError, match="an exchange with the other ranks failed") as raised:
        otc.solve(otc.Problem(torch.rand(4, 2), sharded=True), otc.SinkhornKnopp(), reducer=reducer)
    return str(raised.value), time.perf_counter() - before


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes.run_ranks(N_RANKS, "tests.test_torch_reducer:work", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(N_RANKS)]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize("split", SPLITS)
def test_law_sharded_is_whole_between_processes(ranks, split, library, solver):
    one = otc.solve(otc.Problem(scores_of(library)), SOLVERS[solver])
    parts = [ranks[rank]["plans"][split, library, solver] for rank in SPLITS[split][0]]
    for part in parts[1:]:  # to the bit, or the loops of the ranks could end at different rounds
        for mine, theirs in zip(parts[0][2:], part[2:], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    plan, labels = (np.concatenate([np.asarray(part[at]) for part in parts]) for at in range(2))
    assert type(parts[0][0]) is type(one.plan())
    assert parts[0][0].dtype == one.plan().dtype
    expected = np.asarray(one.plan())
    np.testing.assert_allclose(plan, expected, rtol=0, atol=1e-6)
    best = np.sort(expected, 1)
    clear = best[:, -1] - best[:, -2] > 1e-5
    np.testing.assert_array_equal(labels[clear], np.asarray(one.labels())[clear])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_round_exchanges_about_k_numbers(ranks, solver):
    about, totals, *rounds = ranks[0]["exchanged"]["1 to 4", "torch", solver]
    assert about < 30
    assert totals == 3
    assert max(rounds) <= (16 * 16 if solver == "newton" else 16 + 1)


def test_sums_and_maxima_keep_the_dtype(ranks):
    for rank in ranks:
        for dtype, (total, most) in rank["reduced"].items():
            assert str(total.dtype) == str(most.dtype) == dtype
            assert torch.equal(total, torch.full_like(total, 1 + 2 + 3 + 4))
            assert most.tolist() == [3, 0]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_gathered_in_the_order_of_the_ranks(ranks, split):
    for rank in SPLITS[split][0]:
        assert torch.equal(ranks[rank]["gathered", split], torch.arange(512))


def test_the_error_of_one_process_is_raised_on_all(ranks):
    for rank, found in enumerate(ranks):
        assert found["errors"].startswith("on another rank: ") == (rank != 2)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_loop_under_ddp_and_fsdp2_learns_what_one_process_learns(ranks, wrapper):
    whole = learn(otc.TorchReducer())
    assert whole["store.started"].all()
    for found in ranks:
        for name, value in found["learnt"][wrapper].items():
            assert torch.equal(value, ranks[0]["learnt"][wrapper][name])
            torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-12)  # sums in another order


@pytest.mark.parametrize("what", ["late", "gone"])
def test_ranks_do_not_wait_for_ever(ranks, what):
    for found in ranks[:3]:
        message, seconds = found[what]
        assert "has not answered within the timeout" in message
        assert seconds < 30


def test_alone_nothing_is_exchanged_and_no_group_needed(monkeypatch):
    reducer = otc.TorchReducer()
    for array in (torch.rand(3), np.ones(3), [1]):
        assert reducer.sum(array) is reducer.max(array) is reducer.gather(array) is array
    assert (reducer.rank, reducer.n_ranks, repr(reducer)) == (0, 1, "TorchReducer()")
    for announced in ("1", "", "many"):
        monkeypatch.setenv("WORLD_SIZE", announced)
        assert reducer.n_ranks == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    for exchange in (reducer.sum, reducer.max, reducer.gather):
        with pytest.raises(RuntimeError, match=r"WORLD_SIZE is '2' and there is no process group: call torch\.distributed"):
            exchange(torch.zeros(2))


def test_what_is_no_group_is_refused():
    for group in ("gloo", 2, object()):
        with pytest.raises(TypeError, match="group must be a process group"):
            otc.TorchReducer(group)


def test_copies_share_the_group_and_a_group_stays_where_it_is():
    assert isinstance(pickle.loads(pickle.dumps(otc.TorchReducer())), otc.TorchReducer)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        reducer = otc.TorchReducer(dist.group.WORLD)
        assert copy.deepcopy(reducer).group is reducer.group
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(reducer)
    finally:
        dist.destroy_process_group()
    with pytest.raises(RuntimeError, match="there is no process group"):
        reducer.sum(torch.zeros(2))


def test_other_arrays_are_named():
    import array_api_strict

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(TypeError, match="torch tensors and NumPy arrays, got Array"):
            otc.TorchReducer()._sent(array_api_strict.zeros(2))
    finally:
        dist.destroy_process_group()
