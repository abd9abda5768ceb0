"""``splitdeploy devices``: what can be simulated, how far to trust it, a device of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.cut import PRECISIONS
from splitdeploy.profiles.device import DEVICES, DeviceProfile, find_device
from splitdeploy.profiles.device_file import (
    check_name,
    device_to_json,
    read_rows,
)
from splitdeploy.profiles.errors import UnknownNameError, UsageError
from splitdeploy.profiles.validation import ValidatedRow, validated_rows

_LENDER = "jetson-orin-nano"


class _Devices(click.Group):
    """``devices NAME`` shows one; a word that is no verb is a name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in {"-h", "--help"}):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group("devices", cls=_Devices, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List the device profiles, show one with its provenance, or fit one of your own.

    \b
    Example:
      splitdeploy devices
      splitdeploy devices jetson-nano
      splitdeploy devices fit runs/demo --name my-board --out my-board.json

    A device of your own is taken wherever a name is: --device my-board.json.
    """


@command.command("list")
@shared.format_option
@shared.verbosity_options
def list_devices(form: str, **_: object) -> None:
    """List the device profiles.

    \b
    Example:
      splitdeploy devices list
    """
    _list(form)


@command.command("show")
@click.argument("name", required=False)
@shared.format_option
@shared.verbosity_options
def show(name: str | None, form: str, **_: object) -> None:
    """Show everything known of a device, with its provenance and what it was compared with.

    NAME is a profile's name or a file made by devices fit; without it, all are listed.

    \b
    Example:
      splitdeploy devices show jetson-nano
    """
    if name is None:
        _list(form)
        return
    device = find_device(name)
    rows = _own_rows(Path(name)) if name.endswith(".json") else list(validated_rows(name))
    if form == "json":
        document = asdict(device) | {"validated": [asdict(row) for row in rows]}
        click.echo(json.dumps(document, indent=2))
        return
    _show(device, form)
    if rows and form != "csv":
        _show_validated(rows, markdown=form == "md")


@command.command("fit")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the new device: small letters, digits, dashes.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE.json",
    help="Where it goes.",
)  # fmt: skip
@click.option("--title", help="As people call it; default: its name.")
@click.option(
    "--like", metavar="NAME",
    help=f"The device that lends peaks and multiprocessors; default: the run's own, or {_LENDER}.",
)  # fmt: skip
@click.option("--model", metavar="MODEL", help="Where the run's model is now; default: its name.")
@click.option(
    "--precision", metavar="NAME",
    help="What the heads computed in; default: fp32 where the run was local, else the run's.",
)  # fmt: skip
@shared.verbosity_options
def fit(run: Path, name: str, out: Path, **given: Any) -> None:
    """Make a device of your own from a RUN that was measured on it.

    The constants of the latency model are fitted to the measured heads by least squares; the
    model of the run is exported again to see their kernels.

    \b
    Example:
      splitdeploy devices fit runs/demo --name my-board --out my-board.json
    """
    check_name(name, DEVICES)
    if out.suffix != ".json":
        raise UsageError(f"expected --out with a name that ends in .json, got {out}: rename it")
    from splitdeploy.profiles.store import read_report, write_atomically

    report = read_report(run)
    # A local run computes in fp32; its precision is the payload's.
    own = "fp32" if report.edge.device == "local" else report.edge.precision
    precision = given["precision"] or own
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    like = find_device(given["like"] or _lender(report.edge.device))
    from splitdeploy.partitioner.device_fit import MeasuredHead, fit_device, measured_latencies
    from splitdeploy.partitioner.head_kernels import head_kernels

    latencies = measured_latencies(report)
    groups = head_kernels(report, latencies, given["model"])
    at_once = "" if report.batch == 1 else f" with {report.batch} inputs at once"
    fitted = fit_device(
        [MeasuredHead(cut, groups[cut], measured_s) for cut, measured_s in latencies.items()],
        like,
        name=name,
        title=given["title"] or name,
        precision=precision,
        power_mode=report.edge.power_mode,
        origin=f"{report.model.name} on {report.edge.device}{at_once}, {report.created[:10]}",
    )
    write_atomically(out, device_to_json(fitted.device, fitted.rows))
    if not given["quiet"]:
        _show_validated(_own_rows(out), markdown=False)
    click.echo(f"{fitted.device.validation}", err=True)
    click.echo(f"written: {out}; take it with --device {out}", err=True)


def _lender(device: str) -> str:
    return device if device in DEVICES else _LENDER


def _own_rows(path: Path) -> list[ValidatedRow]:
    """What a user's own device was fitted to; measured by the user, published nowhere."""
    return [
        ValidatedRow(
            device=str(path), what=row.name, unit="s", published=row.measured_s,
            simulated=row.simulated_s, left_out=row.left_out_s, note="measured, not published",
            source="the run that it was fitted to",
        )
        for row in read_rows(path)
    ]  # fmt: skip


def _list(form: str) -> None:
    chosen = list(DEVICES.values())
    if form == "json":
        click.echo(json.dumps([asdict(device) for device in chosen], indent=2))
        return
    columns = ["device", "fp16 TFLOPS", "GB/s", "power modes", "latencies", "compared with"]
    rows = [_cells(device) for device in chosen]
    if form == "csv":
        print_csv(columns, rows)
    else:
        print_table("device profiles", columns, rows, markdown=form == "md")


def _cells(device: DeviceProfile) -> list[str]:
    return [
        device.name,
        f"{device.peak_flops['fp16'] / 1e12:.3g}",
        f"{device.bandwidth_bytes_per_s / 1e9:.4g}",
        ", ".join(device.modes),
        device.latency_source,
        _trust(device),
    ]


def _trust(device: DeviceProfile) -> str:
    if device.derived_from is not None:
        ratios = validated_rows(device.name)
        return "ratios alone" if ratios else "not validated"
    error = device.error
    return f"published: error {error.left_out_median:.0%}, at most {error.left_out_worst:.0%}"


def _show(device: DeviceProfile, form: str) -> None:
    """Every field with where it comes from."""
    fields: dict[str, Any] = asdict(device)
    provenance = fields.pop("provenance")
    rows = [[key, _text(value), provenance.get(key, "")] for key, value in fields.items()]
    # The constants of the latency model have their provenance one by one.
    constants = fields["constants"]
    rows += [[f"constants.{key}", _text(constants[key]), provenance.get(key, "")]
             for key in constants]  # fmt: skip
    columns = ["field", "value", "provenance"]
    if form == "csv":
        print_csv(columns, rows)
    else:
        print_table(device.title, columns, rows, markdown=form == "md")


def _show_validated(rows: list[ValidatedRow], *, markdown: bool) -> None:
    measured = rows[0].note == "measured, not published"
    real = "measured" if measured else "published"
    columns = ["figure", real, "simulated", "error", "left out"]
    cells = [
        [
            row.what,
            _quantity(row.published, row.unit),
            _quantity(row.simulated, row.unit),
            f"{row.error:+.1%}",
            "" if row.left_out is None else f"{row.left_out / row.published - 1:+.1%}",
        ]
        for row in rows
    ]
    print_table(f"simulated beside {real} figures", columns, cells, markdown=markdown)
    for note in dict.fromkeys(row.note for row in rows if row.note and not measured):
        click.echo(f"note: {note}")


def _quantity(value: float, unit: str) -> str:
    return f"{value * 1e3:.3g} ms" if unit == "s" else f"{value:.2f}"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
