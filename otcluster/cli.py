"""The command line: ``otcluster ...``. What a command needs is imported when that command is run."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from typing import Any

from otcluster import __version__

_ALL = ("typer", "rich")
# Of each command: where its application is, what it needs to be installed, and the extra that has it.
_COMMANDS = {
    "cluster": ("otcluster.cluster_command.command", (*_ALL, "matplotlib", "safetensors"), "cli"),
    "dnc": (
        "otcluster.dnc.commands",
        (*_ALL, "matplotlib", "timm", "torchvision", "lightning_fabric", "omegaconf", "safetensors", "torchmetrics"),
        "dnc",
    ),
}


def main() -> None:
    """Run the command line, or say what to install for it."""
    if missing := _missing(_ALL):
        sys.exit(_advice("the command line", missing, "cli"))
    build()()


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def _advice(what: str, missing: list[str], extra: str) -> str:
    return f"{what} needs {', '.join(missing)}: pip install 'otcluster[{extra}]'"


def build() -> Any:
    """The application, for tests and for :func:`main`."""
    import typer
    from typer.core import TyperGroup

    class Commands(TyperGroup):
        """Those of ``_COMMANDS``, each imported when it is asked for."""

        def list_commands(self, ctx: Any) -> list[str]:
            return list(_COMMANDS)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in _COMMANDS:
                return None
            place, needed, extra = _COMMANDS[cmd_name]
            if missing := _missing(needed):
                return _not_installed(cmd_name, _advice(f"otcluster {cmd_name}", missing, extra))
            found = typer.main.get_command(import_module(place).app)
            found.name = cmd_name
            return found

    app = typer.Typer(
        cls=Commands, no_args_is_help=True, help="Clustering with optimal transport.", pretty_exceptions_enable=False
    )

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

    return app


def _not_installed(name: str, advice: str) -> Any:
    """A command that says what it needs, whatever it is called with."""
    import typer

    stub = typer.Typer(add_completion=False)
    lenient = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @stub.command(name, help=f"Not installed: {advice}.", context_settings=lenient)
    def say() -> None:
        sys.exit(advice)

    return typer.main.get_command(stub)
