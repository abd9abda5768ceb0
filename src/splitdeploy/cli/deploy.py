"""``splitdeploy deploy``: a bundle's head onto devices, over ssh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.units import parse_time_s

if TYPE_CHECKING:
    from splitdeploy.partitioner.remote.deploy import DeployOptions, DeviceOutcome

_COLUMNS = ("device", "state", "current", "before", "what")


@click.command("deploy")
@click.argument("words", nargs=-1, metavar="[BUNDLE] ssh://USER@HOST… [-- RUN-ARGUMENTS…]")
@click.option("--local-tail", is_flag=True, help="Put the tail there too, to answer alone.")
@click.option(
    "--to",
    metavar="DIR",
    default="~/.local/share/splitdeploy",
    show_default=True,
    help="Where versions lie on the device.",
)
@click.option("--cloud", metavar="HOST:PORT", help="Where the service finds the tail.")
@click.option(
    "--unit",
    type=click.Choice(["user", "system", "none"]),
    default="none",
    show_default=True,
    help="Make a systemd service that runs the bundle, with the arguments behind --.",
)
@click.option("--service", metavar="NAME", default="splitdeploy", show_default=True,
              help="The service's name.")  # fmt: skip
@click.option(
    "--health",
    metavar="TIME",
    default="10s",
    show_default=True,
    help="How long the service must run to count as healthy.",
)
@click.option("--rollback", is_flag=True, help="Let the version before run again.")
@click.option("--status", is_flag=True, help="Tell what lies there and what runs.")
@click.option("--remote-python", metavar="PATH", default="python3", show_default=True,
              help="The Python on the device that has splitdeploy.")  # fmt: skip
@click.option("--ssh-config", metavar="FILE", type=click.Path(path_type=Path),
              help="In place of ~/.ssh/config.")  # fmt: skip
@shared.format_option
@shared.verbosity_options
def command(words: tuple[str, ...], **given: Any) -> int:
    """Put BUNDLE's head on devices: copied, tried there, and only then made current.

    A version comes into a folder of its own; where any step fails, the version before goes on. A
    copy that was cut goes on where it stopped. With --unit, arguments behind -- go to splitdeploy
    run.

    \b
    Example:
      splitdeploy deploy bundle ssh://nvidia@board-1 ssh://nvidia@board-2
      splitdeploy deploy bundle ssh://nvidia@board --unit user --cloud 192.0.2.7:8001 -- --camera 0
      splitdeploy deploy --status ssh://nvidia@board-1 ssh://nvidia@board-2

    Exits with 1 if a device failed.
    """
    if given["rollback"] and given["status"]:
        raise UsageError("expected one of --rollback and --status, got both")
    devices = tuple(word for word in words if word.startswith("ssh://"))
    bundle, arguments = _bundle_and_arguments(words, devices, given)
    from splitdeploy.partitioner.progress import bars
    from splitdeploy.partitioner.remote import fleet

    options = _options(given, arguments)
    with bars(quiet=given["quiet"] or given["status"]) as reporter:
        if given["status"]:
            outcomes = fleet.status(devices, options, reporter)
        elif given["rollback"]:
            outcomes = fleet.rollback(devices, options, reporter)
        else:
            outcomes = fleet.deploy(
                bundle, devices, options, reporter, local_tail=given["local_tail"]
            )
    _show(outcomes, given["form"])
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _bundle_and_arguments(
    words: Sequence[str], devices: Sequence[str], given: dict[str, Any]
) -> tuple[Path, tuple[str, ...]]:
    """The bundle stands before the devices, what ``run`` is given behind them."""
    if not devices:
        raise UsageError("expected a device as ssh://user@host, got none")
    first = words.index(devices[0])
    last = max(place for place, word in enumerate(words) if word in devices)
    before, arguments = words[:first], tuple(words[last + 1 :])
    wanted = 0 if given["rollback"] or given["status"] else 1
    if len(before) != wanted or any(w not in devices for w in words[first : last + 1]):
        raise UsageError(
            f"expected {'BUNDLE and then devices' if wanted else 'devices alone'}, got "
            f"{' '.join(words[: last + 1])}"
        )
    if arguments and given["unit"] == "none":
        raise UsageError(
            f"expected --unit user or --unit system with arguments for splitdeploy run, got "
            f"{' '.join(arguments)} without a service to run them"
        )
    if given["unit"] != "none" and not arguments:
        raise UsageError(
            "expected what the service is to run behind --, such as  -- --camera 0, got nothing"
        )
    return Path(before[0]) if before else Path(), arguments


def _options(given: dict[str, Any], arguments: tuple[str, ...]) -> DeployOptions:
    from splitdeploy.partitioner.remote.deploy import DeployOptions
    from splitdeploy.partitioner.remote.options import RemoteOptions

    cloud = given["cloud"]
    if cloud is not None:
        host, colon, port = cloud.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise UsageError(f"expected the cloud as HOST:PORT, got {cloud!r}")
    return DeployOptions(
        remote=RemoteOptions(given["remote_python"], given["to"], given["ssh_config"]),
        unit=None if given["unit"] == "none" else given["unit"],
        service=given["service"],
        arguments=arguments,
        cloud=cloud,
        health_s=parse_time_s(given["health"]),
    )


def _show(outcomes: Sequence[DeviceOutcome], form: str) -> None:
    if form == "json":
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        rows = [_cells(outcome) for outcome in outcomes]
        if form == "csv":
            print_csv(_COLUMNS, rows)
        else:
            print_table("devices", _COLUMNS, rows, markdown=form == "md")
    for outcome in outcomes:
        for note in outcome.notes:
            click.echo(f"{outcome.address}: {note}", err=True)
        if outcome.error:
            click.echo(f"error: {outcome.address}: {outcome.error}", err=True)


def _cells(outcome: DeviceOutcome) -> list[str]:
    record = outcome.record
    return [
        outcome.address,
        outcome.done + (f", {outcome.service}" if outcome.service else ""),
        outcome.current or "–",
        outcome.previous or "–",
        f"{record['model']} at {record['cut']}" if {"model", "cut"} <= record.keys() else "–",
    ]
