"""The benchmarks measure, write and draw; no peer is needed for that, and no figure is looked at."""

import json
import math
import time
from dataclasses import asdict
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import otcluster as otc
from benchmarks import gpu
from benchmarks.errors import l1_error, largest_difference
from benchmarks.page import load, page
from benchmarks.peers import Peer, lloyd, plain_log_rounds, recipe
from benchmarks.recipe import three_rounds
from benchmarks.rows import Point, compared
from benchmarks.run import keep
from benchmarks.timing import in_own_process, measure, peak_memory, ratio

STAMP = {"device": "Some CPU, 2 threads", "date": "2026-01-01"}
MEGABYTE = 1 << 20


def row(peer, ours=lambda: 2.0):
    return compared(
        "dense", "a question", peer, ours, error_is="plan", errors=lambda a, b: (a, b), floor_bytes=8.0, repeats=2, target=1.0
    )


def points():
    for place, n in enumerate((16, 64)):
        for candidate, error in (("LogSinkhorn", 1e-5), ("POT sinkhorn", None if place else 1e-5)):
            yield Point("scaling", "n", n, 4, 0.05, candidate, 1e-3 * n, error, 4 * n, 1e-6 * n)


def test_a_row_holds_both_sides_of_a_comparison():
    (found,) = row(recipe(lambda: 1.0))
    assert (found.peer_error, found.error) == (1.0, 2.0)
    assert min(found.peer_seconds, found.seconds, found.ratio, found.floor_seconds) > 0
    assert {"otcluster", "torch", "numpy"} <= set(found.versions)
    assert "a question" in str(found)


def test_a_peer_that_is_missing_or_fails_is_named_and_has_no_row(capsys):
    def fails():
        raise ValueError("too large\nby far")

    def missing():
        import no_such_library

        return no_such_library

    assert not [*row(Peer("Someone", (), fails)), *row(Peer("Nobody", (), missing))]
    assert capsys.readouterr().out.splitlines() == [
        "a question: Someone skipped, ValueError: too large",
        "a question: Nobody skipped, ModuleNotFoundError: No module named 'no_such_library'",
    ]


def test_an_error_of_ours_is_not_swallowed():
    def fails():
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        list(row(recipe(lambda: 1.0), fails))


def test_slow_candidates_are_called_once(monkeypatch):
    monkeypatch.setattr("benchmarks.timing._SLOW", 0.01)
    monkeypatch.setattr("benchmarks.timing._TURN", 0.0)
    called = []
    found = measure({"slow": lambda: (called.append(0), time.sleep(0.02)), "quick": lambda: None}, 3)
    assert len(called) == 1
    assert [len(found[name].seconds) for name in ("slow", "quick")] == [1, 3]
    assert ratio([2.0], [1.0, 1.0, 2.0]) == 2.0


def _peak_of_an_array():
    return peak_memory(lambda: np.ones(32 * MEGABYTE // 8).sum())


def test_peak_memory_is_that_of_the_call():
    found = in_own_process(_peak_of_an_array)  # of this one other threads may take pages in the meantime
    # Some pages belong to the interpreter.
    assert found is None or abs(found - 32 * MEGABYTE) < MEGABYTE


def test_a_function_runs_in_a_process_of_its_own():
    assert in_own_process(math.hypot, 3, 4) == 5.0


def test_errors_are_the_mass_in_the_wrong_place_at_any_total():
    plan = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    # Columns are 2.5 and 1.5 where 2 and 2 were asked for: 1 in 4 is wrong.
    assert l1_error(plan) == pytest.approx(0.25, abs=1e-15)
    assert l1_error(plan / 4) == pytest.approx(0.25, abs=1e-15)
    assert np.isnan(l1_error(np.where(plan == 1, np.inf, plan)))
    assert largest_difference(plan, plan[::-1]) == 0.5


def test_the_page_is_drawn_from_kept_rows(tmp_path):
    kept = [{**asdict(each), **STAMP} for each in (*row(recipe(lambda: 1.0)), *points())]
    keep(kept, tmp_path / "results")
    keep(kept[:1], tmp_path / "results")  # rows of one case take the place of those of the same case alone
    results = load(tmp_path / "results")
    assert {name: len(rows) for name, rows in results.items()} == {"some-cpu-2-threads": len(kept)}
    text = page(results, tmp_path / "images", tmp_path)
    assert "## Some CPU, 2 threads" in text
    assert "| a question | SwAV/DINO recipe |" in text
    image = "images/benchmarks-some-cpu-2-threads-n.svg"
    described = "Two plots against samples n: seconds of a call, and L1 error; for LogSinkhorn; POT sinkhorn."
    assert f"![{described}]({image})" in text
    drawn = (tmp_path / image).read_bytes()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    page(results, tmp_path / "images", tmp_path)
    assert (tmp_path / image).read_bytes() == drawn  # drawn again from the same rows, nothing changes


@pytest.mark.filterwarnings("ignore:Dynamo detected:UserWarning")
def test_the_script_for_gpus_runs_on_a_host(tmp_path, capsys):
    gpu.main(["gpu_grouped", "gpu_points", "--quick", "--out", str(tmp_path / "host.json")])
    kept = json.loads((tmp_path / "host.json").read_text())
    assert {each["case"] for each in kept} == {"gpu_grouped", "gpu_points"}
    assert min(min(each["seconds"], each["peer_seconds"], each["floor_seconds"]) for each in kept) > 0
    assert max(each["error"] for each in kept) < 1e-2
    assert {"torch", "copies at"} <= set(kept[0]["versions"])
    printed = capsys.readouterr().out
    assert all(each["what"] in printed for each in kept)
    text = page({"host": kept}, tmp_path / "images", tmp_path)
    assert "## host, to try the script" in text
    assert "### Vectors on a GPU" in text


def test_plain_rounds_in_the_log_domain_are_those_of_the_recipe():
    scores = torch.rand(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plan = plain_log_rounds(scores, 0.1, 1e-9)
    torch.testing.assert_close(plan, three_rounds(scores, 0.1, rounds=300), rtol=0, atol=1e-8)
    with pytest.raises(RuntimeError, match="not converged after 10 rounds"):
        plain_log_rounds(scores, 1e-3, 1e-9, max_iter=10)


def test_plain_lloyd_finds_what_kmeans_does():
    x = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
    expected = otc.kmeans(x, 5, init=x[:5], max_iter=4, tol=0).inertia
    assert lloyd(x, x[:5], 4, at_once=64) == pytest.approx(expected, rel=1e-5)
