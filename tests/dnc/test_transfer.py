"""Nothing is lost in transfer: backbones begin with all weights of a run, and classes come and go without training."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from otcluster.dnc import (
    Ablation,
    Classifier,
    DNCHead,
    Evidence,
    LinearHead,
    ScoreNorm,
    ablate,
    evaluate,
    export,
    load_recipe,
    load_run,
    predict,
    train,
    training,
)
from otcluster.dnc.ablations.variants import vary
from otcluster.dnc.classes import append_class, counts_of, drop_class, give_places
from otcluster.dnc.commands import app
from otcluster.dnc.data import load_data
from otcluster.dnc.editing import remove_class
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.transfer import digest, starting_point
from otcluster.dnc.typical import TypicalImages
from otcluster.runs.errors import RunError
from tests.dnc.conftest import listing, small, write_images


class Watch:
    """Keeps the backbone as it is before the first step."""

    def __init__(self, monkeypatch):
        self.first = None
        begin = training.begin_with

        def watched(model, recipe, weights):
            begin(model, recipe, weights)
            self.first = {name: value.clone() for name, value in model.backbone.state_dict().items()}

        monkeypatch.setattr(training, "begin_with", watched)


def backbone_of(run):
    return load_run(run).model.backbone.state_dict()


def test_every_tensor_of_a_run_is_what_another_begins_with(small_run, tmp_path, monkeypatch):
    write_images(tmp_path / "other" / "train", classes=("ant", "bee"), n=9, seed=3)
    watch = Watch(monkeypatch)
    train(small(tmp_path / "other", "train.seed=7"), tmp_path / "run", init_from=small_run / "run")
    source = backbone_of(small_run / "run")
    assert watch.first.keys() == source.keys()
    assert all(torch.equal(value, source[name]) for name, value in watch.first.items())
    recipe = load_run(tmp_path / "run").recipe
    assert recipe.backbone.init_from == str(small_run / "run")
    assert recipe.backbone.init_digest == digest(source)
    trained = backbone_of(tmp_path / "run")
    assert any(not torch.equal(value, source[name]) for name, value in trained.items())
    alone = tmp_path / "alone"
    train(small(tmp_path / "other", "train.seed=7"), alone)
    assert any(not torch.equal(value, trained[name]) for name, value in backbone_of(alone).items())


def test_of_averaged_weights_it_is_the_average(small_run, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    train(small(small_run / "images", "train.ema=0.5"), tmp_path / "averaged")
    train(small(small_run / "images"), tmp_path / "run", init_from=tmp_path / "averaged")
    source = backbone_of(tmp_path / "averaged")
    assert all(torch.equal(value, source[name]) for name, value in watch.first.items())


def test_the_command_goes_on_and_checks_the_weights_it_began_with(small_run, tmp_path):
    shutil.copytree(small_run / "run", tmp_path / "source")
    changes = ["backbone.name=test_resnet", "data.image_size=16", "data.batch_size=8", "train.epochs=1", "memory.capacity=64"]
    command = ["train", "image-folder", *changes, "--data", str(small_run / "images"), "--out", str(tmp_path / "run")]
    command += ["--init-from", str(tmp_path / "source")]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    n = len(backbone_of(small_run / "run"))
    assert f"begins with all {n} tensors" in first.stdout
    assert "is finished: nothing to train" in CliRunner().invoke(app, command).stdout
    moved = tmp_path / "moved"
    (tmp_path / "source").rename(moved)
    assert CliRunner().invoke(app, [*command[:-1], str(moved)]).exit_code == 0  # the same weights elsewhere
    recipe = load_run(tmp_path / "run").recipe
    (tmp_path / "run" / "metrics.json").unlink()
    train(recipe, tmp_path / "run")  # it has begun: what it began with need not be there
    with pytest.raises(RecipeError, match="is not there any more, and this run has not begun yet"):
        train(recipe, tmp_path / "new")
    before = listing(tmp_path / "run")
    train(small(small_run / "images", "train.seed=1"), tmp_path / "another")
    other = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "another")])
    assert other.exit_code == 2
    assert "backbone.init_digest is" in other.stderr
    assert listing(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["backbone.name=test_vit"], r"backbone\.init_from: .* is of another model: the (model|checkpoint) has no \S+"),
        (["backbone.name=test_resnet", "data.channels=1"], r"trained on images of 3 channels, and data\.channels is 1"),
        (["backbone.init_digest=abc"], r"holds other weights than those of backbone\.init_digest=abc"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_begun(small_run, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(small(small_run / "images", *changes), tmp_path / "run", init_from=small_run / "run")
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_no_run_is_named(small_run, tmp_path):
    with pytest.raises(RecipeError, match=r"backbone\.init_from: .* is no run"):
        train(small(small_run / "images"), tmp_path / "run", init_from=tmp_path / "none")
    with pytest.raises(RecipeError, match="leave one out"):
        small(small_run / "images", "backbone.init_from=x", "backbone.pretrained=true")
    recipe = small(None)
    assert starting_point(recipe) == (recipe, None)


def test_variants_begin_with_a_run_too(small_run, tmp_path):
    changes = ["backbone.name=test_resnet", "data.image_size=16", "data.batch_size=8", "train.epochs=1"]
    changes.append(f"backbone.init_from={small_run / 'run'}")
    made = Ablation.plan("image-folder", changes, axes=[vary("memory.capacity=0,64")], seeds=1, data=str(small_run / "images"))
    for _ in range(2):
        comparison = ablate(made, tmp_path / "out")
        assert [row.n for row in comparison.rows] == [1, 1]


@pytest.fixture
def head():
    """Two classes along the first two axes of four, three sub-centroids each."""
    head = DNCHead(4, n_classes=2, n_subcentroids=3, memory=32)
    generator = torch.Generator().manual_seed(0)
    features = torch.eye(4)[:2].repeat_interleave(8, 0) + 0.1 * torch.randn(16, 4, generator=generator)
    head.observe(features, torch.arange(2).repeat_interleave(8))
    return head


def around(axis, n, seed=1):
    return torch.eye(4)[axis] + 0.1 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def test_a_class_is_added_beside_the_others_and_wins_its_own_features(head):
    before, features = head.subcentroids.clone(), around(2, 60)
    logits = head(around(0, 5))
    append_class(head, features)
    assert head.n_classes == 3
    assert counts_of(head) == [3, 3, 24]
    assert torch.equal(head.subcentroids[:2, :3], before)
    assert not head.subcentroids[:2, 3:].any()
    torch.testing.assert_close(head(around(0, 5))[:, :2], logits)
    assert head(around(2, 9, seed=2)).argmax(dim=1).tolist() == [2] * 9
    torch.testing.assert_close(head.subcentroids[2].norm(dim=1), torch.ones(24))
    assert head.store.started.all()
    assert torch.equal(head.memory.labels.unique(), torch.tensor([0, 1]))
    head.observe(torch.cat([features, around(0, 8)]), torch.tensor([2] * 60 + [0] * 8))  # and training goes on


def test_the_subcentroids_of_a_new_class_share_its_images(head):
    features = around(2, 20)
    append_class(head, features, n_subcentroids=12)
    assert len(head.similarities(features)[:, 2].argmax(dim=1).unique()) >= 9


def test_the_subcentroids_of_a_new_class_are_the_means_of_what_they_are_given(head):
    features = torch.cat([around(2, 12), around(3, 12)])
    append_class(head, features, n_subcentroids=2)
    assert counts_of(head) == [3, 3, 2]
    unit = torch.nn.functional.normalize(features, dim=1)
    means = torch.stack([torch.nn.functional.normalize(half.mean(dim=0), dim=0) for half in unit.split(12)])
    found = head.subcentroids[2, :2]
    found = found[found[:, 2].argsort(descending=True)]
    torch.testing.assert_close(found, means)
    assert torch.isinf(head.similarities(features)[:, 2, 2]).all()


def test_one_image_is_enough_and_more_subcentroids_than_before_too(head):
    append_class(head, around(3, 1))
    assert counts_of(head) == [3, 3, 1]
    torch.testing.assert_close(head.subcentroids[2, 0], torch.nn.functional.normalize(around(3, 1), dim=1)[0])
    append_class(head, around(2, 9), n_subcentroids=5)
    assert counts_of(head) == [3, 3, 1, 5]
    assert head(torch.eye(4)).argmax(dim=1).tolist() == [0, 1, 3, 2]
    drop_class(head, 3)
    assert head.subcentroids.shape == (3, 3, 4)
    for features, message in ((torch.zeros(0, 4), "n at least 1"), (torch.zeros(2, 3), r"shape \(n, 4\)")):
        with pytest.raises(ValueError, match=message):
            append_class(head, features)
    with pytest.raises(ValueError, match="n_subcentroids must lie in 1 to 2"):
        append_class(head, around(2, 2), n_subcentroids=3)
    with pytest.raises(ValueError, match="finite"):
        append_class(head, torch.full((2, 4), torch.nan))
    assert head.n_classes == 3


def test_a_class_added_and_removed_leaves_the_head_as_it_was(head):
    before = {name: value.clone() for name, value in head.state_dict().items()}
    append_class(head, around(2, 20))
    drop_class(head, 2)
    after = head.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(value, before[name]), name


def test_a_head_that_grew_keeps_what_it_has_and_grows_no_more():
    head = DNCHead(4, n_classes=2, n_subcentroids=2, memory=0, growth=Evidence(k_max=6))
    head.observe(torch.cat([around(0, 8), around(1, 8)]), torch.arange(2).repeat_interleave(8))
    is_open = torch.zeros(2, 6, dtype=torch.bool)
    is_open[0, [0, 4]] = is_open[1, 1] = True
    means = torch.nn.functional.normalize(torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(3)), dim=-1)
    head.store.rearrange(is_open, is_open, means, torch.ones(2, 6))
    features = torch.cat([around(0, 5), around(1, 5), around(2, 5)])
    logits = head(features)
    append_class(head, around(2, 9), n_subcentroids=3)
    assert counts_of(head) == [2, 1, 3]
    assert head.growing is None
    torch.testing.assert_close(head(features)[:, :2], logits)
    other = DNCHead(4, n_classes=3, n_subcentroids=2, memory=0, growth=Evidence(k_max=6))
    give_places(other, head.store.is_open)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(features), head(features))


def test_a_class_in_the_middle_is_forgotten_with_its_memory(head):
    append_class(head, around(2, 20))
    head.observe(around(2, 4), torch.full((4,), 2))
    rest = head.subcentroids[[0, 2]].clone()
    assert rest.shape[1] == 20
    kept = head.memory.features[head.memory.labels != 1]
    drop_class(head, 1)
    assert torch.equal(head.subcentroids, rest)
    assert sorted(set(head.memory.labels.tolist())) == [0, 1]
    assert torch.equal(head.memory.features, kept)
    assert head(torch.eye(4)[[0, 2]]).argmax(dim=1).tolist() == [0, 1]
    with pytest.raises(ValueError, match="label must lie in 0 to 1, got 2"):
        drop_class(head, 2)
    drop_class(head, 0)
    with pytest.raises(ValueError, match="the only class"):
        drop_class(head, 0)


def test_a_head_with_weights_of_its_classes_says_so():
    model = Classifier(torch.nn.Flatten(), LinearHead(4, 2))
    for change in (lambda: model.add_class(torch.zeros(3, 4), "x"), lambda: model.remove_class("0")):
        with pytest.raises(TypeError, match="where a head has sub-centroids"):
            change()
    normed = Classifier(torch.nn.Flatten(), DNCHead(4, n_classes=2, scaling=ScoreNorm(2)))
    with pytest.raises(TypeError, match=r"head\.scaling=layer_norm has weights for each class"):
        normed.add_class(torch.rand(3, 4), "x")
    model = Classifier(torch.nn.Flatten(), DNCHead(4, n_classes=2))
    with pytest.raises(ValueError, match="there is a class 1 already"):
        model.add_class(torch.rand(3, 4), "1")
    with pytest.raises(ValueError, match="there is no class 'x', only 0, 1"):
        model.remove_class("x")


@pytest.mark.parametrize("n", [2, 12])
def test_a_run_with_one_class_more_predicts_and_is_loaded_as_it_was_written(small_run, tmp_path, n):
    write_images(tmp_path / "new", classes=("yak",), n=n, seed=5)
    write_images(tmp_path / "all" / "test", classes=("cat", "dog", "owl", "yak"), n=4, seed=1)
    out, source = tmp_path / "out", small_run / "run"
    before = listing(source)
    result = CliRunner().invoke(app, ["add-class", str(source), "yak", str(tmp_path / "new" / "yak"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "knows 4 classes, yak with them" in result.stdout
    assert listing(source) == before
    run, old = load_run(out), load_run(source)
    assert run.classes == run.model.classes == ["cat", "dog", "owl", "yak"]
    assert counts_of(run.model.head) == [4, 4, 4, n]
    pictures = [old.load_test().read(at) for at in range(12)]
    torch.testing.assert_close(run.model.predict(pictures).features, old.model.predict(pictures).features)
    (found,) = predict(run, [tmp_path / "new" / "yak" / "000.png"])
    typical = TypicalImages.load(run.files)
    assert int(typical.sizes[3].sum()) == n
    if found.label == "yak":
        assert all("yak" in name for name, _ in found.nearest)
    evaluated = CliRunner().invoke(app, ["eval", str(out), "--data", str(tmp_path / "all")])
    assert evaluated.exit_code == 0, evaluated.output
    assert "on 16 images" in evaluated.stdout
    with pytest.raises(RunError, match="was trained on other images"):
        train(small(small_run / "images"), out)
    refused = CliRunner().invoke(app, ["add-class", str(source), "yak", str(tmp_path / "new" / "yak"), "--out", str(out)])
    assert refused.exit_code == 2
    assert "exists: choose another --out" in refused.stderr
    export(run, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    logits, won = program(torch.stack([run.model.convert(each) for each in pictures]))
    assert torch.equal(logits.argmax(dim=1), run.model.predict(pictures).labels)
    assert torch.equal(won, run.model.predict(pictures).subcentroids)
    back = CliRunner().invoke(app, ["remove-class", str(out), "yak", "--out", str(tmp_path / "back")])
    assert back.exit_code == 0, back.output
    state, expected = load_run(tmp_path / "back").model.state_dict(), old.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.items() if "memory" not in name)
    images, names = TypicalImages.load(load_run(tmp_path / "back").files), TypicalImages.load(old.files)
    assert images.names == names.names
    assert torch.equal(images.sizes[:, :4], names.sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat", "IMAGES/test/cat"], "there is a class cat already"),
        (["yak", "IMAGES/none.png"], r"none\.png cannot be read"),
        (["yak", "IMAGES/empty"], "holds no images"),
    ],
)
def test_a_class_that_cannot_be_added_leaves_nothing(small_run, tmp_path, arguments, message):
    images = shutil.copytree(small_run / "images", tmp_path / "images")
    (images / "empty").mkdir()
    given = [each.replace("IMAGES", str(images)) for each in arguments]
    result = CliRunner().invoke(app, ["add-class", str(small_run / "run"), *given, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message.replace("\\", "") in result.stderr
    assert not (tmp_path / "out").exists()


EPOCHS, LEFT_OUT = 6, 3


@pytest.fixture(scope="session")
def digit_runs(tmp_path_factory):
    """The digits as image folders, with and without one of them, and a run on each."""
    root = tmp_path_factory.mktemp("left-out")
    data = load_data(load_recipe("digits").data)
    for name, split in (("train", data.train), ("test", data.test)):
        for at, label in enumerate(split.labels.tolist()):
            for part in ("all", "fewer") if label != LEFT_OUT else ("all",):
                folder = root / part / name / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                split.read(at).save(folder / f"{at:04}.png")
    changes = [
        "backbone.name=test_resnet", "data.channels=1", "data.image_size=16", "data.batch_size=64", "data.augment=crop",
        "memory.capacity=1024", "optim.lr=0.003", "optim.weight_decay=0.01", f"train.epochs={EPOCHS}",
        "train.test_every=100", "train.accelerator=cpu",
    ]  # fmt: skip
    for part in ("all", "fewer"):
        train(load_recipe("image-folder", [*changes, f"data.dir={root / part}"]), root / f"run-{part}")
    return root


def test_a_digit_that_was_left_out_is_added_with_nine_tenths_of_what_training_with_it_gives(digit_runs, tmp_path):
    trained = json.loads((digit_runs / "run-all" / "metrics.json").read_text())["test"]
    assert trained["accuracy"] > 0.85
    run = load_run(digit_runs / "run-fewer", data_dir=str(digit_runs / "all"))
    images = load_data(run.recipe.data).train
    own = torch.nonzero(images.labels == LEFT_OUT).flatten().tolist()
    label = run.model.add_class([images.read(at) for at in own], str(LEFT_OUT))
    assert run.model.classes == [*(str(digit) for digit in range(10) if digit != LEFT_OUT), str(LEFT_OUT)]
    run.classes[:] = run.model.classes
    found = evaluate(run.model, run.load_test(), run.recipe.data)
    right = (found.predictions == found.labels).float()
    assert len(right) == 359
    assert float(right.mean()) >= 0.9 * trained["accuracy"]
    assert float(right[found.labels == label].mean()) >= 0.9 * trained["per_class"][str(LEFT_OUT)]


def test_digits_that_were_removed_are_left_out_of_the_test_and_the_others_keep_their_names(tmp_path):
    train(load_recipe("digits", ["train.epochs=1", "data.image_size=8"]), tmp_path / "run")
    less = remove_class(load_run(tmp_path / "run"), "3", tmp_path / "less")
    whole, test = load_run(tmp_path / "run").load_test(), less.load_test()
    kept = [name for name, label in zip(whole.names, whole.labels.tolist(), strict=True) if label != 3]
    assert test.names == kept
    assert [less.classes[label] for label in test.labels.tolist()] == [
        str(label) for label in whole.labels.tolist() if label != 3
    ]
    assert evaluate(less.model, test, less.recipe.data).metrics(less.classes)["images"] == len(kept)


@pytest.mark.parametrize("name", ["", " ", 7])
def test_a_class_without_a_name_is_refused(name):
    model = Classifier(torch.nn.Flatten(), DNCHead(4, n_classes=2))
    with pytest.raises(ValueError, match="name must be a text that is not empty, got"):
        model.add_class(torch.rand(3, 4), name)
    assert model.classes is None
