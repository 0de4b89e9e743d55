"""How a command ends: what it prints of an error, and the code it exits with."""

from __future__ import annotations

import logging
from collections.abc import Callable

import typer
from rich.console import Console
from rich.logging import RichHandler

from otcluster.runs.errors import RunError
from otcluster.runs.interruption import Interrupted

_errors = Console(stderr=True)


def guarded(action: Callable[[], None]) -> None:
    """Run ``action``; print what is the user's to mend and exit with 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=_errors, show_path=False)])
    try:
        action()
    except Interrupted as interrupted:
        typer.echo(str(interrupted), err=True)
        # The interpreter may be torn down by now in ways that change the code: leave with the one that was promised.
        raise typer.Exit(interrupted.exit_code) from None
    except RunError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        named = "" if error.filename is None else f": {error.filename}"
        typer.echo(f"error: {error.strerror or error}{named}; what was written before is whole", err=True)
        raise typer.Exit(2) from None
