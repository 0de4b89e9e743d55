"""Why a model decides as it does: rules that are true, heat that adds up, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import Classifier, DNCHead, LinearHead, ScoreNorm, explain, load_run, overview, train
from otcluster.dnc.commands import app
from otcluster.dnc.explaining.heat import cosine_parts, feature_maps
from otcluster.dnc.explaining.rule import Rule, shortest_rule
from tests.dnc.conftest import small


def places(n_classes, k, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    found = nn.functional.normalize(torch.randn(n_classes, k, dim, generator=generator, dtype=torch.float64), dim=-1)
    return found, generator


@given(st.integers(2, 5), st.integers(1, 3), st.integers(2, 4), st.floats(0.02, 2.0), st.integers(0, 10**6))
def test_a_rule_holds_for_its_image_and_decides_any_other_as_the_nearest_subcentroid_does(n_classes, k, dim, spread, seed):
    subcentroids, generator = places(n_classes, k, dim, seed)
    is_open = torch.rand(n_classes, k, generator=generator) < 0.7
    is_open[:, 0] = True
    image = subcentroids[0, 0] + spread * torch.randn(dim, generator=generator, dtype=torch.float64)
    # Others: of all directions, and many close to where the rule could fail.
    around = image + spread * torch.randn(400, dim, generator=generator, dtype=torch.float64)
    others = torch.cat([image[None], around, torch.randn(400, dim, generator=generator, dtype=torch.float64)])
    cosines = torch.einsum("nd,ckd->nck", nn.functional.normalize(others, dim=1), subcentroids).masked_fill(
        ~is_open, -torch.inf
    )
    rule = shortest_rule(cosines[0], subcentroids, is_open)
    holds = rule.holds(cosines)
    assert holds[0]
    assert set(cosines[holds].amax(dim=2).argmax(dim=1).tolist()) == {rule.winner[0]}
    assert all(is_open[place] and place[0] != rule.winner[0] for place in rule.others)
    if rule.least is None:
        assert len(rule.others) == int(is_open.sum() - is_open[rule.winner[0]].sum())


def test_an_image_near_its_subcentroid_needs_no_comparison_and_one_far_away_needs_those_within_twice_its_angle():
    angles = torch.tensor([[0.0], [1.0], [-1.5], [3.0]], dtype=torch.float64)
    subcentroids = torch.stack([angles.cos(), angles.sin()], dim=-1)
    is_open = torch.ones(4, 1, dtype=torch.bool)

    def rule_at(angle):
        image = torch.tensor([np.cos(angle), np.sin(angle)])
        return shortest_rule(subcentroids @ image, subcentroids, is_open)

    near, farther, far = rule_at(0.3), rule_at(-0.6), rule_at(-0.76)
    assert (near.least, near.others) == (0.878, ())  # half the way to the nearest of another class: cos 0.5
    assert (farther.least, farther.others) == (0.732, ((1, 0),))  # and to the next one: cos 0.75
    assert farther.text("cat", [["cat 1"], ["dog 1"], ["owl 1"], ["bee 1"]]) == (
        "IF its cosine to cat 1 is at least 0.732 AND it is nearer to cat 1 than to dog 1 THEN it is cat"
    )
    assert far.winner == (2, 0)
    names = [[str(label)] for label in range(4)]
    assert Rule((0, 0), 0.5, ((1, 0), (3, 0), (2, 0))).text("0", names).endswith("nearer to 0 than to 1, 3 and 2 THEN it is 0")
    assert Rule((0, 0), None, ((1, 0), (2, 0), (3, 0))).text("0", names) == (
        "IF it is nearer to 0 than to any sub-centroid of another class THEN it is 0"
    )
    assert rule_at(0.49).others == ()
    assert rule_at(0.4999).others == ((1, 0),)  # its cosine, rounded down, reaches beyond the half


def backbone(name):
    if name == "torchvision":
        model = torchvision.models.resnet18(weights=None)
        model.fc = nn.Identity()
        return model
    return timm.create_model(name, num_classes=0, **({"img_size": 64} if name.startswith("swin") else {}))


@pytest.mark.parametrize("name", ["test_resnet", "torchvision", "mobilenetv2_035", "swin_tiny_patch4_window7_224", "plain"])
def test_the_parts_of_the_heat_add_up_to_the_cosine(name):
    torch.manual_seed(0)
    if name == "plain":
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        model = backbone(name)
    model = model.double().eval()
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    features, maps = feature_maps(model, lambda: model(images))
    assert torch.equal(features, model(images))
    assert maps.shape[:2] == features.shape
    assert maps.shape[2] * maps.shape[3] > 1
    direction = nn.functional.normalize(torch.randn_like(features), dim=1)
    parts = cosine_parts(maps, features, direction)
    torch.testing.assert_close(parts.sum(dim=(1, 2)), nn.functional.cosine_similarity(features, direction))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_in_half_precision_has_heat_too():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).bfloat16()
    (found,) = explain(Classifier(model, DNCHead(6, n_classes=2)), torch.rand(1, 3, 16, 16))
    assert found.heat.shape == (14, 14)
    assert float(found.heat.sum()) == pytest.approx(found.alternatives[0].cosine, abs=0.03)


def test_features_that_are_no_averages_have_no_heat():
    model = timm.create_model("test_vit", num_classes=0).eval()
    images = torch.rand(2, 3, 160, 160)
    assert feature_maps(model, lambda: model(images))[1] is None
    classifier = Classifier(model, DNCHead(64, n_classes=2), classes=["cat", "dog"])
    (found, _) = explain(classifier, images)
    assert (found.heat, found.heat_against) == (None, None)
    assert found.as_dict(["cat", "dog"])["heat"] is None


def test_all_of_an_explanation_is_what_the_model_computed(small_run):
    run = load_run(small_run / "run")
    test = run.load_test()
    pictures = [test.read(at) for at in range(len(test))]
    run.model.train()
    said, found = run.model.predict(pictures), explain(run, pictures, n_nearest=2)
    assert run.model.backbone.training
    features, centroids = said.features.double().numpy(), run.model.head.subcentroids.double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = np.einsum("nd,ckd->nck", features, centroids)
    for row, each in enumerate(found):
        np.testing.assert_allclose(each.cosines, cosines[row], atol=1e-5)
        assert (each.label, each.subcentroid) == (int(said.labels[row]), int(said.subcentroids[row]))
        assert [one.label for one in each.alternatives] == list(np.argsort(-cosines[row].max(axis=1)))
        first, second = each.alternatives[:2]
        assert first.lost_by == 0
        assert second.lost_by == pytest.approx(first.cosine - second.cosine)
        assert each.heat.shape == (1, 1)  # of 16 x 16 pixels this backbone makes one place
        assert second.lost_by == pytest.approx(float(each.heat_against.sum()), abs=1e-5)
        assert first.share == pytest.approx(float(said.shares[row, first.label]))
        assert sum(one.share for one in each.alternatives) == pytest.approx(1)
        assert each.rule.winner == (each.label, each.subcentroid)
        cosine_of_nearest = [cosine for *_, cosine in each.nearest]
        assert len(each.nearest) == 2
        assert cosine_of_nearest == sorted(cosine_of_nearest, reverse=True)
        plain = json.loads(json.dumps(each.as_dict(run.classes)))
        assert plain["class"] == run.classes[each.label]
        assert plain["rule"].startswith("IF ")
        assert plain["rule"].endswith(f"THEN it is {plain['class']}")
    assert explain(run, torch.rand(0, 3, 16, 16)) == []
    alone = explain(run.model, pictures[0])
    assert alone[0].nearest == ()
    assert alone[0].rule == found[0].rule


def test_heads_whose_nearest_subcentroid_need_not_decide_are_refused(small_run):
    flat, image = nn.Flatten(), torch.rand(1, 1, 2, 2)
    with pytest.raises(TypeError, match="where a head has sub-centroids"):
        explain(Classifier(flat, LinearHead(4, 3)), image)
    with pytest.raises(TypeError, match="layer_norm"):
        explain(Classifier(flat, DNCHead(4, n_classes=3, scaling=ScoreNorm(3))), image)
    with pytest.raises(ValueError, match="compares by metric='sqeuclidean'"):
        explain(Classifier(flat, DNCHead(4, n_classes=3, metric="sqeuclidean")), image)
    with pytest.raises(ValueError, match="the features of image 1 are not finite"):
        explain(Classifier(flat, DNCHead(4, n_classes=3)), torch.stack([image[0], image[0] * torch.nan]))
    with pytest.raises(TypeError, match="images must be a tensor"):
        explain(Classifier(flat, DNCHead(4, n_classes=3)), np.zeros((1, 1, 2, 2)))
    with pytest.raises(ValueError, match="n_nearest must not be negative, got -1"):
        explain(load_run(small_run / "run"), image, n_nearest=-1)


def test_the_command_explains_in_words_and_as_json(small_run, tmp_path):
    pictures = [str(small_run / "images" / "test" / name / "000.png") for name in ("cat", "owl")]
    run = load_run(small_run / "run")
    said = CliRunner().invoke(app, ["explain", str(small_run / "run"), *pictures])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [
        f"{path}: {found.as_dict(run.classes)['class']} ({found.alternatives[0].share:.1%}), cosine "
        f"{found.alternatives[0].cosine:.3f}"
        for path in pictures
        for found in explain(run, Image.open(path))
    ]
    assert [line.split()[0] for line in lines] == [
        pictures[0] + ":",
        "IF",
        "next:",
        "most",
        pictures[1] + ":",
        "IF",
        "next:",
        "most",
    ]
    (tmp_path / "broken.png").write_bytes(b"none")
    again = CliRunner().invoke(app, ["explain", str(small_run / "run"), pictures[0], str(tmp_path / "broken.png"), "--json"])
    assert again.exit_code == 2
    assert "broken.png cannot be read as an image" in again.stderr
    assert "1 of 2 images could not be explained" in again.stderr
    (line,) = again.stdout.splitlines()
    (found,) = explain(run, Image.open(pictures[0]))
    assert json.loads(line) == {"path": pictures[0], **json.loads(json.dumps(found.as_dict(run.classes)))}


def test_an_overview_counts_every_training_image_once_and_orders_pairs(small_run):
    run = load_run(small_run / "run")
    found = overview(run, n_typical=2, n_pairs=5)
    k, train = len(found.subcentroids) // 3, run.load_train()
    assert [each.place for each in found.subcentroids] == [(label, at) for label in range(3) for at in range(k)]
    assert [each.name for each in found.subcentroids[:2]] == ["cat #1", "cat #2"]
    assert sum(each.size for each in found.subcentroids) == len(train)
    units = run.model.head.subcentroids.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(found.cosines, units @ units.T, atol=1e-6)
    labels = np.repeat(range(3), k)
    apart = np.where(labels[:, None] != labels, units @ units.T, -1)
    for row, each in enumerate(found.subcentroids):
        assert sum(other.share for other in found.subcentroids if other.place[0] == each.place[0]) == pytest.approx(1)
        assert len(each.typical) == min(2, each.size)
        assert set(each.typical) <= {name for name in train.names if run.classes[each.place[0]] in name}
        assert each.reach == pytest.approx(np.sqrt((1 + apart[row].max()) / 2), abs=1e-6)  # of half the angle
    alike = [pair.cosine for pair in found.confusable]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] == pytest.approx(apart.max(), abs=1e-6)
    assert all(pair.first[0] != pair.second[0] for pair in found.confusable)
    assert len(alike) == 5
    none, all_pairs = overview(run, duplicate=1.0), overview(run, duplicate=-1.0, dead=1.0)
    assert none.duplicates == ()
    assert len(all_pairs.duplicates) == 3 * k * (k - 1) // 2
    assert set(all_pairs.dead) == {each.place for each in found.subcentroids if each.share < 1}
    assert json.loads(json.dumps(found.as_dict()))["subcentroids"][0]["typical"] == list(found.subcentroids[0].typical)


def test_the_command_without_pictures_tells_of_the_model(small_run):
    said = CliRunner().invoke(app, ["explain", str(small_run / "run")])
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[0].startswith("cat #1: ")
    assert "most alike of different classes:" in said.stdout
    plain = CliRunner().invoke(app, ["explain", str(small_run / "run"), "--json"])
    assert json.loads(plain.stdout) == json.loads(json.dumps(overview(load_run(small_run / "run")).as_dict()))


def test_a_run_whose_head_has_no_subcentroids_is_refused_in_one_line(small_run, tmp_path):
    train(small(small_run / "images", "head.kind=linear"), tmp_path / "run")
    for more in ([], [str(small_run / "images" / "test" / "cat" / "000.png")]):
        said = CliRunner().invoke(app, ["explain", str(tmp_path / "run"), *more])
        assert said.exit_code == 2
        assert said.stderr.endswith("explained where a head has sub-centroids, and this is LinearHead\n")
        assert said.stderr.startswith("error: ")
