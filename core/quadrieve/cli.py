"""The console command. The parts above the core add their commands through the entry points `quadrieve.commands`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from . import __version__
from .errors import InputError, QuadrieveError

GROUP = "quadrieve.commands"


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"quadrieve {__version__}")
        raise typer.Exit


def _describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One embedder for the four things a language model needs to have fetched.

    Example: quadrieve demo --role tool
    """
    del version


def build_app() -> typer.Typer:
    """The command with all its subcommands; what a subcommand needs is imported when it runs."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_describe)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def main() -> None:
    """Run the command: exit status 0, 1 where it failed, 2 where it was called wrongly; errors take one line."""
    try:
        build_app()()
    except InputError as error:
        _fail(error, 2)
    except QuadrieveError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(error: object, status: int) -> None:
    print(f"quadrieve: {error}", file=sys.stderr)
    raise SystemExit(status)
