"""What runs the two sides of a cut: simulated devices, this machine, or a device behind ssh."""

from __future__ import annotations

from collections.abc import Sequence

from splitdeploy.partitioner.kept_times import local_sides
from splitdeploy.partitioner.measured import MeasuredSide, Places, Side
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.remote.profile import measure_remotely
from splitdeploy.partitioner.state import State
from splitdeploy.profiles.device import find_device
from splitdeploy.profiles.errors import UsageError
from splitdeploy.profiles.report import CutReport

LOCAL = "local"
"""The name of this machine."""


def is_remote(name: str) -> bool:
    """Whether a device is behind ssh."""
    return name.startswith("ssh://")


def find_places(
    plan: Plan, rows: Sequence[CutReport], options: ProfileOptions, state: State, reporter: Reporter
) -> Places:
    """Find what runs the sides, and measure what can be measured.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are; a cut that failed is not measured on a device.
        options: Of the sweep.
        state: Where figures are kept for ``--resume``.
        reporter: Told as it goes.

    Returns:
        Both places.
    """
    local = None
    if LOCAL in {options.device, options.cloud}:
        mode = options.power_mode if options.device == LOCAL else None
        local = local_sides(plan, options.precision, mode, options.batch, state, reporter)
    cloud: Side
    if local is not None and options.cloud == LOCAL:
        cloud = local.tails
    else:
        cloud = find_device(options.cloud)
    if is_remote(options.device):
        edge = measure_remotely(plan, rows, options, state.folder, reporter)
        check_energy(edge, options)
        return Places(edge, cloud)
    if local is not None and options.device == LOCAL:
        return Places(local.heads, cloud)
    return Places(find_device(options.device), cloud)


def check_energy(edge: MeasuredSide, options: ProfileOptions) -> None:
    """Refuse to minimise energy that could not be measured.

    Args:
        edge: As it was measured.
        options: Of the sweep.

    Raises:
        UsageError: Energy is to be minimised, and there are no figures.
    """
    if options.objective.name == "energy" and not edge.joules:
        raise UsageError(
            f"the objective energy needs a device whose power is known: {edge.note}; take another "
            "objective, or name a simulated device (see: splitdeploy devices)"
        )
