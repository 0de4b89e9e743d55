"""The parts of a report by themselves: which images are explained, the map, heat, pictures, names of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from otcluster.dnc import DNCHead
from otcluster.dnc.evaluation import Evaluation
from otcluster.dnc.explaining.map import angle_map
from otcluster.dnc.explaining.report.choosing import choose, margins
from otcluster.dnc.explaining.report.folder import file_name
from otcluster.dnc.explaining.report.page import heat_words
from otcluster.dnc.explaining.report.pictures import overlay, reduced


def test_all_kinds_of_failures_are_chosen_before_two_of_one_kind():
    angles = torch.linspace(0, 1.9, 24)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    head = DNCHead(2, n_classes=3, n_subcentroids=1, memory=0)
    store = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[0.0, 1.0]]])
    head.store.centroids.copy_(store)
    head.store.started.fill_(True)
    logits = head(features)
    said = logits.argmax(dim=1)
    labels = said.clone()
    labels[said == 0] = torch.tensor([1, 1, 1, 2] + [0] * (int((said == 0).sum()) - 4))
    labels[20] = 0
    found = Evaluation(features, logits, labels, torch.arange(24))
    best = (features @ store[:, 0].T).sort(dim=1, descending=True).values
    torch.testing.assert_close(margins(features, head), best[:, 0] - best[:, 1])
    three, all_of_them = choose(found, head, 3), choose(found, head, 100)
    assert (three.n_failures, three.n_kinds) == (5, 3)
    assert {(int(labels[row]), int(said[row])) for row in three.failures} == {(1, 0), (2, 0), (0, int(said[20]))}
    assert three.failures[0] == 0  # of the most frequent kind, the one that it was surest of
    assert sorted(all_of_them.failures) == torch.nonzero(labels != said).flatten().tolist()
    assert not {*all_of_them.close} & {*all_of_them.sure}
    assert {int(said[row]) for row in three.close} <= {0, 1, 2}
    right = [row for row in range(24) if labels[row] == said[row]]
    assert three.close == (min(right, key=lambda row: float(margins(features, head)[row])),)
    assert choose(Evaluation(features[:0], logits[:0], labels[:0], labels[:0]), head, 3).n_failures == 0


def test_a_map_keeps_what_a_plane_can_keep_and_says_how_much():
    angle = torch.tensor([0.0, 0.3, 0.7, 1.2], dtype=torch.float64)
    line, kept = angle_map((angle[:, None] - angle).cos())
    assert kept == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(line, line), (angle[:, None] - angle).abs(), atol=1e-4, rtol=0)
    points = torch.nn.functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    places, kept = angle_map(points @ points.T)
    rows, columns = np.triu_indices(30, 1)
    angles = torch.arccos((points @ points.T).clamp(-1, 1))[rows, columns]
    assert kept == pytest.approx(np.corrcoef(angles, (places[rows] - places[columns]).norm(dim=1))[0, 1])
    assert 0.3 < kept < 1
    assert torch.equal(places, angle_map(points @ points.T)[0])
    assert angle_map(torch.ones(1, 1))[1] is None
    assert angle_map(torch.ones(5, 5))[0].abs().max() == 0
    with pytest.raises(ValueError, match=r"cosines must have shape \(m, m\), got \(2, 3\)"):
        angle_map(torch.ones(2, 3))


def test_heat_lies_over_the_places_that_it_is_of():
    heat = torch.tensor([[0.0, 0.4], [-0.1, 0.0]])
    found = np.asarray(overlay(Image.new("RGB", (10, 10), "white"), heat)).astype(int)
    half = found.shape[0] // 2
    still, strong, against = found[2, 2], found[2, half + 2], found[half + 2, 2]
    assert set(still) == {255}
    assert strong[0] > strong[1] > strong[2]  # orange
    assert against[2] > against[1]  # violet
    assert against.sum() > strong.sum()  # and paler
    assert heat_words(heat.tolist())["least"]["row"] == 2


def test_pictures_tell_nothing_else_of_their_files(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (300, 200), "red").save(tmp_path / "mine.jpg", exif=exif)
    with Image.open(tmp_path / "mine.jpg") as image:
        plain = reduced(image)
    assert plain.size == (224, 149)
    assert not plain.info
    assert not plain.getexif()


def test_file_names_hold_no_path():
    assert file_name(1, "../../etc/passwd") == "explained-001-etc-passwd.png"
    assert file_name(12, "…/…") == "explained-012-image.png"
    assert file_name(1, "a" * 300 + ".png") == f"explained-001-{'a' * 36}.png.png"
