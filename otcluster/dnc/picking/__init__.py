"""Picking by hand: a person corrects a trained model, without training it."""

from __future__ import annotations

from otcluster.dnc.picking.edits import Drop, Edit, Merge, Rename, Replace
from otcluster.dnc.picking.reading import load_edits
from otcluster.dnc.picking.work import edit

__all__ = ["Drop", "Edit", "Merge", "Rename", "Replace", "edit", "load_edits"]
