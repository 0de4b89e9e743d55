"""The examples of the documentation run."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.distributed as dist

import otcluster as otc
from tests.reducers import run_ranks

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/ablations.md",
    "docs/automatic-k.md",
    "docs/choosing-k.md",
    "docs/choosing.md",
    "docs/coming-from.md",
    "docs/curation.md",
    "docs/distributed.md",
    "docs/dnc.md",
    "docs/rivals.md",
    "docs/estimators.md",
    "docs/explaining.md",
    "docs/kmeans.md",
    "docs/metrics.md",
    "docs/numerics.md",
    "docs/pixels.md",
    "docs/serving.md",
    "docs/solvers.md",
    "docs/stores.md",
    "docs/unknown.md",
]
# What examples may import beyond what the library needs, and where it comes from.
OTHERS = {
    "geomloss": "geomloss",
    "k_means_constrained": "k-means-constrained",
    "ot": "POT",
    "ott": "ott-jax",
    "sklearn": "scikit-learn",
}


class Alone:
    """The reducer of one rank without others."""

    def sum(self, array):
        return array

    def max(self, array):
        return array


def on_ranks(parts, function):
    """What ``function(part, reducer)`` returns on each of some ranks, put together."""
    return np.concatenate(run_ranks(len(parts), lambda rank, reducer: function(parts[rank], reducer)))


def given():
    """What the pages take for granted."""
    rng = np.random.default_rng(0)
    backbone = torch.nn.Linear(12, 512)
    return {
        "scores": rng.uniform(-1, 1, (30, 4)),
        "new_scores": rng.uniform(-1, 1, (7, 4)),
        "own_rows_of_scores": rng.uniform(-1, 1, (10, 4)),
        "reducer": Alone(),
        "on_ranks": on_ranks,
        "class_of_sample": rng.integers(0, 1000, 30),
        "backbone": backbone,
        "optimizer": torch.optim.SGD(backbone.parameters(), lr=0.1),
        "loader": [(torch.randn(8, 12, generator=torch.Generator().manual_seed(i)), torch.arange(8)) for i in range(2)],
    }


def blocks(page):
    """The examples of a page, each with the modules of ``OTHERS`` that it imports, in lines as they are in the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        code = block[1]
        imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
        yield "\n" * text.count("\n", 0, block.start(1)) + code, imported & OTHERS.keys()


def run(page, other=None):
    """Run the examples of a page that need nothing else, and those that need the module ``other``: what they define."""
    names = given()
    chosen = [code for code, needed in blocks(page) if needed <= {other}]
    assert chosen
    for code in chosen:
        exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page):
    run(page)


@pytest.mark.parametrize(
    ("page", "other"),
    [(page, other) for page in PAGES for other in sorted(set().union(*(needed for _, needed in blocks(page))))],
)
def test_the_examples_beside_another_package_run(page, other):
    pytest.importorskip(other, reason=f"examples of {page} need {OTHERS[other]}, which is not installed")
    run(page, other)


def test_the_examples_of_several_processes_run_in_a_process_group_too():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run("docs/distributed.md")
    finally:
        dist.destroy_process_group()


def test_the_decision_picture_has_words_for_those_who_do_not_see_it_and_knows_the_solvers():
    picture = ElementTree.parse(ROOT / "docs/images/choosing.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    described = "".join(picture.find(svg + "desc").itertext())
    alternative = re.search(r"!\[([^]]+)\]\(images/choosing.svg\)", (ROOT / "docs/choosing.md").read_text(encoding="utf-8"))[1]
    named = [text.text for text in picture.iter(svg + "text") if text.get("class") == "name"]
    assert len(named) == 4
    for solver in named:
        assert isinstance(eval(solver, vars(otc).copy()), otc.solvers.Solver)
        assert solver in described
        assert solver.removesuffix("()") in alternative


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
