"""Ablations: variants of a recipe, each trained with several seeds and splits, and compared; and the sets that are prepared."""
