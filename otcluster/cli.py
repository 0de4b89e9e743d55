"""The command line: ``otcluster ...``."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from otcluster import __version__

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

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"otcluster {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        """Clustering with optimal transport."""

    app.add_typer(dnc, name="dnc")
    return app
