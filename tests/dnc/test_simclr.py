"""Features learnt without labels: the loss, its parts on ranks, and a run that is read out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import SimCLRHead, load_recipe, load_run, train
from otcluster.dnc.commands import app
from otcluster.dnc.conversion import Conversion
from otcluster.dnc.data import load_batches, load_data
from tests.dnc.conftest import listing, small
from tests.dnc.test_baselines import TINY
from tests.reducers import run_ranks


def two_views(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, 6, generator=generator)
    return torch.cat([first, first + 0.3 * torch.randn(n, 6, generator=generator)])


def head_of(**changes):
    torch.manual_seed(0)
    return SimCLRHead(6, 3, n_subcentroids=2, projection_dim=4, memory=30, **changes).double()


@pytest.mark.parametrize("contrast", [0.1, 0.5])
def test_the_loss_is_nt_xent(contrast):
    head, views = head_of(contrast=contrast), two_views(7).double()
    unit = nn.functional.normalize(head.projector(views), dim=1)
    scores = (unit @ unit.T / contrast).fill_diagonal_(-torch.inf)
    partner = (torch.arange(14) + 7) % 14
    torch.testing.assert_close(head.loss(views), nn.functional.cross_entropy(scores, partner) * 7)


def test_labels_do_not_reach_the_features():
    head, views = head_of(), two_views(6).double().requires_grad_()
    logits = head(views[:6])
    assert not logits.requires_grad
    head.observe(views[:6], torch.arange(6) % 3)
    head.loss(views).backward()
    assert views.grad.abs().min() > 0
    assert head.projector[0].weight.grad.abs().sum() > 0


def test_on_uneven_ranks_loss_and_gradients_add_up_to_those_of_one_process():
    n = 9
    views = two_views(n).double()

    heads = [head_of() for _ in range(4)]  # here: the threads of the ranks share torch's random state

    def learn(head, reducer, start, stop):
        own = torch.cat([views[start:stop], views[n + start : n + stop]]).requires_grad_()
        loss = head.loss(own, reducer=reducer)
        loss.backward()
        return loss.detach(), own.grad, [each.grad for each in head.parameters()]

    loss, gradient, of_weights = learn(heads[3], None, 0, n)
    cuts = [0, 4, 4, n]  # one rank has none
    parts = run_ranks(3, lambda rank, reducer: learn(heads[rank], reducer, *cuts[rank : rank + 2]))
    torch.testing.assert_close(sum(part[0] for part in parts), loss)
    for view in range(2):
        own = [part[1].chunk(2)[view] for part in parts]
        torch.testing.assert_close(torch.cat(own), gradient.chunk(2)[view])
    for at, whole in enumerate(of_weights):
        torch.testing.assert_close(sum(part[2][at] for part in parts), whole)


def test_half_precision_and_shapes():
    head = head_of().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.loss(two_views(4).bfloat16()).dtype == torch.float32
    for wrong, message in ((torch.ones(3, 6), "two views of each image, got 3"), (torch.ones(4, 5), r"shape \(n, 6\)")):
        with pytest.raises(ValueError, match=message):
            head.loss(wrong)
    with pytest.raises(ValueError, match="contrast must be positive"):
        SimCLRHead(6, 3, contrast=0.0)


def test_views_are_varied_apart_and_the_first_is_that_of_other_heads():
    config = load_recipe("digits", ["data.image_size=8"]).data
    split = load_data(config).train
    batches = [[5, 9, 700]]
    convert = Conversion(config, augment=True)
    (one,) = load_batches(split, convert, config, batches, seed=3, epoch=2)
    (two,) = load_batches(split, convert, config, batches, seed=3, epoch=2, views=2)
    assert two[0].shape == (3, 2, 1, 8, 8)
    assert torch.equal(two[0][:, 0], one[0])
    assert not torch.equal(two[0][:, 1], one[0])
    assert torch.equal(two[1], one[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_augmentation_of_simclr_varies_colour_and_place(channels):
    config = load_recipe("digits", ["data.augment=simclr", "data.image_size=16", f"data.channels={channels}"]).data
    convert, image = Conversion(config, augment=True), load_data(config).train.read(0)
    torch.manual_seed(0)
    views = torch.stack([convert(image) for _ in range(8)])
    assert views.shape == (8, channels, 16, 16)
    assert views.flatten(1).unique(dim=0).shape[0] == 8
    plain = Conversion(config, augment=False)
    assert torch.equal(plain(image), plain(image))


def test_it_trains_on_the_digits_and_is_read_out_by_subcentroids(tmp_path):
    metrics = train(load_recipe("digits", [*TINY, "head.kind=simclr"]), tmp_path / "run")
    assert type(load_run(tmp_path / "run").model.head) is SimCLRHead
    found = metrics["readouts"]["sub-centroids"]
    assert found["accuracy"] > 0.4  # chance is 0.1
    assert found["images"] == 359
    printed = CliRunner().invoke(app, ["eval", str(tmp_path / "run")]).stdout.splitlines()
    assert printed[-1] == f"test accuracy {found['accuracy']:.4f} on 359 images, by sub-centroids on its features"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_it_resumes_to_the_byte(image_folder, tmp_path):
    recipe = small(image_folder, "head.kind=simclr", "train.checkpoint_steps=1", "optim.lr=0.01")
    train(recipe, tmp_path / "run")
    whole = listing(tmp_path / "run" / "checkpoints" / "step-4")["model.safetensors"]
    folder = tmp_path / "run" / "checkpoints" / "step-4"
    for path in folder.iterdir():
        path.unlink()
    (tmp_path / "run" / "metrics.json").unlink()
    train(recipe, tmp_path / "run")
    assert listing(folder)["model.safetensors"] == whole
    assert np.isfinite(json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["accuracy"])
