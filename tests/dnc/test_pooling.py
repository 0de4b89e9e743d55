"""From sub-centroids to classes: the largest similarity, and the smooth maximum of training."""

from __future__ import annotations

import pytest
import torch

from otcluster.dnc import DNCHead, Largest, Mixture, load_recipe
from otcluster.dnc.heads import build_head


def similarities(seed=0):
    return torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_mixture_lies_between_mean_and_largest_and_tends_to_either():
    given = similarities()
    largest, mean = given.amax(-1), given.mean(-1)
    found = Mixture(0.1)(given)
    assert ((mean < found) & (found < largest)).all()
    torch.testing.assert_close(Mixture(1e-4)(given), largest, rtol=0, atol=2e-4)
    torch.testing.assert_close(Mixture(1e4)(given), mean, rtol=0, atol=1e-2)


def test_in_evaluation_the_nearest_decides():
    assert torch.equal(Mixture(0.1).eval()(similarities()), Largest()(similarities()))


def test_a_class_with_more_subcentroids_has_no_advantage():
    given = torch.full((1, 2, 4), 0.5)
    given[0, 1, 1:] = -torch.inf  # the second class has one
    assert Mixture(0.1)(given).tolist() == [[pytest.approx(0.5), pytest.approx(0.5)]]


def test_every_subcentroid_of_a_class_draws_its_features_in_training_alone():
    head = DNCHead(8, 3, n_subcentroids=4, temperature=0.1, pooling=Mixture(0.1))
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 8, generator=generator), torch.arange(60) % 3
    head.observe(features, labels)
    for mode, drawing in ((True, 12), (False, 3)):
        given = head.train(mode).similarities(features[:1]).detach().requires_grad_()
        head.scaling(head.pooling(given)).sum().backward()
        assert int((given.grad > 0).sum()) == drawing


def test_a_recipe_says_which():
    kinds = {kind: build_head(load_recipe("digits", [f"head.pooling={kind}"]), 8, 3).pooling for kind in ("largest", "mixture")}
    assert isinstance(kinds["largest"], Largest)
    assert isinstance(kinds["mixture"], Mixture)
    assert kinds["mixture"].temperature == 0.1
    with pytest.raises(ValueError, match="temperature must be positive"):
        Mixture(0)


def test_the_largest_sends_its_gradient_to_one_subcentroid_also_where_two_are_alike():
    similarities = torch.tensor([[[0.5, 0.5, 0.1], [0.0, 0.2, -torch.inf]]], requires_grad=True)
    scores = Largest()(similarities)
    assert torch.equal(scores.detach(), Largest()(similarities.detach()))
    scores.sum().backward()
    assert (similarities.grad == 1).sum(dim=2).tolist() == [[1, 1]]
    assert similarities.grad.sum() == 2
