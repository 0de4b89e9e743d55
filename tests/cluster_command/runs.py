"""How the tests run ``otcluster cluster``, and how they read what it leaves."""

from __future__ import annotations

import json

import numpy as np
from typer.testing import CliRunner

from otcluster import cli


def invoke(*arguments):
    return CliRunner().invoke(cli.build(), ["cluster", *(str(argument) for argument in arguments)])


def succeed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def read(out):
    report = json.loads((out / "report.json").read_text())
    return np.load(out / "labels.npy"), np.load(out / "centroids.npy"), report


def assert_same_end(out, whole):
    (labels, centroids, report), (expected, near, other) = read(out), read(whole)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(centroids, near, rtol=1e-6, atol=1e-6)
    for name in ("iterations", "status", "start", "sizes"):
        assert report[name] == other[name]


def refused(result, message):
    """Exit code 2 and one line, not a traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
