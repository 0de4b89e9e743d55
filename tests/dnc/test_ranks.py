"""Training on several processes: the model of one process, whoever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from typer.testing import CliRunner

from otcluster.dnc import DNCHead, load_recipe, load_run, train
from otcluster.dnc.commands import app
from otcluster.dnc.errors import DataError, RecipeError
from otcluster.dnc.ranks import Ranks
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted
from otcluster.runs.ranks import announced
from tests import processes
from tests.dnc.conftest import small, write_images

gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
pytestmark = pytest.mark.filterwarnings("ignore:You passed")

# Two epochs of 25 steps; layer norms, no statistics of batches. Of this seed's first batch all classes start. (The plan of a
# single sample of a class is the same for all sub-centroids, and rounding decides.)
CHANGES = [
    "backbone.name=test_vit", "data.image_size=16", "data.batch_size=57", "memory.capacity=200", "optim.lr=0.01",
    "optim.name=sgd", "train.epochs=2", "train.precision=64-true", "train.seed=23", "train.accelerator=cpu",
    "train.checkpoint_steps=10",
]  # fmt: skip
SHARES = "train.shares=[3,1]"
PLAIN = ["backbone.name=test_vit", "train.precision=64-true", "optim.name=sgd", "optim.lr=0.01"]
OTHERS = {
    "simclr": ["head.kind=simclr", "data.augment=crop", *PLAIN],
    "knn": ["head.kind=knn", *PLAIN],
    "anchored": ["train.epochs=2", "explain.anchor_epochs=1", *PLAIN],
}
STOPPED, KILLED, TIMEOUT = 7, 23, 45


def work(folder):
    """What each of two processes does; the tests below look at what they leave."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found = {"broken": on_broken_images(folder, rank)}
    for name, changes in OTHERS.items():
        train(small(folder / f"{rank}", *changes, "data.broken=skip", "train.accelerator=cpu", SHARES), folder / name)
    observe, steps = DNCHead.observe, []

    def harmed(head, features, labels, *, reducer=None):
        steps.append(len(labels))
        if rank == 1 and len(steps) == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)
        if rank == 1 and len(steps) == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return observe(head, features, labels, reducer=reducer)

    DNCHead.observe = harmed
    recipe = load_recipe("digits", [*CHANGES, SHARES, f"train.timeout={TIMEOUT}"])
    with pytest.raises(Interrupted) as stopped:
        train(recipe, folder / "run")
    found["stopped"] = stopped.value.exit_code, str(stopped.value)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    before = time.perf_counter()
    with pytest.raises(RunError) as lost:
        train(recipe, folder / "run")
    found["lost"], found["seconds"], found["rows"] = str(lost.value), time.perf_counter() - before, steps
    (folder / f"{rank}.json").write_text(json.dumps(found))


def on_broken_images(folder, rank):
    """Batches of two, where the second rank has no images; the first image of all cannot be read."""
    write_images(folder / f"{rank}" / "train", n=8)
    write_images(folder / f"{rank}" / "test", n=2, seed=1)
    (folder / f"{rank}" / "train" / "cat" / "000.png").write_bytes(b"no image")
    changes = ["data.batch_size=2", "train.accelerator=cpu", SHARES]
    with pytest.raises(DataError if rank == 0 else RunError) as refused:
        train(small(folder / f"{rank}", *changes), folder / "refused")
    metrics = train(small(folder / f"{rank}", *changes, "data.broken=skip"), folder / "skipped")
    for kind in ("dnc", "linear"):  # no parameter to learn, and those of the head alone
        frozen = small(folder / f"{rank}", *changes, "data.broken=skip", "backbone.frozen=true", f"head.kind={kind}")
        assert train(frozen, folder / f"frozen-{kind}")["steps"] == metrics["steps"]
    return str(refused.value), metrics["test"]["images"], metrics["steps"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The folder that the two processes leave: a run of which one was killed."""
    folder = tmp_path_factory.mktemp("ranks")
    both = processes.end(processes.start_ranks(2, "tests.dnc.test_ranks:work", folder))
    assert [code for code, *_ in both] == [0, -signal.SIGKILL], both
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(load_recipe("digits", CHANGES), out)
    return out


def model_of(run):
    return load_file(run / "checkpoints" / "step-50" / "model.safetensors")


def assert_ends_as(run, whole):
    """The same model to 1e-8, and so the same results."""
    expected = model_of(whole)
    assert expected["head.store.centroids"].dtype == torch.float64
    assert expected["head.store.started"].all()
    for name, value in model_of(run).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-8, msg=name)
    one, many = (json.loads((each / "metrics.json").read_text()) for each in (whole, run))
    clocks = {"seconds": 0, "dnc_share": 0}
    assert one.pop("subcentroids") == pytest.approx(many.pop("subcentroids"), abs=2e-6)
    assert {**one, **clocks} == {**many, **clocks}
    assert one["test"]["images"] == 359
    assert int(TypicalImages.load(load_run(run).files).sizes.sum()) == 1438
    rows = [[line.split(",") for line in (each / "history.csv").read_text().splitlines()[1:]] for each in (whole, run)]
    torch.testing.assert_close(*(torch.tensor([[float(cell) for cell in row] for row in each]) for each in rows))


@gloo
def test_a_rank_that_is_killed_ends_the_others(ranks):
    found = json.loads((ranks / "0.json").read_text())
    assert f"another rank has ended, or has not answered for train.timeout={TIMEOUT} seconds" in found["lost"]
    assert found["seconds"] < TIMEOUT
    assert not (ranks / "run" / "metrics.json").exists()
    assert set(found["rows"]) == {43}  # of 57 images, 3 : 1


@gloo
def test_a_signal_to_one_rank_stops_all_after_the_same_step(ranks):
    for rank in range(2):
        code, message = json.loads((ranks / f"{rank}.json").read_text())["stopped"]
        assert code == 128 + signal.SIGTERM
        assert message.startswith(f"stopped by SIGTERM after step {STOPPED};")


@gloo
def test_a_broken_image_of_one_rank_is_refused_or_skipped_on_all(ranks):
    for rank in range(2):
        refused, n_test, n_steps = json.loads((ranks / f"{rank}.json").read_text())["broken"]
        assert "cat/000.png cannot be read" in refused
        assert refused.startswith("on rank 0: ") == (rank == 1)
        assert (n_test, n_steps) == (6, 12)


@gloo
def test_it_is_gone_on_with_in_one_process_and_ends_as_if_nothing_had_been(ranks, whole, tmp_path):
    shutil.copytree(ranks / "run", tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "step-20"
    train(load_recipe("digits", CHANGES), tmp_path / "run")
    assert_ends_as(tmp_path / "run", whole)


@gloo
def test_under_torchrun_with_shards_of_3_to_1_the_run_ends_with_the_centroids_of_one_process(ranks, whole, tmp_path):
    shutil.copytree(ranks / "run", tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "otcluster"]
    done = subprocess.run(
        [*command, "dnc", "train", "digits", *CHANGES, SHARES, "--out", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("going on from step 20, epoch 1") == done.stdout.count("test accuracy") == 1
    assert_ends_as(tmp_path / "run", whole)


@gloo
@pytest.mark.parametrize("name", OTHERS)
def test_others_on_two_ranks_end_as_in_one_process(ranks, tmp_path, name):
    metrics = train(small(ranks / "0", *OTHERS[name], "data.broken=skip", "train.accelerator=cpu"), tmp_path / "run")
    last = f"step-{metrics['steps']}"
    one, many = (load_file(each / "checkpoints" / last / "model.safetensors") for each in (tmp_path / "run", ranks / name))
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=0, atol=1e-8, msg=key)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"),
        (
            {"OMPI_COMM_WORLD_SIZE": "4"},
            r"mpirun started 4 processes \(OMPI_COMM_WORLD_SIZE\), each of which would",
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a number of processes, and is '0'"),
    ],
)
def test_a_launcher_whose_processes_the_loop_does_not_see_is_an_error(monkeypatch, tmp_path, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        train(load_recipe("digits", CHANGES), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@gloo
def test_a_process_group_of_another_size_is_an_error(monkeypatch):
    for name, value in processes.variables(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert announced() == 2
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RunError, match="there is a process group of 1 ranks, and WORLD_SIZE is 2"):
            announced()
    finally:
        dist.destroy_process_group()


EVAL, PREDICT, TRAIN = ["eval", "RUN"], ["predict", "RUN", "a.png"], ["train", "digits", "--out", "RUN"]


# Processes that can find each other are what training is for.
@pytest.mark.parametrize(("command", "seen"), [(EVAL, True), (PREDICT, True), (EVAL, False), (PREDICT, False), (TRAIN, False)])
def test_the_command_line_ends_with_2_where_processes_may_not_be(monkeypatch, tmp_path, command, seen):
    for name, value in (processes.variables(0, 2, 1) if seen else {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, [str(tmp_path / "run") if part == "RUN" else part for part in command])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {command[0]} runs in one process" if seen else "error: WORLD_SIZE is 2 and RANK")
    assert not list(tmp_path.iterdir())


class _Fabric:
    def __init__(self, rank, n):
        self.global_rank, self.world_size = rank, n


def test_parts_of_all_ranks_are_the_batch():
    for shares, sizes in (([3, 1], [8, 2]), ([0.1, 9], [0, 10]), (None, [5, 5]), (None, [3, 4, 3])):
        parts = [Ranks(_Fabric(rank, len(sizes)), shares).part(list(range(10))) for rank in range(len(sizes))]
        assert [each for part in parts for each in part] == list(range(10))
        assert [len(part) for part in parts] == sizes


def test_shares_are_of_as_many_ranks_as_there_are(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.shares is of 2 ranks, and there are 1: one share for each, or null"):
        train(load_recipe("digits", [*CHANGES, SHARES]), tmp_path / "run")
    for shares in ("[1,0]", "[-1]", "[.inf]"):
        with pytest.raises(RecipeError, match=r"train\.shares must be null or positive numbers"):
            load_recipe("digits", [f"train.shares={shares}"])
