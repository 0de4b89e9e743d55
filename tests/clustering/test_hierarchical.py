"""Clusters of clusters: the tree holds together, quotas fill as water does, resampling spreads the centroids evenly."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import otcluster as otc
from otcluster.clustering.picking import picked, water_filled
from otcluster.clustering.sources import NpyFile
from otcluster.metrics import imbalance_factor
from tests.strategies import to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "array-api-strict": array_api_strict.asarray}
CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [5.0, 20.0]])


def squares(sizes, seed=0):
    """Five squares of the same extent that hold very different numbers of samples; and which square each sample is in."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(5), sizes)
    return CENTRES[which] + rng.uniform(-2, 2, (len(which), 2)), which


def small_tree(lay=np.asarray, n_clusters=(30, 8, 3), **arguments):
    x, _ = squares([200, 100, 50, 20, 10])
    return otc.hierarchical_kmeans(lay(x), n_clusters, resample=otc.Resample(rounds=2), **arguments), x


def one_by_one(sizes, n):
    """The oracle: each unit goes to a child that has least so far and still has some; which of them is left open."""
    quotas = np.zeros(len(sizes), int)
    for _ in range(n):
        quotas[np.argmin(np.where(quotas < sizes, quotas, np.iinfo(int).max))] += 1
    return quotas


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.data())
def test_water_filling_is_giving_one_by_one_to_who_has_least(sizes, data):
    sizes = np.array(sizes)
    n = data.draw(st.integers(0, int(sizes.sum())))
    quotas = water_filled(sizes, n, np.random.default_rng(0))
    assert quotas.sum() == n
    assert (quotas <= sizes).all()
    np.testing.assert_array_equal(np.sort(quotas), np.sort(one_by_one(sizes, n)))


def test_what_does_not_come_out_even_is_drawn_by_lot():
    given = sum(water_filled(np.full(4, 9), 6, np.random.default_rng(seed)) for seed in range(400))
    assert given.sum() == 2400
    assert given.min() > 540  # 600 each, with a standard deviation of 10


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_picked_are_the_first_by_key_in_each_cluster(seed, k):
    rng = np.random.default_rng(seed)
    labels, distances = rng.integers(-1, k, 40), rng.integers(0, 9, 40).astype(float)
    quotas = rng.integers(0, 12, k)
    for rule, sign in ((otc.PickNearest(), 1), (otc.PickFarthest(), -1)):
        expected = []
        for cluster in range(k):
            own = np.flatnonzero(labels == cluster)
            expected += own[np.argsort(sign * distances[own], kind="stable")][: quotas[cluster]].tolist()
        np.testing.assert_array_equal(picked(labels, distances, quotas, rule, rng), np.sort(expected))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_the_tree_holds_together(library, metric):
    lay = LIBRARIES[library]
    tree, x = small_tree(lay, metric=metric)
    assert (tree.n_levels, tree.n_clusters, tree.n_samples) == (3, (30, 8, 3), 380)
    for array in (
        *tree.centroids,
        *tree.parents,
        tree.labels,
        tree.distances,
        tree.sizes(2),
        tree.labels_at(3),
        tree.sample(5),
    ):
        assert type(array) is type(lay(x))
    centroids = [to_numpy(each) for each in tree.centroids]
    rows = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    for below, above, labels in zip([rows, *centroids], centroids, [tree.labels, *tree.parents], strict=False):
        far = ((below[:, None] - above) ** 2).sum(-1)
        own = np.take_along_axis(far, to_numpy(labels)[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(own, far.min(1), atol=1e-9)
    np.testing.assert_allclose(to_numpy(tree.distances), ((rows[:, None] - centroids[0]) ** 2).sum(-1).min(1), atol=1e-9)
    labels = [np.arange(380)] + [to_numpy(tree.labels_at(level)) for level in (1, 2, 3)]
    for level in (1, 2, 3):
        np.testing.assert_array_equal(
            to_numpy(tree.sizes(level)), np.bincount(labels[level], minlength=tree.n_clusters[level - 1])
        )
        seen = [to_numpy(tree.children(level, cluster)) for cluster in range(tree.n_clusters[level - 1])]
        assert sorted(np.concatenate(seen)) == list(range((380, 30, 8)[level - 1]))
        for cluster, below in enumerate(seen):
            assert (np.diff(below) > 0).all()
            assert set(labels[level - 1][labels[level] == cluster]) == set(below) & set(labels[level - 1])


@pytest.mark.parametrize("rule", [otc.PickRandom(), otc.PickNearest(), otc.PickFarthest()])
@pytest.mark.parametrize("n", [0, 1, 2, 57, 200, 379, 380])
def test_a_sample_has_the_size_and_the_quotas_of_every_level(n, rule):
    tree, _ = small_tree()
    chosen = tree.sample(n, rule=rule, seed=3)
    assert len(np.unique(chosen)) == len(chosen) == n
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, tree.sample(n, rule=rule, seed=3))
    got = [np.bincount(tree.labels_at(level)[chosen], minlength=tree.n_clusters[level - 1]) for level in (1, 2, 3)]
    np.testing.assert_array_equal(np.sort(got[2]), np.sort(one_by_one(tree.sizes(3), n)))
    for level in (2, 3):
        for cluster in range(tree.n_clusters[level - 1]):
            own = tree.children(level, cluster)
            expected = one_by_one(tree.sizes(level - 1)[own], got[level - 1][cluster])
            np.testing.assert_array_equal(np.sort(got[level - 2][own]), np.sort(expected))
    if not isinstance(rule, otc.PickRandom):
        sign = 1 if isinstance(rule, otc.PickNearest) else -1
        for cluster in range(30):
            own = tree.children(1, cluster)
            inside = np.isin(own, chosen)
            if inside.any() and not inside.all():
                assert (sign * tree.distances[own[inside]]).max() <= (sign * tree.distances[own[~inside]]).min()


def test_samples_are_balanced_where_the_data_are_not():
    x, which = squares([6000, 2000, 600, 200, 60])
    tree = otc.hierarchical_kmeans(x, (50, 5), resample=otc.Resample(rounds=5))
    drawn = np.bincount(which[tree.sample(250)], minlength=5)
    assert drawn.tolist() == [50] * 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", [otc.PickNearest(), otc.PickRandom()])
def test_resampling_spreads_centroids_over_the_support(seed, rule):
    # Squares of equal extent should have equally many centroids. Over ten seeds what is above 1 falls to 0.25 to 0.56 of what
    # it is for plain k-means.
    x, _ = squares([6000, 2000, 600, 200, 60], seed)

    def uneven(rounds):
        points = otc.hierarchical_kmeans(x, (50,), resample=otc.Resample(rounds, rule=rule), seed=seed).centroids[0]
        near = ((points[:, None] - CENTRES) ** 2).sum(-1).argmin(1)
        return imbalance_factor(np.bincount(near, minlength=5)) - 1

    assert uneven(10) < 0.75 * uneven(0)


def test_without_rounds_a_level_is_plain_k_means():
    x, _ = squares([100, 50, 20, 20, 10])
    tree = otc.hierarchical_kmeans(x, (12, 3), resample=otc.Resample(rounds=0), init=otc.KMeansPlusPlus(1))
    again = otc.kmeans(x, 12, init=tree.centroids[0])
    assert again.n_iter <= 2
    np.testing.assert_array_equal(again.labels, tree.labels)
    np.testing.assert_array_equal(otc.kmeans(tree.centroids[0], 3, init=tree.centroids[1]).labels, tree.parents[0])


def test_files_give_the_tree_of_arrays(tmp_path):
    tree, x = small_tree()
    np.save(tmp_path / "x.npy", x)
    streamed = otc.hierarchical_kmeans(
        NpyFile(tmp_path / "x.npy"), (30, 8, 3), resample=otc.Resample(rounds=2), init=otc.KMeansPlusPlus()
    )
    for level in (1, 2, 3):
        np.testing.assert_array_equal(tree.labels_at(level), streamed.labels_at(level))
        np.testing.assert_allclose(tree.centroids[level - 1], streamed.centroids[level - 1])
    np.testing.assert_array_equal(tree.sample(40), streamed.sample(40))


def test_balanced_levels():
    x, _ = squares([60, 20, 20, 10, 10])
    tree = otc.hierarchical_kmeans(x, (12, 3), assign=otc.ExactBalanced(), resample=otc.Resample(rounds=2))
    assert tree.sizes(1).tolist() == [10] * 12
    assert tree.sizes(2).tolist() == [40] * 3


def test_samples_without_weight_make_no_centroids():
    x, which = squares([100, 100, 100, 20, 20])
    tree = otc.hierarchical_kmeans(x, (12, 4), sample_weight=(which < 3).astype(float), resample=otc.Resample(rounds=3))
    assert tree.n_samples == 340
    assert tree.centroids[0][:, 1].max() < 13
    assert (((tree.centroids[0][:, None] - CENTRES[:3]) ** 2).sum(-1).min(1) < 8).all()


@pytest.mark.filterwarnings("ignore:.*hold no sample:UserWarning")
def test_clusters_without_samples_have_no_say_above():
    x = np.repeat(np.array([[0.0], [1.0], [10.0], [11.0]]), [5, 3, 2, 4], axis=0)
    tree = otc.hierarchical_kmeans(x, (7, 2))
    assert sorted(tree.sizes(1).tolist()) == [0, 0, 0, 2, 3, 4, 5]
    assert sorted(tree.sizes(2).tolist()) == [6, 8]
    assert sorted(np.bincount(tree.labels_at(2)[tree.sample(6)]).tolist()) == [3, 3]
    with pytest.raises(ValueError, match=r"level 2 .* clusters of level 1 that hold samples, 4; got 5"):
        otc.hierarchical_kmeans(x, (7, 5))


def test_inputs_and_the_global_random_state_are_left_alone():
    x, _ = squares([40, 20, 10, 5, 5])
    x.setflags(write=False)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (otc.hierarchical_kmeans(x, (10, 3), seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.centroids[0], second.centroids[0])
    first.sample(9)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"n_clusters": 9}, TypeError, r"n_clusters must hold a number for each level, such as \(1000, 100\), got 9"),
        ({"n_clusters": ()}, TypeError, "n_clusters must hold a number for each level"),
        ({"n_clusters": (9, 2.5)}, TypeError, "n_clusters must be a whole number, got 2.5"),
        ({"n_clusters": (9, 0)}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": (3, 9)}, ValueError, r"n_clusters must decrease from level to level.*got \(3, 9\)"),
        ({"n_clusters": (99, 9)}, ValueError, "level 1 must have at most as many clusters as there are samples, 40; got 99"),
        ({"resample": 3}, TypeError, "resample must be Resample"),
        ({"resample": otc.Resample(per_cluster=(3,))}, ValueError, "per_cluster must have one number for each of the 2 levels"),
        ({"metric": "dot"}, ValueError, "metric must be one of"),
        ({"assign": "nearest"}, TypeError, "assign must be a solver"),
        ({"init": "k-means++"}, TypeError, "init must be KMeansPlusPlus"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"x": np.full((40, 2), np.nan)}, ValueError, "x must be finite"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight must hold one number"),
        ({"sample_weight": np.eye(40)[0]}, ValueError, "level 1 must have at most as many clusters as there are samples, 1"),
    ],
)
def test_bad_arguments_are_named(changes, error, match):
    arguments = {"x": np.arange(80.0).reshape(40, 2), "n_clusters": (9, 3), **changes}
    with pytest.raises(error, match=match):
        otc.hierarchical_kmeans(arguments.pop("x"), arguments.pop("n_clusters"), **arguments)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda tree: tree.sample(381), ValueError, "n must be at most the number of samples, 380, got 381"),
        (lambda tree: tree.sample(-1), ValueError, "got -1"),
        (lambda tree: tree.sample(2.5), TypeError, "n must be a whole number, got 2.5"),
        (lambda tree: tree.sample(5, seed=-1), ValueError, "seed must be at least 0"),
        (lambda tree: tree.sample(5, rule=otc.PickNearest), TypeError, "rule must be PickRandom"),
        (lambda tree: tree.labels_at(0), ValueError, "level must be at least 1, got 0"),
        (lambda tree: tree.sizes(4), ValueError, "level must be from 1 to 3, got 4"),
        (lambda tree: tree.children(3, 3), ValueError, "cluster must be from 0 to 2 at level 3, got 3"),
        (lambda tree: otc.Resample(rounds=-1), ValueError, "rounds must be at least 0"),
        (lambda tree: otc.Resample(rounds=1.5), TypeError, "rounds must be a whole number"),
        (lambda tree: otc.Resample(per_cluster=(3, 0)), ValueError, "per_cluster must be at least 1"),
        (lambda tree: otc.Resample(rule="nearest"), TypeError, "rule must be"),
    ],
)
def test_bad_questions_are_named(make, error, match):
    tree, _ = small_tree()
    with pytest.raises(error, match=match):
        make(tree)


def test_a_rule_of_ones_own():
    class Evens:
        def keys(self, distances, rng):
            return np.arange(len(distances)) % 2

    tree, _ = small_tree(n_clusters=(1,))
    assert (tree.sample(190, rule=Evens()) % 2 == 0).all()

    class Short:
        def keys(self, distances, rng):
            return distances[:3]

    with pytest.raises(ValueError, match="rule must give one key for each of the 380 samples"):
        tree.sample(5, rule=Short())
