"""Recipes: typed, checked, and helpful about mistakes."""

from __future__ import annotations

import pytest

from otcluster.dnc.errors import RecipeError
from otcluster.dnc.recipe import Recipe, at_folder, load_recipe, parse_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_is_whole(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_a_recipe_survives_its_own_yaml(tmp_path):
    recipe = load_recipe("digits", ["train.epochs=3", "solver.tol=null", "data.dir=a b"])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.epoch=3"], r"unknown key train\.epoch, did you mean train\.epochs\?"),
        (["epochs=3"], r"unknown key epochs, did you mean train\.epochs\?"),
        (["lr=0.1"], r"unknown key lr, did you mean optim\.lr\?"),
        (["train.momentum=1"], r"did you mean head\.momentum or optim\.momentum\?"),
        (["trian.epochs=3"], r"unknown key trian, did you mean train\?"),
        (["train.seed=99999999999999999999"], r"train\.seed must be less than 2\*\*63"),
        (["data.split_seed=9223372036854775808"], r"data\.split_seed must be less than"),
        (["head.n_subcentroid=3"], r"did you mean head\.n_subcentroids\?"),
        (["learning_rate=1"], r"unknown key learning_rate: there are name, .*, optim, train"),
        (["train.epochs=many"], r"train\.epochs must be a whole number, got 'many'"),
        (["train.epochs=2.5"], r"train\.epochs must be a whole number, got 2\.5"),
        (["train.epochs.x=1"], r"train\.epochs must be a whole number, got \{'x': 1\}"),
        (["head.kind="], r"head\.kind must be a word, got null"),
        (["backbone.pretrained=maybe"], r"backbone\.pretrained must be true or false, got 'maybe'"),
        (["optim.milestones=1,2"], r"optim\.milestones must be numbers in brackets, such as \[1,2\], got '1,2'"),
        (["train.shares=3"], r"train\.shares must be numbers in brackets, such as \[1,2\], or null, got 3"),
        (["data.mean={a: 1}"], r"data\.mean must be numbers in brackets"),
        (["backbone.options=[1]"], r"backbone\.options must be keys with their values in braces"),
        (["train.epochs=[1", "head.kind=linear"], r"the value of 'train\.epochs=\[1' cannot be read as YAML"),
        (["train.epochs=${nothing}"], r"train\.epochs: Interpolation key 'nothing' not found"),
        (["train.epochs=0"], r"train\.epochs must be at least 1"),
        (["train.epochs"], "write key=value"),
        (["=3"], "write key=value"),
        (["train=3"], r"train is a group of keys, such as train\.epochs"),
        (["head.kind=softmax"], r"head\.kind must be one of dnc, linear, .*got 'softmax'"),
        (["head.momentum=1.5"], r"head\.momentum must lie in \[0, 1\]"),
        (["head.temperature=0"], r"head\.temperature must be null or positive"),
        (["optim.lr=.nan"], r"optim\.lr must be"),
        (["solver.tol=-1"], r"solver\.tol must be null or not negative"),
        (["data.batch_size=1"], r"data\.batch_size must be at least 2"),
        (["data.fold=5"], r"data\.fold must be one of the 5 folds 0 to 4, got 5"),
        (["data.mean=[0.5,0.5]"], r"data\.mean must be one finite number or data\.channels=1 of them"),
        (["data.std=[0]"], r"data\.std must be positive"),
        (["data.crop_share=1.5"], r"data\.crop_share must be null or lie in"),
        (["data.labels_per_class=0"], r"data\.labels_per_class must be null or at least 1"),
        (["data.rand_augment=31"], r"data\.rand_augment must be a magnitude below 31"),
        (["data.mixup=-1"], r"data\.mixup must be at least 0"),
        (["optim.schedule=step"], r"optim\.schedule=step needs optim\.milestones"),
        (["optim.milestones=[5,3]"], r"optim\.milestones must be epochs in rising order"),
        (["optim.nesterov=true"], r"optim\.nesterov needs optim\.name=sgd"),
        (["head.kind=simclr", "data.mixup=0.2"], r"head\.kind=simclr compares two views of each image"),
        (["train.ema=1"], r"train\.ema must be less than 1"),
        (["backbone.stem=small"], r"backbone\.stem must be one of imagenet, cifar"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", changes)


def test_unknown_recipes_are_named_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe 'digit', did you mean digits\? \(choose one of ade20k"):
        load_recipe("digit")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        load_recipe(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    for content, message in (
        (b"a: [1,", "cannot be read"),
        (b"\xff\xfe", "cannot read recipe"),
        (b"# nothing", "is empty"),
        (b"3", "has no keys"),
    ):
        broken.write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(broken))


def test_folders_are_made_absolute_and_refused_where_none_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert at_folder(load_recipe("image-folder"), "x").data.dir == str(tmp_path / "x")
    assert at_folder(load_recipe("image-folder"), "~/x").data.dir == str(tmp_path / "home" / "x")
    with pytest.raises(RecipeError, match=r"data\.kind=digits takes no folder"):
        at_folder(load_recipe("digits"), "x")


def test_defaults_are_valid():
    assert parse_recipe({}, "nothing") == Recipe()
