"""Recipes as YAML; ``otcluster dnc recipes`` lists them."""
