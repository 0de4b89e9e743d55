"""What is measured of explanations: against NumPy, against cases of which the answer is known, and against lies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import Classifier, DNCHead, load_run, measure, train
from otcluster.dnc.commands import app
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.explaining import measures
from otcluster.dnc.explaining.fading import fading
from otcluster.dnc.explaining.rule import Rule
from otcluster.dnc.typical import TypicalImages
from tests.dnc.conftest import small, write_images


@pytest.fixture(scope="module")
def anchored_run(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("anchored") / "run"
    train(small(small_run / "images", "train.epochs=3", "explain.anchor_epochs=1", "data.image_size=64"), out)
    return out


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_they_are_what_numpy_makes_of_features_and_subcentroids(small_run):
    run = load_run(small_run / "run")
    found = measure(run, n_images=0)
    test = evaluate(run.model, run.load_test(), run.recipe.data)
    features, labels = unit(test.features.double().numpy()), test.labels.numpy()
    centroids = run.model.head.subcentroids.double().numpy()
    cosines = np.einsum("nd,ckd->nck", features, centroids)
    assert found.n_images == 12
    assert found.fading is None
    assert found.accuracy == pytest.approx((cosines.max(2).argmax(1) == labels).mean())
    between = np.einsum("ckd,eld->ckel", centroids, centroids)
    for c in range(3):
        for k in range(4):
            between[c, k, c, k] = -np.inf
    own = np.array([between[c, :, c, :].max(1) for c in range(3)])
    assert found.distinctiveness == pytest.approx((1 - own).mean(), abs=1e-6)
    others = [between[c][:, [e for e in range(3) if e != c]].reshape(4, -1).max(1) for c in range(3)]
    assert found.separation == pytest.approx((1 - np.array(others)).mean(), abs=1e-6)
    means = unit(np.stack([features[labels == c].mean(0) for c in range(3)]))
    apart = (1 - (features * means[labels]).sum(1)).mean()
    nearest = (1 - cosines[np.arange(12), labels].max(1)).mean()
    assert found.comprehensiveness == pytest.approx(1 - nearest / apart, abs=1e-5)
    # Anchors: the most similar of the images that the run keeps, of each sub-centroid, which here are all of its own.
    typical = TypicalImages.load(run.files)
    anchors = [typical.of(c, k)[0].item() for c in range(3) for k in range(4) if len(typical.of(c, k))]
    said = typical.classes[anchors].numpy()[(features @ typical.features[anchors].double().numpy().T).argmax(1)]
    if len(anchors) == 12:
        assert found.anchors_accuracy == pytest.approx((said == labels).mean())


def test_where_subcentroids_are_images_the_images_alone_are_as_accurate(anchored_run):
    found = measure(load_run(anchored_run), n_images=2)
    assert found.anchors_accuracy == found.accuracy
    assert (found.fidelity, found.contradictions) == (1.0, 0)
    assert found.fading.n_images == 2
    again = measure(load_run(anchored_run), n_images=2)
    assert found == again


def test_rules_that_lie_are_found_out(small_run, monkeypatch):
    run = load_run(small_run / "run")

    def lie(cosines, subcentroids, is_open):
        return Rule((0, 0), -1.0, ())  # everything is of the first class

    monkeypatch.setattr(measures, "shortest_rule", lie)
    found = measure(run, n_images=0)
    said = evaluate(run.model, run.load_test(), run.recipe.data).predictions
    assert found.fidelity == pytest.approx(float((said == 0).double().mean()))
    assert found.contradictions == 12 * int((said != 0).sum())


class Places(nn.Module):
    """Features are the averages of two colours over 4 x 4 places of 4 pixels."""

    def __init__(self):
        super().__init__()
        self.pool, self.mean = nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(1)

    def forward(self, images):
        return self.mean(self.pool(images)).flatten(1)


def colours():
    model = Classifier(Places(), DNCHead(2, n_classes=2, n_subcentroids=1, memory=0))
    model.head.place(torch.ones(2, 1, dtype=torch.bool), torch.eye(2))
    return model.eval()


def test_places_that_decide_are_hidden_first_and_shown_first():
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(6, 2, 16, 16, generator=generator)
    images[:, 1] += 0.2  # the second class speaks everywhere
    for at in range(6):
        row, column = divmod(5 * at % 16, 4)
        images[at, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 12.0  # and the first from one place, loudly
    found = fading(colours(), images)
    assert found.n_images == 6
    assert found.deletion < 0.3 < found.deletion_random
    assert found.deletion_against < 0.3
    assert found.insertion > found.insertion_random  # by little: blurring keeps what is averaged afterwards
    assert found == fading(colours(), images)
    assert found.deletion_random != fading(colours(), images, seed=1).deletion_random


def test_a_decision_that_no_place_changes_fades_nowhere():
    images = torch.ones(2, 2, 16, 16) * torch.tensor([3.0, 1.0])[:, None, None]
    share = float(torch.softmax(colours()(images), dim=1)[0, 0])
    found = fading(colours(), images)
    assert found.insertion == pytest.approx(share, abs=1e-5) == found.insertion_random  # blurred, it is the same image
    nothing = 0.5  # of an image without colours: no direction
    assert found.deletion == pytest.approx((16 * share - share / 2 + nothing / 2) / 16, abs=1e-5)


def test_without_places_there_are_no_heat_maps_to_try():
    model = Classifier(nn.Flatten(), DNCHead(8, n_classes=2))
    assert fading(model, torch.rand(3, 2, 2, 2)) is None


def test_one_subcentroid_each_tells_no_more_than_the_mean(small_run, tmp_path):
    train(small(small_run / "images", "head.n_subcentroids=1"), tmp_path / "run")
    found = measure(load_run(tmp_path / "run"), n_images=0)
    assert found.distinctiveness is None
    assert found.comprehensiveness < 0.2
    assert "one each" in "\n".join(found.lines())


def test_the_command_tells_them(anchored_run, tmp_path):
    result = CliRunner().invoke(app, ["explain", str(anchored_run), "--measure"])
    assert result.exit_code == 0, result.output
    assert "the class of the model for 100.0% of 12 test images, and is contradicted by 0" in result.stdout
    plain = json.loads(CliRunner().invoke(app, ["explain", str(anchored_run), "--measure", "--json"]).stdout)
    assert plain["measures"]["fidelity"] == 1.0
    assert plain["measures"]["fading"]["n_images"] == 12
    write_images(tmp_path / "test", n=1)
    elsewhere = CliRunner().invoke(app, ["explain", str(anchored_run), "--measure", "--data", str(tmp_path)])
    assert "of 3 test images" in elsewhere.stdout, elsewhere.output


def test_what_cannot_be_measured_is_refused(small_run, tmp_path):
    with pytest.raises(ValueError, match="n_images must not be negative, got -1"):
        measure(load_run(small_run / "run"), n_images=-1)
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "linear")
    with pytest.raises(TypeError, match="explanations are measured where a head has sub-centroids, and this is LinearHead"):
        measure(load_run(tmp_path / "linear"))
