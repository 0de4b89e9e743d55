"""Pixels on several processes: one model, and that of one process."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from otcluster.dnc import train
from otcluster.dnc.pixels.task import PixelTask
from tests import processes
from tests.dnc.pixel_files import pixel_recipe, write_folders

pytestmark = [
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore:You passed"),
]

# Batches of three images: the second rank has one of them, or where it has a tenth, none.
CHANGES = [
    "pixels.aux_weight=0.4", "data.batch_size=3", "train.precision=64-true", "optim.lr=0.01",
    "train.accelerator=cpu", "head.momentum=0.9", "pixels.per_class=40", "train.timeout=45",
]  # fmt: skip
RUNS = {"dnc": [], "linear": ["head.kind=linear"], "averaged": ["train.ema=0.5"]}
SHARES = {"dnc": "train.shares=[2,1]", "linear": "train.shares=[2,1]", "averaged": "train.shares=[9,1]"}
STATISTICS = "statistics"


def plain(task, model):
    """For a step: norms by the statistics that are kept, since those of a batch are of each rank's part, and no dropout."""
    model.eval()


def work(folder):
    """What each of two processes does."""
    torch.set_num_threads(1)
    rank, finish, learn_mode = int(os.environ["RANK"]), PixelTask.finish, PixelTask.learn_mode

    def watched(task, model, files, *rest):
        save_file({name: each.contiguous() for name, each in model.state_dict().items()}, folder / f"{files.root.name}-{rank}")
        return finish(task, model, files, *rest)

    PixelTask.finish, PixelTask.learn_mode = watched, plain
    for name, changes in RUNS.items():
        train(pixel_recipe(folder / "images", *CHANGES, *changes, SHARES[name]), folder / name)
    PixelTask.learn_mode = learn_mode
    train(pixel_recipe(folder / "images", *CHANGES, "pixels.network=deeplabv3", "pixels.output_stride=16"), folder / STATISTICS)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixel-ranks")
    write_folders(folder / "images")
    processes.run_ranks(2, "tests.dnc.test_pixel_ranks:work", folder)
    return folder


@pytest.mark.parametrize("name", [*RUNS, STATISTICS])
def test_all_ranks_end_with_the_same_model(ranks, name):
    first, second = (load_file(ranks / f"{name}-{rank}") for rank in range(2))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    if name != "linear":
        assert first["head.store.started"].all()


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_end_with_the_model_and_the_results_of_one_process(ranks, tmp_path, monkeypatch, name):
    monkeypatch.setattr(PixelTask, "learn_mode", plain)
    metrics = train(pixel_recipe(ranks / "images", *CHANGES, *RUNS[name]), tmp_path / "run")
    both, last = (tmp_path / "run", ranks / name), f"step-{metrics['steps']}"
    one, many = (load_file(each / "checkpoints" / last / "model.safetensors") for each in both)
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=0, atol=1e-8, msg=key)
    found = json.loads((ranks / name / "metrics.json").read_text())
    assert found["test"] == metrics["test"]
    rows = [[line.split(",") for line in (each / "history.csv").read_text().splitlines()[1:]] for each in both]
    torch.testing.assert_close(*(torch.tensor([[float(cell) for cell in row] for row in each]) for each in rows))
