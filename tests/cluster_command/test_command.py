"""``otcluster cluster``: what it leaves, from what it goes on, and the codes it exits with."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from safetensors.numpy import save_file
from typer.testing import CliRunner

import otcluster as otc
from otcluster import cli, metrics
from otcluster.cluster_command import data as data_room
from otcluster.cluster_command.progress import TimeLeft
from otcluster.cluster_command.report import projected
from otcluster.cluster_command.settings import Settings
from otcluster.clustering.progress import KMeansProgress
from tests import processes
from tests.cluster_command.ranks import K, N
from tests.cluster_command.runs import invoke, read, refused, succeed
from tests.dnc.conftest import listing


def test_what_it_leaves_belongs_together(file, x, tmp_path):
    out = tmp_path / "out"
    result = succeed(file, "-k", K, "--out", out)
    labels, centroids, report = read(out)
    expected = otc.kmeans(x, K)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(centroids, expected.centroids)
    sizes = np.bincount(labels, minlength=K)
    assert report["sizes"] == sizes.tolist()
    assert report["inertia"] == expected.inertia
    assert (report["iterations"], report["status"]) == (expected.n_iter, "CONVERGED")
    assert report["balance"] == {
        name: getattr(metrics, name)(sizes)
        for name in ("imbalance_factor", "size_imbalance", "perplexity", "normalized_entropy")
    }
    assert (report["vectors"], report["length"], report["dtype"], report["files"]) == (N, 6, "float32", ["x.npy"])
    assert report["settings"]["n_clusters"] == K
    assert report["versions"]["otcluster"] == otc.__version__
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {
        "labels.npy", "centroids.npy", "report.json", "report.png", "settings.json", "checkpoint",
    }  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0] == f"{N} vectors of length 6, float32, 0.0 MB, held in memory"
    assert lines[1] == f"drawing {K} centroids to start from, by k-means++"
    assert lines[2].startswith("round 1  changed 100.00%  shift ")
    assert lines[2].endswith(" left")
    assert lines[-1].startswith(f"inertia {expected.inertia:.6g}, converged after {expected.n_iter} rounds; clusters of ")
    assert lines[-1].endswith(f"in {out}")


@pytest.mark.parametrize(
    ("options", "bounds"),
    [(["--balanced"], (100, 101)), (["--size-min", 80, "--size-max", 120], (80, 120)), (["--size-max", 101], (0, 101))],
)
def test_sizes_are_as_asked(file, x, tmp_path, options, bounds):
    succeed(file, "-k", K, *options, "--out", tmp_path / "out")
    labels, centroids, report = read(tmp_path / "out")
    assert bounds[0] <= min(report["sizes"])
    assert max(report["sizes"]) <= bounds[1]
    solver = otc.ExactBalanced(*bounds)
    np.testing.assert_array_equal(labels, otc.kmeans(x, K, assign=solver).labels)
    assert report["inertia"] == pytest.approx(((x - centroids[labels]) ** 2).sum(), rel=1e-5)


def test_weights_starts_and_the_cosine_are_those_of_kmeans(file, x, tmp_path):
    weights = np.random.default_rng(0).uniform(0, 2, N)
    np.save(tmp_path / "w.npy", weights)
    options = ["--metric", "cosine", "--init", "k-means||", "--n-init", 3, "--seed", 5, "--tol", 1e-3, "--max-iter", 9]
    succeed(file, "-k", K, *options, "--weights", tmp_path / "w.npy", "--out", tmp_path / "out")
    labels, centroids, report = read(tmp_path / "out")
    expected = otc.kmeans(
        x, K, metric="cosine", init=otc.KMeansParallel(), n_init=3, seed=5, tol=1e-3, max_iter=9, sample_weight=weights
    )
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(centroids, expected.centroids)
    assert report["inertia"] == expected.inertia
    np.testing.assert_allclose(report["weights"], np.bincount(labels, weights, minlength=K))
    assert report["balance"]["perplexity"] == metrics.perplexity(np.array(report["weights"]))


def test_every_kind_of_file_gives_the_same(file, x, tmp_path):
    (tmp_path / "shards").mkdir()
    for at, part in enumerate(np.array_split(x, 3)):
        np.save(tmp_path / "shards" / f"{at}.npy", part)
    parquet.write_table(pa.table({"id": np.arange(N), "v": list(x)}), tmp_path / "x.parquet", row_group_size=200)
    save_file({"v": x, "other": np.zeros((3, 3), np.float32)}, tmp_path / "x.safetensors")
    succeed(file, "-k", K, "--out", tmp_path / "one")
    shards = [tmp_path / "shards" / f"{at}.npy" for at in range(3)]
    for at, given in enumerate(
        (
            [tmp_path / "shards"],
            shards,
            [tmp_path / "x.parquet", "--column", "v"],
            [tmp_path / "x.safetensors", "--tensor", "v"],
        )
    ):
        succeed(*given, "-k", K, "--out", tmp_path / f"{at}")
        np.testing.assert_array_equal(read(tmp_path / f"{at}")[0], read(tmp_path / "one")[0])


def test_what_does_not_fit_is_read_anew_in_each_round_with_the_same_end(file, tmp_path, monkeypatch):
    options = [file, "-k", K, "--init", "k-means++"]
    succeed(*options, "--out", tmp_path / "held")
    monkeypatch.setattr(data_room, "_HELD", 0)
    result = succeed(*options, "--out", tmp_path / "read")
    assert "read anew in each round" in result.stdout
    assert "by k-means||" in succeed(file, "-k", K, "--out", tmp_path / "usual").stdout
    assert "held in memory" in succeed(file, "-k", K, "--balanced", "--out", tmp_path / "sized").stdout
    np.testing.assert_array_equal(read(tmp_path / "held")[0], read(tmp_path / "read")[0])


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(file, x, tmp_path):
    out = tmp_path / "out"
    succeed(file, "-k", K, "--out", out)
    before = listing(out)
    again = succeed(file, "-k", K, "--out", out)
    assert again.stdout.startswith(f"{out} is finished: nothing to do")
    assert again.stdout.splitlines()[-1].startswith("inertia ")
    for options, message in (
        (["-k", K + 1], "-k is 12 there and 13 here"),
        (["-k", K, "--balanced"], "--balanced is False there and True here"),
        (["-k", K, "--max-iter", 5], "--max-iter is 300 there and 5 here"),
    ):
        refused(invoke(file, *options, "--out", out), message)
    np.save(file, x[::-1])
    refused(invoke(file, "-k", K, "--out", out), "it is of other files, or they were changed since")
    assert listing(out) == before


def test_bad_input_is_one_line_and_exit_code_2(file, x, tmp_path):
    out = tmp_path / "out"
    content = file.read_bytes()
    (tmp_path / "short.npy").write_bytes(content[:-10])
    (tmp_path / "foreign.npy").write_bytes(b"not an array at all")
    (tmp_path / "foreign.parquet").write_bytes(content)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "w3.npy", np.ones(3))
    np.save(tmp_path / "w.npy", np.full(N, 0.5))
    np.save(tmp_path / "negative.npy", -np.ones(N))
    np.save(tmp_path / "zeros.npy", np.zeros(N))
    np.save(tmp_path / "second.npy", np.vstack([x[:5], np.full((1, 6), np.inf)]).astype(np.float32))
    np.save(tmp_path / "wide.npy", np.ones((4, 9), np.float32))
    for arguments, message in (
        ([tmp_path / "short.npy", "-k", 2], "is cut short"),
        ([tmp_path / "foreign.npy", "-k", 2], "foreign.npy"),
        ([tmp_path / "foreign.parquet", "-k", 2], "foreign.parquet"),
        ([tmp_path / "pickled.npy", "-k", 2], "pickled.npy"),
        ([tmp_path / "nothing.npy", "-k", 2], "does not exist"),
        ([tmp_path / "empty", "-k", 2], "holds no file that ends in"),
        ([file, tmp_path / "wide.npy", "-k", 2], "all vectors must have one length"),
        ([file, tmp_path / "second.npy", "-k", 2], f"NaN or infinity in row 5 of {tmp_path / 'second.npy'}"),
        ([file, "-k", 2, "--column", "v"], "is for Parquet files"),
        ([file, "-k", N + 1], f"-k must be at most the number of vectors, got {N + 1} for {N}"),
        ([file, "-k", 0], "-k must be at least 1, got 0"),
        ([file, "-k", K, "--size-min", 101], "--size-min 101 is impossible"),
        ([file, "-k", K, "--size-max", 100], "--size-max 100 is impossible"),
        ([file, "-k", K, "--size-min", 9, "--size-max", 8], "must not exceed"),
        ([file, "-k", K, "--size-min", -1], "must not be negative"),
        ([file, "-k", K, "--balanced", "--size-min", 3], "give one or the other"),
        ([file, "-k", K, "--metric", "manhattan"], "--metric must be sqeuclidean or cosine"),
        ([file, "-k", K, "--init", "best"], "--init must be k-means++ or k-means||"),
        ([file, "-k", K, "--tol", "nan"], "--tol must be at least 0"),
        ([file, "-k", K, "--max-iter", 0], "--max-iter must be at least 1"),
        ([file, "-k", K, "--weights", tmp_path / "w3.npy"], f"one number for each of the {N} vectors"),
        ([file, "-k", K, "--weights", tmp_path / "foreign.npy"], "cannot be read as a .npy file"),
        (
            [file, "-k", K, "--weights", tmp_path / "negative.npy"],
            "negative.npy must hold numbers that are finite and not negative, got -1.0 in row 0",
        ),
        ([file, "-k", K, "--weights", tmp_path / "zeros.npy"], "zeros.npy holds only zeros"),
        ([file, "-k", K, "--weights", tmp_path / "nothing.npy"], "nothing.npy cannot be read: No such file"),
        ([file, "-k", K, "--balanced", "--weights", tmp_path / "w.npy"], "must hold zeros and ones"),
        ([file, "-k", K, "--out", tmp_path / "mine"], "exists and holds no clusters of ours"),
        ([file, "-k", K, "--out", file], "exists and holds no clusters of ours"),
        ([file, "-k", K, "--out", file / "out"], "is no folder"),
    ):
        refused(invoke(*([*arguments] if "--out" in arguments else [*arguments, "--out", out])), message)
        assert not out.exists()
    assert listing(tmp_path / "mine") == {"thesis.txt": b"mine"}


def test_rows_that_do_not_fit_in_memory_are_refused_where_they_must(file, tmp_path, monkeypatch):
    monkeypatch.setattr(data_room, "available_memory", lambda: 10_000)
    refused(invoke(file, "-k", K, "--balanced", "--out", tmp_path / "out"), "need all vectors in memory: they take 0.0 GB")
    succeed(file, "-k", K, "--out", tmp_path / "out")
    monkeypatch.undo()
    assert data_room.available_memory() is None or data_room.available_memory() > 1 << 20


def test_empty_clusters_are_told(tmp_path):
    np.save(tmp_path / "x.npy", np.repeat(np.eye(3), 5, axis=0))
    result = succeed(tmp_path / "x.npy", "-k", 5, "--out", tmp_path / "out")
    assert "warning: 2 of 5 clusters hold no sample" in result.stdout
    assert read(tmp_path / "out")[2]["empty_clusters"] == 2


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (5, 1), (4, 9), (60, 7)])
def test_the_plane_is_that_of_the_first_components(shape):
    rows = np.random.default_rng(1).normal(size=shape)
    points, marks, share = projected(rows, rows[:1])
    inside = rows - rows.mean(axis=0)
    u, s, _ = np.linalg.svd(inside, full_matrices=False)
    expected = np.zeros((len(rows), 2))
    expected[:, : min(2, len(s))] = (u * s)[:, :2]
    np.testing.assert_allclose(points @ points.T, expected @ expected.T, atol=1e-9)
    np.testing.assert_allclose(marks, points[:1], atol=1e-9)
    assert share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum() if (s**2).sum() > 0 else 1.0)


def test_time_left_follows_from_how_fast_the_shift_falls():
    left, settings = TimeLeft(), Settings(3, tol=1e-4, max_iter=50)
    told = [KMeansProgress(np.zeros((3, 1)), at, shift=np.inf if at == 0 else 10.0**-at, seconds=2.0 * at) for at in range(4)]
    assert [left.rounds(each, settings) for each in told] == [50, 49, 2, 1]
    assert left.seconds == 2.0
    for each in ({"n_iter": 4, "converged": True}, {"n_iter": 50, "shift": 0.01}):
        assert left.rounds(KMeansProgress(np.zeros((3, 1)), **each, seconds=8.0), settings) == 0


def test_it_needs_neither_torch_nor_what_dnc_needs(file, tmp_path):
    code = (
        "import sys\nfrom otcluster import cli\n"
        f"sys.argv = ['otcluster', 'cluster', {str(file)!r}, '-k', '3', '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert not {'torch', 'timm', 'torchvision', 'omegaconf', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=processes.ROOT, capture_output=True)


def test_a_command_asks_for_what_it_needs_itself(file, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    succeed(file, "-k", 3, "--out", tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "safetensors" else find(name))
    result = CliRunner().invoke(cli.build(), ["cluster", "--help"])
    assert str(result.exception) == "otcluster cluster needs safetensors: pip install 'otcluster[cli]'"


def test_the_page_shows_what_happens(tmp_path, monkeypatch):
    page = (processes.ROOT / "docs" / "cluster-command.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {}
    first, last = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(first, names)
    (shown,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    seen = []
    for line in shown.splitlines():
        if line.startswith("$ otcluster cluster "):
            seen += [line, *succeed(*line.split()[3:]).stdout.splitlines()]

    def timeless(lines):
        return [re.sub(r"(\d+ min )?[\d.]+ (s|h \d+ min)\b", "some time", line) for line in lines]

    assert timeless(seen) == timeless(shown.splitlines())
    exec(last, names)
    assert (names["again"].labels == names["result"].labels).all()
