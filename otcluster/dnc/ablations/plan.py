"""Which runs an ablation is made of, laid out and checked before any is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from otcluster.dnc.ablations.variants import Axis, Variant, combined
from otcluster.dnc.errors import RecipeError
from otcluster.dnc.recipe import DataConfig, Recipe, at_folder, load_recipe
from otcluster.dnc.recipe_values import FOLDS
from otcluster.dnc.transfer import starting_point


@dataclass(frozen=True)
class Run:
    """One training of an ablation.

    Attributes:
        variant: Whose run it is.
        seed: ``train.seed``.
        split: Which way of holding out test images, from 0: a fold of the recipe's five, then of those of the next
            ``data.split_seed``.
        recipe: What is trained.
        folder: Where, below the directory of the ablation.
    """

    variant: Variant
    seed: int
    split: int
    recipe: Recipe
    folder: str


@dataclass(frozen=True)
class Ablation:
    """Variants of a recipe, and with how many seeds and splits each is trained.

    Made by :meth:`plan`, which finds every mistake in keys and values before anything is trained.

    Attributes:
        name: Of the recipe.
        axes: What is varied.
        variants: Every combination; the others are compared with the first.
        runs: Every training, the first seed of all variants first, so that a table is there early.
    """

    name: str
    axes: tuple[Axis, ...]
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]

    @classmethod
    def plan(
        cls,
        recipe: str,
        changes: Sequence[str] = (),
        *,
        axes: Sequence[Axis],
        seeds: int = 3,
        splits: int = 1,
        data: str | None = None,
    ) -> Ablation:
        """Lay out the runs.

        Args:
            recipe: A recipe of the package, or the path of a YAML file.
            changes: Those of all variants, ``key=value`` each.
            axes: What is varied, from :func:`otcluster.dnc.ablations.variants.vary` and its siblings; all are combined.
            seeds: How many; the first is ``train.seed`` of the recipe.
            splits: How many ways of holding out test images; the first is the recipe's own, five are its five folds.
            data: Folder of the images, for recipes that need one.

        Raises:
            RecipeError: There is no such recipe, key or value, for any variant; or two variants are the same.

        Example:
            >>> from otcluster.dnc.ablations.variants import vary
            >>> plan = Ablation.plan("digits", axes=[vary("head.kind=linear,dnc")], seeds=2)
            >>> [run.folder for run in plan.runs]
            ['head.kind=linear/seed-0', 'head.kind=dnc/seed-0', 'head.kind=linear/seed-1', 'head.kind=dnc/seed-1']
        """
        for name, number in (("seeds", seeds), ("splits", splits)):
            if number < 1:
                raise RecipeError(f"{name} must be at least 1, got {number}")
        variants = combined(axes)
        _check_once(variants, changes)
        bases = [_recipe_of(recipe, changes, variant, data) for variant in variants]
        _check_different(variants, bases)
        runs = []
        for at_split in range(splits):
            for at_seed in range(seeds):
                for variant, base in zip(variants, bases, strict=True):
                    seed = base.train.seed + at_seed
                    whole = replace(base, train=replace(base.train, seed=seed), data=_held_out(base.data, at_split))
                    folder = f"seed-{seed}" if at_split == 0 else f"split-{at_split}-seed-{seed}"
                    runs.append(Run(variant, seed, at_split, whole, f"{variant.folder}/{folder}"))
        return cls(bases[0].name, tuple(axes), tuple(variants), tuple(runs))


def _held_out(data: DataConfig, split: int) -> DataConfig:
    """The images of a split: the five folds first, which hold out each image once, then those of the next seed."""
    return replace(data, fold=(data.fold + split) % FOLDS, split_seed=data.split_seed + split // FOLDS)


def _check_once(variants: Sequence[Variant], changes: Sequence[str]) -> None:
    keys = {change.split("=", 1)[0] for change in changes}
    if both := keys & {key for variant in variants for key in variant.keys}:
        raise RecipeError(f"{min(both)} is varied and changed for all: leave one out")


def _recipe_of(name: str, changes: Sequence[str], variant: Variant, data: str | None) -> Recipe:
    try:
        recipe = load_recipe(name, [*changes, *variant.changes])
    except RecipeError as error:
        raise RecipeError(f"variant {variant.name}: {error}") from None
    folder = recipe.data.dir if data is None else data
    recipe = recipe if folder is None else at_folder(recipe, folder)
    return starting_point(recipe)[0]  # as its run will keep it


def _check_different(variants: Sequence[Variant], recipes: Sequence[Recipe]) -> None:
    seen: dict[str, Variant] = {}
    folders: dict[str, Variant] = {}
    for variant, recipe in zip(variants, recipes, strict=True):
        if (same := seen.setdefault(recipe.to_yaml(), variant)) is not variant:
            raise RecipeError(f"variants {same.name} and {variant.name} are the same recipe: leave one out")
        if (same := folders.setdefault(variant.folder, variant)) is not variant:
            raise RecipeError(f"variants {same.name} and {variant.name} would have the same folder: give one another name")
