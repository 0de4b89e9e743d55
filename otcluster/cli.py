"""The command line: ``otcluster ...``."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_NEEDED = ("typer", "rich", "matplotlib", "timm", "torchvision", "lightning_fabric", "omegaconf", "safetensors", "torchmetrics")


def main() -> None:
    """Run the command line, or say what to install for it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {', '.join(missing)}: pip install 'otcluster[dnc]'")
    build()()


def build() -> Any:
    """The application, for tests and for :func:`main`."""
    import typer

    from otcluster.dnc.commands import app as dnc

    app = typer.Typer(no_args_is_help=True, help="Clustering with optimal transport.", pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        """Clustering with optimal transport."""

    app.add_typer(dnc, name="dnc")
    return app
