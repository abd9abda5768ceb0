"""``splitdeploy devices``: what can be simulated, and how far to trust it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from splitdeploy.cli import options as shared
from splitdeploy.cli.tables import print_csv, print_table
from splitdeploy.profiles.device import DEVICES, DeviceProfile, find_device


@click.command("devices")
@click.argument("name", required=False)
@shared.format_option
@shared.verbosity_options
def command(name: str | None, form: str, **_: object) -> None:
    """List the device profiles, or show everything known of one, with its provenance.

    \b
    Example:
      splitdeploy devices jetson-nano
    """
    chosen = list(DEVICES.values()) if name is None else [find_device(name)]
    if form == "json":
        records = [asdict(device) for device in chosen]
        click.echo(json.dumps(records if name is None else records[0], indent=2))
    elif name is not None:
        _show(chosen[0], markdown=form == "md")
    else:
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
        return "not validated"
    error = device.error
    return f"published: error {error.left_out_median:.0%}, at most {error.left_out_worst:.0%}"


def _show(device: DeviceProfile, *, markdown: bool) -> None:
    """Every field with where it comes from."""
    fields: dict[str, Any] = asdict(device)
    provenance = fields.pop("provenance")
    rows = [[key, _text(value), provenance.get(key, "")] for key, value in fields.items()]
    print_table(device.title, ["field", "value", "provenance"], rows, markdown=markdown)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
