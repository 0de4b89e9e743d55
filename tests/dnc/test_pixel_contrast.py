"""ContrastiveSeg: the loss against plain loops, its memory, several ranks, and runs."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from otcluster.dnc import ContrastHead, LinearHead, Segmenter, load_recipe, train
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.pixels.runs import build_segmenter, load_pixel_run
from otcluster.dnc.pixels.sampling import balanced_pixels
from otcluster.runs.interruption import Interrupted
from tests.dnc.conftest import listing, small
from tests.dnc.pixel_files import Stop
from tests.dnc.pixel_files import pixel_recipe as recipe
from tests.dnc.segmenters import DIM, IGNORED, a_batch, patches, same, state, textures
from tests.reducers import run_ranks


def a_head(n_classes=3, **options):
    torch.manual_seed(3)
    return ContrastHead(
        DIM, n_classes, projection_dim=5, **{"anchors": 8, "per_image": 4, "pixels": 6, "regions": 3, **options}
    )


def some(n=3, size=(5, 7), n_classes=3, seed=0):
    lots = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n, *size), generator=lots)
    labels[torch.rand(labels.shape, generator=lots) < 0.2] = IGNORED
    wrong = torch.rand(labels.shape, generator=lots) < 0.5
    return torch.randn(n, DIM, *size, generator=lots), labels, wrong


def filled(head, n_batches=2):
    for seed in range(n_batches):
        features, labels, _ = some(seed=10 + seed)
        head.observe(features, labels)
    return head


def by_loops(head, features, labels, drawn):
    """The loss, in float64, an anchor and a positive at a time."""

    def embedded(vector):
        weights = [each.detach().to(torch.float64).numpy() for each in head.projector.parameters()]
        hidden = np.maximum(weights[0] @ vector + weights[1], 0)
        out = weights[2] @ hidden + weights[3]
        return out / np.linalg.norm(out)

    bank = []
    for queue in (head.pixels, head.regions):
        for row, label in zip(queue.features.to(torch.float64).numpy(), queue.labels.tolist(), strict=True):
            bank.append((row, label))
    losses = []
    for i, y, x in drawn.nonzero().tolist():
        anchor = embedded(features[i, :, y, x].to(torch.float64).numpy())
        label = int(labels[i, y, x])
        of_others = sum(math.exp(anchor @ row / head.temperature) for row, other in bank if other != label)
        each = []
        for row, other in bank:
            if other == label:
                own = math.exp(anchor @ row / head.temperature)
                each.append(-math.log(own / (own + of_others)))
        if each:
            losses.append(np.mean(each))
    return head.contrast_weight * np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_that_of_plain_loops(temperature):
    head = filled(a_head(temperature=temperature, weight=0.3, anchors=1000))
    features, labels, wrong = some()
    found = head.contrast(features, labels, wrong)
    assert found.item() == pytest.approx(by_loops(head, features, labels, labels != IGNORED), rel=1e-5)


def test_with_few_anchors_it_is_the_loss_of_those_drawn():
    head = filled(a_head())
    features, labels, wrong = some()
    drawn = head._anchors(labels.reshape(-1), wrong.reshape(-1), None).view(labels.shape)
    assert head.contrast(features, labels, wrong).item() == pytest.approx(by_loops(head, features, labels, drawn), rel=1e-5)
    head.n_steps += 1
    assert not torch.equal(drawn, head._anchors(labels.reshape(-1), wrong.reshape(-1), None).view(labels.shape))


@pytest.mark.parametrize(
    ("n_wrong", "n_right", "expected"), [(20, 30, (4, 4)), (2, 30, (2, 6)), (20, 1, (7, 1)), (2, 3, (2, 3)), (0, 9, (0, 8))]
)
def test_half_of_the_anchors_are_wrong_where_there_are_enough(n_wrong, n_right, expected):
    head = a_head()
    labels = torch.tensor([1] * (n_wrong + n_right) + [IGNORED] * 5 + [0] * 3)
    wrong = torch.arange(len(labels)) < n_wrong
    drawn = head._anchors(labels, wrong, None)
    of_one = drawn & (labels == 1)
    assert (int((of_one & wrong).sum()), int((of_one & ~wrong).sum())) == expected
    assert not drawn[labels == IGNORED].any()
    assert drawn[labels == 0].all()


def test_each_class_has_its_own_limit():
    labels = torch.arange(3).repeat(10)
    drawn = balanced_pixels(labels, 3, torch.tensor([0, 4, 50]))
    assert labels[drawn].bincount(minlength=3).tolist() == [0, 4, 10]
    with pytest.raises(ValueError, match=r"per_class must be a number or have shape \(3,\), got shape \(2,\)"):
        balanced_pixels(labels, 3, torch.tensor([1, 2]))


def test_pixels_and_regions_are_remembered_of_each_class_in_each_image():
    head = a_head(n_classes=4, pixels=100, regions=100)
    features, labels, _ = some()
    labels[0][labels[0] == 1] = 2
    labels[2] = IGNORED
    head.observe(features, labels)
    counts = torch.stack([labels[i].view(-1).bincount(minlength=256)[:4] for i in range(3)])
    assert head.pixels.labels.bincount(minlength=4).tolist() == counts.clamp(max=4).sum(dim=0).tolist()
    assert head.regions.labels.bincount(minlength=4).tolist() == (counts > 0).sum(dim=0).tolist()
    with torch.no_grad():
        unit = nn.functional.normalize(head.projector(features.permute(0, 2, 3, 1)), dim=-1)
    means = [unit[i][labels[i] == c].mean(dim=0) for i in range(3) for c in range(4) if (labels[i] == c).any()]
    torch.testing.assert_close(head.regions.features, nn.functional.normalize(torch.stack(means), dim=1))
    for row, label in zip(head.pixels.features, head.pixels.labels.tolist(), strict=True):
        assert torch.cdist(row[None], unit[labels == label]).min() < 1e-3
    assert torch.unique(head.pixels.features, dim=0).shape == head.pixels.features.shape
    assert head.n_steps == 1


def test_only_filled_rows_count():
    head = a_head(pixels=1000, regions=1000)
    features, labels, wrong = some()
    assert head.contrast(features, labels, wrong) == 0
    head.observe(features, labels)
    before = head.contrast(features, labels, wrong)
    for queue in (head.pixels, head.regions):
        queue.stored_features[queue.stamps < 0] = 7.0
    assert torch.equal(head.contrast(features, labels, wrong), before)
    assert before > 0
    found, is_there = head._bank()
    assert is_there.sum() == len(head.pixels) + len(head.regions)
    torch.testing.assert_close(found[is_there].norm(dim=1), torch.ones(int(is_there.sum())))


def test_gradients_go_to_network_and_projector_and_not_to_the_memory():
    head = filled(a_head())
    features, labels, wrong = some()
    features.requires_grad_()
    head.contrast(features, labels, wrong).backward()
    moved = features.grad.abs().sum(dim=1) > 0
    drawn = head._anchors(labels.reshape(-1), wrong.reshape(-1), None).view(labels.shape)
    assert torch.equal(moved, drawn)
    assert all(each.grad.abs().sum() > 0 for each in head.projector.parameters())
    assert head.weight.grad is None
    model = Segmenter(patches(), head)
    model.loss(*a_batch()).loss.backward()
    assert model.network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["warm-up", "nothing remembered", "nothing known", "one class"])
def test_where_there_is_nothing_to_contrast_the_loss_is_zero_with_a_graph(case):
    head = a_head(warmup=3 if case == "warm-up" else 0)
    features, labels, wrong = some()
    if case == "one class":
        labels = torch.where(labels == IGNORED, IGNORED, 1)
        head.observe(features, labels)
    elif case != "nothing remembered":
        filled(head)
    if case == "nothing known":
        labels = torch.full_like(labels, IGNORED)
    features.requires_grad_()
    loss = head.contrast(features, labels, wrong)
    assert loss == 0
    loss.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in head.projector.parameters())
    if case == "warm-up":
        head.observe(features, labels)
        assert head.contrast(features, labels, wrong) > 0


def test_an_anchor_whose_class_is_not_remembered_does_not_count():
    head = a_head(anchors=1000)
    features, labels, wrong = some()
    head.observe(features, torch.where(labels == 2, IGNORED, labels))
    some_known = torch.where(labels == 2, IGNORED, labels)
    torch.testing.assert_close(head.contrast(features, labels, wrong), head.contrast(features, some_known, wrong))


def test_the_segmenter_adds_it_and_predicts_by_the_softmax():
    head = filled(a_head(weight=0.5))
    plain = LinearHead(DIM, 3)
    plain.load_state_dict({"weight": head.weight.detach(), "bias": head.bias.detach()})
    model, softmax = Segmenter(patches(), head), Segmenter(patches(), plain)
    images, labels = a_batch()
    at = labels[:, 2::4, 2::4]
    wrong = softmax.grid_logits(softmax.features(images)).argmax(dim=1) != at
    expected = softmax.loss(images, labels).loss + head.contrast(model.features(images), at, wrong)
    torch.testing.assert_close(model.loss(images, labels).loss, expected)
    assert torch.equal(model.predict(images).labels, softmax.predict(images).labels)
    assert model.predict(images).subcentroids is None


def test_a_batch_without_labels_is_survived_and_changes_nothing():
    model = Segmenter(patches(), filled(a_head()))
    images, labels = a_batch()
    before = state(model)
    step = model.loss(images, torch.full_like(labels, IGNORED))
    step.loss.backward()
    model.observe(step.features, torch.full_like(labels, IGNORED))
    assert step.loss == 0
    assert model.network.weight.grad.abs().max() == 0
    assert same(before, state(model))


def test_half_precision_ends_before_the_contrast():
    model = Segmenter(patches(), filled(a_head()))
    images, labels = a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        step = model.loss(images, labels)
        step.loss.backward()
        model.observe(step.features, labels)
    assert step.features.dtype == torch.bfloat16
    assert step.loss.dtype == model.head.pixels.features.dtype == torch.float32
    assert step.loss.isfinite()
    assert model.network.weight.grad.isfinite().all()


@pytest.mark.parametrize("cuts", [(4, 4), (1, 0, 5, 2)])
def test_ranks_learn_and_remember_what_one_process_does(cuts):
    images, labels = a_batch(8, seed=2)
    labels[2:] = labels[2:].clamp(min=1)  # some classes on some ranks alone
    model = Segmenter(patches(), a_head(weight=5.0, pixels=50, regions=20)).double()
    images, parts = images.double(), torch.arange(8).split(cuts)

    def work(own, rows, reducer):
        for _ in range(3):
            own.zero_grad()
            step = own.loss(images[rows], labels[rows], reducer=reducer)
            n = step.n_counted if reducer is None else reducer.sum(step.n_counted)
            part = step.loss * step.n_counted / n
            part.backward()
            own.observe(step.features, labels[rows], reducer=reducer)
        return part.detach(), [each.grad for each in own.parameters()], own.state_dict()

    loss, gradients, whole = work(copy.deepcopy(model), torch.arange(8), None)
    own = [copy.deepcopy(model) for _ in cuts]
    found = run_ranks(len(cuts), lambda rank, reducer: work(own[rank], parts[rank], reducer))
    torch.testing.assert_close(sum(part[0] for part in found), loss)
    for at, gradient in enumerate(gradients):
        torch.testing.assert_close(sum(part[1][at] for part in found), gradient)
    assert all(same(found[0][2], other[2]) for other in found[1:])
    for name, value in whole.items():
        torch.testing.assert_close(found[0][2][name], value)


def test_contrast_brings_features_of_a_class_together():
    def learn(weight):
        torch.manual_seed(0)
        head = ContrastHead(8, 2, projection_dim=16, anchors=40, pixels=100, regions=20, weight=weight)
        model = Segmenter(nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)), head)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for at in range(50):
            images, labels = textures(4, seed=at)
            step = model.loss(images, labels)
            losses.append(step.loss.item())
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
            model.observe(step.features, labels)
        images, labels = textures(4, seed=1000)
        at = labels[:, 2::4, 2::4]
        head.contrast_weight = 1.0
        with torch.no_grad():
            apart = head.contrast(model.features(images), at, torch.zeros_like(at, dtype=torch.bool))
        return losses, apart.item()

    losses, apart = learn(0.1)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[1:11])
    assert apart < learn(0.0)[1]


def run_of(folders, *changes):
    return recipe(
        folders, "head.kind=contrast", "head.temperature=null", "contrast.warmup=1", "contrast.dim=8", "contrast.anchors=10",
        *changes,
    )  # fmt: skip


@pytest.mark.parametrize("changes", [(), ("train.ema=0.5", "pixels.aux_weight=0.4", "train.precision=bf16-mixed")])
def test_stopped_anywhere_it_ends_the_same(folders, tmp_path, changes):
    whole = run_of(folders, *changes)
    assert train(whole, tmp_path / "whole")["head"] == "contrast"
    for at in (1, 2, 3):
        with pytest.raises(Interrupted):
            train(whole, tmp_path / "run", progress=Stop(at))
    train(whole, tmp_path / "run")
    ended, other = listing(tmp_path / "run" / "checkpoints" / "step-4"), listing(tmp_path / "whole" / "checkpoints" / "step-4")
    assert ended["model.safetensors"] == other["model.safetensors"]
    assert (tmp_path / "run" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
    first, second = (json.loads((tmp_path / each / "metrics.json").read_text())["test"] for each in ("run", "whole"))
    assert first == second
    head = load_pixel_run(tmp_path / "run").model.head
    assert type(head) is ContrastHead
    assert len(head.regions) > 0
    assert head.n_steps == 4


def test_it_begins_with_the_weights_of_the_softmax(folders):
    contrast, linear = (
        build_segmenter(run_of(folders, f"head.kind={kind}"), ["a", "b", "c"]) for kind in ("contrast", "linear")
    )
    assert all(torch.equal(contrast.state_dict()[name], value) for name, value in linear.state_dict().items())
    assert contrast.head.temperature == 0.1
    assert contrast.head.pixels.quota == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["contrast.weight=-1"], "contrast.weight must be at least 0"),
        (["contrast.temperature=0"], "contrast.temperature must be positive"),
        (["contrast.anchors=1"], "contrast.anchors must be at least 2"),
        (["contrast.warmup=-1"], "contrast.warmup must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("camvid-fcn-resnet18", ["head.kind=contrast", *changes])


def test_it_is_refused_for_images_and_without_memory(folders, tmp_path):
    with pytest.raises(RecipeError, match=r"head.kind=contrast is for pixels"):
        small(None, "head.kind=contrast")
    with pytest.raises(RecipeError, match=r"memory.capacity must be at least 3 for head.kind=contrast.*got 2"):
        train(run_of(folders, "memory.capacity=2"), tmp_path / "run")


def test_what_does_not_fit_is_refused():
    head = a_head()
    features, labels, wrong = some()
    for bad, message in (
        ((features[:, :2], labels, wrong), r"features must be of pixels, of shape \(n, 6, height, width\), got \(3, 2, 5, 7\)"),
        ((features, labels[:2], wrong), r"labels must have shape \(3, 5, 7\), as features say, got \(2, 5, 7\)"),
        ((features, labels, wrong[:2]), "wrong must have the shape of labels"),
    ):
        with pytest.raises(ValueError, match=message):
            head.contrast(*bad)
    with pytest.raises(ValueError, match="features must be of pixels"):
        head.observe(torch.zeros(4, DIM), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="weight must be at least 0"):
        ContrastHead(4, 2, weight=-0.1)
    with pytest.raises(TypeError, match="aux must be a LinearHead or None, got ContrastHead"):
        Segmenter(patches(), LinearHead(DIM, 3), aux=a_head())
