"""What can be refused before a model is loaded, or before its cuts are measured."""

from __future__ import annotations

from splitdeploy.attacks.leakage.noise import noise_named
from splitdeploy.edge_runtime.board import find_board
from splitdeploy.partitioner.constraints import check_constraints
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.remote.address import parse_address
from splitdeploy.partitioner.scoring import Table, check_objective
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, PRECISIONS
from splitdeploy.profiles.device import DeviceProfile, find_device
from splitdeploy.profiles.errors import UnknownNameError, UsageError


def check_options(options: ProfileOptions) -> None:
    """Refuse options that cannot be meant.

    Args:
        options: Of a sweep.

    Raises:
        UnknownNameError: There is no such device, power mode, precision, noise or objective.
        UsageError: A number or a limit cannot be meant.
    """
    edge = device_profile(options.device)
    if options.cloud != "local":
        find_device(options.cloud)
    if edge is not None:
        edge.mode(options.power_mode)
    elif options.device == "local" and options.power_mode is not None and find_board() is None:
        raise UsageError(
            f"expected no power mode for this machine, which is no Jetson, got "
            f"{options.power_mode!r}: leave --power-mode out, or name a simulated device"
        )
    if options.precision not in PRECISIONS:
        raise UnknownNameError("precision", options.precision, PRECISIONS)
    if options.budget_s <= 0 or options.image_count < 1 or (options.fps or 1) <= 0:
        raise UsageError(
            "expected a budget, a count of images and inferences a second above zero, got "
            f"{options.budget_s} s, {options.image_count} and {options.fps}"
        )
    if options.switch_cost_s < 0 or options.trace == ():
        raise UsageError(
            "expected a trace of at least one sample and a switch cost of zero or more, got "
            f"{options.trace} and {options.switch_cost_s} s"
        )
    check_batch(options.batch, options.device)
    if options.queries < 1:
        raise UsageError(f"expected at least 1 query, got {options.queries}")
    if options.labels is not None and options.images is None:
        raise UsageError(
            f"expected a folder of images that {options.labels} labels, got none: "
            "scikit-image's photographs have no labels"
        )
    check_return(options.return_at, options.cuts, options.device)
    noise_named(options.noise)
    options.lent.check()
    check_constraints(options.constraints)
    check_objective(options.objective, Table((), False, False, False, 0.0, 0.0))


def check_batch(batch: int, device: str) -> None:
    """Refuse a batch that cannot be meant, or not be measured.

    Args:
        batch: How many inputs a request has.
        device: What the edge is.

    Raises:
        UsageError: It is below one, or a device behind ssh would have to time several inputs.
    """
    if batch < 1:
        raise UsageError(f"expected a batch of one input or more, got {batch}")
    if batch > 1 and device.startswith("ssh://"):
        raise UsageError(
            f"expected one input a request with {device}, got --batch {batch}: over ssh heads are "
            "timed with one; leave --batch out, or profile with --device local on the device itself"
        )


def check_return(return_at: str | None, cuts: str, device: str) -> None:
    """Refuse a second cut where it cannot be meant.

    Args:
        return_at: The second cut; None where there is one.
        cuts: Which cuts to sweep.
        device: What the edge is.

    Raises:
        UsageError: It is an end, or the sweep is of downsets of no order, or behind ssh.
    """
    if return_at is None:
        return
    if return_at in {CLOUD_ONLY, EDGE_ONLY}:
        raise UsageError(
            f"expected --return-at a cut between the two ends, got {return_at}: name the layer "
            "whose output comes back (`splitdeploy cuts MODEL` lists them)"
        )
    if "optimal" in [name.strip() for name in cuts.split(",")]:
        raise UsageError(
            "expected cuts in one order with --return-at, got optimal, which is found for one cut: "
            "leave one of the two out"
        )
    if device.startswith("ssh://"):
        raise UsageError(
            f"expected a simulated device or local with --return-at, got {device}: over ssh heads "
            "are timed, and no last layers; export with --return-at and deploy to run both there"
        )


def check_figures(options: ProfileOptions, *, leakage: bool) -> None:
    """Refuse an objective that the sweep would have no figures for.

    Args:
        options: Of a sweep.
        leakage: Whether leakage is going to be measured.

    Raises:
        UsageError: It minimises energy where no power model is known, or leakage where none is
            measured.
    """
    edge = device_profile(options.device)
    known = options.device.startswith("ssh://") or (edge is not None and edge.idle_w is not None)
    if options.objective.name == "energy" and not known:
        raise UsageError(
            f"the objective energy needs a device whose power is known, got {options.device}: "
            "name a simulated Jetson (see: splitdeploy devices), or another objective"
        )
    if options.objective.name == "leakage" and not leakage:
        raise UsageError(
            "the objective leakage needs leakage figures, and none are measured here (--no-privacy,"
            " an ONNX file without gradients, or an input that is no picture): take another"
        )


def device_profile(name: str) -> DeviceProfile | None:
    """The profile of a device, or None for one that is measured: this machine, one behind ssh.

    Args:
        name: A profile's name, ``local`` or ``ssh://user@host``.

    Returns:
        Its profile.

    Raises:
        UnknownNameError: There is no such device.
        UsageError: The address is none.
    """  # noqa: DOC502
    if name.startswith("ssh://"):
        parse_address(name)
        return None
    return None if name == "local" else find_device(name)
