"""Names and numbers of sub-centroids stay when classes come and go, and where a run that grew has gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otcluster.dnc import Drop, Merge, Rename, edit, evaluate, load_run, overview, train
from otcluster.dnc.checkpoint import load_checkpoint, save_checkpoint
from otcluster.dnc.editing import add_class, remove_class
from otcluster.dnc.typical import TypicalImages, find_typical
from otcluster.runs.errors import RunError
from tests.dnc.conftest import small
from tests.dnc.edited import before, check


def test_names_and_numbers_stay_when_classes_come_and_go(small_run, tmp_path):
    run = edit(load_run(small_run / "run"), [Rename("owl #4", "barn owl"), Drop("owl #2"), Drop("cat #1")], tmp_path / "edited")
    old = before(run)
    folder = small_run / "images" / "train" / "cat"
    add_class(run, "yak", [folder], tmp_path / "more", n_subcentroids=6)
    more = load_run(tmp_path / "more")
    assert more.names[2] == ["owl #1", "owl #2", "owl #3", "barn owl", "owl #5", "owl #6"]
    assert more.names[3] == [f"yak #{at}" for at in range(1, 7)]
    np.testing.assert_array_equal(before(more)[:3, :4], old)
    assert not before(more)[:3, 4:].any()
    shown = [each.name for each in overview(more).subcentroids]
    assert shown == [
        *("cat #2", "cat #3", "cat #4", "dog #1", "dog #2", "dog #3", "dog #4", "owl #1", "owl #3", "barn owl"),
        *more.names[3],
    ]
    assert sum(each.size for each in overview(more).subcentroids) == 48
    edited = edit(more, [Merge(["yak #1", "yak #2"]), Drop("dog #1")], tmp_path / "kept")  # of what is kept, which is all
    assert TypicalImages.load(edited.files).sizes.sum(dim=1).tolist() == [12, 12, 12, 12]
    remove_class(load_run(tmp_path / "kept"), "cat", tmp_path / "less")
    less = load_run(tmp_path / "less")
    assert less.names == edited.names[1:]
    assert [each.name for each in overview(less).subcentroids][3:6] == ["owl #1", "owl #3", "barn owl"]
    np.testing.assert_array_equal(before(less), before(edited)[1:])


def test_a_run_that_was_written_with_numbers_of_subcentroids_alone_is_read(small_run, tmp_path):
    add_class(load_run(small_run / "run"), "yak", [small_run / "images" / "train" / "cat"], tmp_path / "run", n_subcentroids=6)
    run = load_run(tmp_path / "run")
    weights, state = load_checkpoint(run.files.checkpoints)
    del state["names"]
    save_checkpoint(run.files.checkpoints, 1, weights, {**state, "subcentroids": [4, 4, 4, 6]})
    again = load_run(tmp_path / "run")
    assert again.model.head.n_open.tolist() == [4, 4, 4, 6]
    assert again.names[3][5] == "yak #6"
    np.testing.assert_array_equal(before(again), before(run))


def test_a_class_is_not_added_whose_subcentroids_would_be_called_as_another(small_run, tmp_path):
    run = edit(load_run(small_run / "run"), [Rename("cat #1", "yak #2"), Rename("cat #2", "gnu #x")], tmp_path / "edited")
    folder = small_run / "images" / "train" / "cat"
    with pytest.raises(RunError, match="there is a sub-centroid called 'yak #2'"):
        add_class(run, "yak", [folder], tmp_path / "more")
    assert add_class(run, "gnu", [folder], tmp_path / "more").classes[-1] == "gnu"


@pytest.fixture(scope="module")
def grown(small_run, tmp_path_factory):
    """A run whose classes chose their numbers, with gaps between them."""
    root = tmp_path_factory.mktemp("grown") / "run"
    train(small(small_run / "images", "growth.kind=evidence", "growth.k_max=5", "head.n_subcentroids=2"), root)
    run = load_run(root)
    store, images = run.model.head.store, run.load_train()
    trained = evaluate(run.model, images, run.recipe.data)
    means = nn.functional.normalize(trained.features, dim=1).view(3, 12, -1)[:, :5].contiguous()
    is_open = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)
    store.rearrange(is_open, is_open, means, torch.ones(3, 5))
    save_checkpoint(run.files.checkpoints, 99, run.model.state_dict(), {"classes": run.classes})
    find_typical(run.model, trained, images, 3, 50).save(run.files)
    return root


def test_gaps_of_a_run_that_grew_stay(grown, tmp_path, small_run):
    run = load_run(grown)
    assert run.model.head.growing is not None
    shown = [each.name for each in overview(run).subcentroids]
    assert shown == ["cat #1", "cat #3", "cat #5", "dog #2", "dog #3", "dog #4", "owl #1", "owl #4"]
    with pytest.raises(RunError, match="there is no sub-centroid 'cat #2'"):
        edit(run, [Drop("cat #2")], tmp_path / "new")
    with pytest.raises(RunError, match="class cat has no sub-centroid 2, only 1, 3, 5"):
        edit(run, [Drop(("cat", 2))], tmp_path / "new")
    edit(run, [Rename("cat #3", "cat #2"), Drop("cat #5"), Merge(["dog #2", "dog #4"])], tmp_path / "new")
    new = load_run(tmp_path / "new")
    assert [each.name for each in overview(new).subcentroids] == ["cat #1", "cat #2", "dog #2", "dog #3", "owl #1", "owl #4"]
    left = before(new)
    np.testing.assert_array_equal(left[0, [0, 2]], before(run)[0, [0, 2]])
    check(new, left)
    add_class(load_run(grown), "yak", [small_run / "images" / "train" / "cat"], tmp_path / "more", n_subcentroids=3)
    more = load_run(tmp_path / "more")
    assert [each.name for each in overview(more).subcentroids] == [*shown, "yak #1", "yak #2", "yak #3"]
    assert [each.size for each in overview(more).subcentroids][:8] == [each.size for each in overview(run).subcentroids]
