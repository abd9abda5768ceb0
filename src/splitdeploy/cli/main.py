"""The command group. Commands import what is heavy when they run, so that ``--help`` is at once."""

from __future__ import annotations

import importlib
from typing import Any

import click

from splitdeploy import __version__

_COMMANDS = {
    "profile": "profile",
    "sweep": "sweep",
    "cuts": "cuts",
    "export": "export",
    "build": "build",
    "leakage": "leakage",
    "attack": "attack",
    "prior": "prior",
    "defend": "defend",
    "recommend": "recommend",
    "report": "report",
    "manifests": "manifests",
    "devices": "devices",
    "networks": "networks",
    "attacks": "attacks",
    "deploy": "deploy",
    "serve": "serve",
    "doctor": "doctor",
    "run": "run",
}
"""Each verb, and the module of this package that holds it as ``command``."""


class _Lazy(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"splitdeploy.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            available = ", ".join(_COMMANDS)
            raise click.UsageError(f"{error.message} Available: {available}.", ctx) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="splitdeploy")
def cli(**_: Any) -> None:
    """Where to cut a neural network between an edge device and the cloud.

    \b
    Example:
      splitdeploy profile resnet18 --device jetson

    Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
    1 failed, 2 usage, 3 no cut satisfies the constraints.
    """
