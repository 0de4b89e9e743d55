"""The examples of the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent


class Alone:
    """The reducer of one rank without others."""

    def sum(self, array):
        return array

    def max(self, array):
        return array


def given():
    """What the pages take for granted."""
    rng = np.random.default_rng(0)
    backbone = torch.nn.Linear(12, 512)
    return {
        "scores": rng.uniform(-1, 1, (30, 4)),
        "own_rows_of_scores": rng.uniform(-1, 1, (10, 4)),
        "reducer": Alone(),
        "class_of_sample": rng.integers(0, 1000, 30),
        "backbone": backbone,
        "optimizer": torch.optim.SGD(backbone.parameters(), lr=0.1),
        "loader": [(torch.randn(8, 12, generator=torch.Generator().manual_seed(i)), torch.arange(8)) for i in range(2)],
    }


@pytest.mark.parametrize("page", ["README.md", "docs/solvers.md", "docs/dnc.md"])
def test_the_examples_of_a_page_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), given())


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+?)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
