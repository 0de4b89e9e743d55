"""What a run says of its sub-centroids, and of the time that they take."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from otcluster.dnc import DNCHead, load_run, train
from otcluster.dnc.distinctness import of_images, of_usage, within_class_cosines
from otcluster.dnc.stopwatch import StepWatch, Times
from otcluster.dnc.typical import TypicalImages
from otcluster.metrics import perplexity
from tests.dnc.conftest import small


def head_at(centroids, counts):
    head = DNCHead(2, 2, n_subcentroids=counts)
    head.store.centroids.copy_(centroids)
    return head


def test_pairs_are_of_one_class_and_of_what_it_has():
    turned = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.8, 0.6], [0.0, 0.0]]])
    head = head_at(turned, [3, 2])
    found = within_class_cosines(head.subcentroids, head.store.is_open)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.6, 0.8, 0.8]))
    summary = of_usage(head)
    assert summary == {"cosine_mean": pytest.approx(0.55), "cosine_max": 0.8, "perplexity": None, "dead_share": None}


def test_what_images_say_is_what_the_metrics_of_sizes_say():
    head = head_at(torch.eye(2).repeat(2, 2, 1)[:, :3], [3, 2])
    sizes = torch.tensor([[90, 9, 1], [30, 30, 0]])
    found = of_images(head, sizes)
    mean = (perplexity([90, 9, 1]) + perplexity([30, 30])) / 2
    assert found["perplexity"] == pytest.approx(mean, abs=1e-6)
    assert found["least_share"] == 0.01
    assert found["dead_share"] == 0.2  # below a tenth of a third: one of five
    assert found["cosine_max"] == 1.0


def test_a_class_without_images_and_a_lone_subcentroid_say_nothing():
    head = head_at(torch.eye(2)[:, None], 1)
    found = of_images(head, torch.tensor([[7], [0]]))
    assert found == {"cosine_mean": None, "cosine_max": None, "perplexity": 1.0, "dead_share": 0.0, "least_share": 1.0}
    assert of_images(head, torch.zeros(2, 1, dtype=torch.int64))["least_share"] is None


def test_the_watch_looks_at_one_step_in_twenty(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 10.0] * 3)
    monkeypatch.setattr("otcluster.dnc.stopwatch.time.perf_counter", lambda: next(ticks))
    watch = StepWatch(torch.device("cpu"), Times())
    assert watch.times.share is None
    for step in range(60):
        with watch.whole(step), watch.part(step):
            pass
    assert not list(ticks)
    assert watch.times == Times(30.0, 6.0)
    assert watch.times.share == 0.2


def test_a_run_logs_them(small_run, tmp_path):
    metrics = json.loads((small_run / "run" / "metrics.json").read_text())
    run = load_run(small_run / "run")
    assert metrics["subcentroids"] == of_images(run.model.head, TypicalImages.load(run.files).sizes)
    assert metrics["subcentroids"]["cosine_max"] <= 1
    assert 0 < metrics["dnc_share"] < 1
    with (small_run / "run" / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in of_usage(run.model.head)} == of_usage(run.model.head)
    metrics = train(small(small_run / "images", "head.kind=linear"), tmp_path / "linear")
    assert not {"subcentroids", "dnc_share"} & metrics.keys()
