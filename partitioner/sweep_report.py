"""A sweep's rows with all that was the same for every cut: model, places, network, warnings."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from splitdeploy.partitioner.measured import MeasuredSide, Places, Side
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.sweep import cloud_precision
from splitdeploy.partitioner.two_cuts import told_results
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.message_cost import MessageCost
from splitdeploy.profiles.report import CutReport, ModelInfo, PlaceInfo, SweepReport
from splitdeploy.profiles.units import format_time


def sweep_report(
    plan: Plan,
    rows: Sequence[CutReport],
    places: Places,
    options: ProfileOptions,
    command: Sequence[str],
) -> SweepReport:
    """A report of the rows, undecided.

    Args:
        plan: The model and its export.
        rows: Of every cut.
        places: What runs the sides.
        options: Of the sweep.
        command: What the user typed.

    Returns:
        The report, without a recommendation.
    """
    model = plan.model
    return SweepReport(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=tuple(command),
        environment=environment() | _measured_on(places),
        seed=options.seed,
        model=ModelInfo(
            name=model.name,
            weights=model.weights.source,
            weights_sha256=model.weights.sha256,
            input_shape=model.input.shape,
            input_dtype="float32",
            parameters=plan.graph.parameters,
            macs=plan.graph.macs,
        ),
        edge=_place(options.device, places.edge, options.precision, options.power_mode),
        cloud=_place(options.cloud, places.cloud, cloud_precision(options), None),
        network=options.network,
        cuts=tuple(rows),
        warnings=tuple(_warnings(plan, places, options)),
        result_bytes=plan.result_bytes,
        return_at=None if plan.back is None else plan.back.name,
        batch=options.batch,
    )


def _place(name: str, side: Side, precision: str, power_mode: str | None) -> PlaceInfo:
    if isinstance(side, MeasuredSide):
        note = side.note if side.messages is None else f"{side.note}; {_told(side.messages)}"
        return PlaceInfo(name, precision, side.power_mode, "measured", note, side.messages)
    mode = side.mode(power_mode).name
    # A user's own device comes as a file; its name is inside.
    return PlaceInfo(side.name, precision, mode, side.latency_source, side.validation)


def _told(messages: MessageCost) -> str:
    megabyte_s = 1e6 * messages.byte_s
    return (
        f"in its times are {format_time(messages.request_s)} a request and "
        f"{format_time(megabyte_s)} a megabyte for messages, measured there"
    )


def _measured_on(places: Places) -> dict[str, Any]:
    """What a device told of itself, under the name of its side."""
    edge = places.edge
    return {"edge": dict(edge.facts)} if isinstance(edge, MeasuredSide) and edge.facts else {}


def _warnings(plan: Plan, places: Places, options: ProfileOptions) -> Iterator[str]:
    if options.privacy and plan.pixel_head(plan.cuts[0]) is None:
        yield (
            f"no leakage and no attacks: {plan.model.name} "
            + ("takes no picture" if plan.pixels is None else "is an ONNX file without gradients")
        )
    if not plan.exported.dynamic_batch:
        yield "the exported graph has a fixed batch of one: the model does not allow another"
    if plan.back is not None:
        yield from _of_return(plan, plan.back)
    if options.batch > 1:
        yield from _of_batch(places, options)
    if plan.images < options.image_count:
        yield f"verified on {plan.images} of the {options.image_count} inputs asked for"
    told = [
        warning
        for side in (places.edge, places.cloud)
        if isinstance(side, MeasuredSide)
        for warning in side.warnings
    ]
    yield from dict.fromkeys(told)


def _of_batch(places: Places, options: ProfileOptions) -> Iterator[str]:
    """What the latency of a request of several inputs leaves out, and what it rests on."""
    late = ""
    if options.fps is not None:
        wait_s = (options.batch - 1) / options.fps
        late = f": at {options.fps:g} a second the first one waits {format_time(wait_s)} for them"
    yield (f"the latency of a request begins when all its {options.batch} inputs are there{late}")
    # A device of the user's own was fitted to a run, which may have had as many.
    shipped = dict.fromkeys(
        side.name
        for side in (places.edge, places.cloud)
        if not isinstance(side, MeasuredSide) and side.fitted_precision is None
    )
    if shipped:
        yield (
            f"the stated error of {' and '.join(shipped)} is that of one input at a time: nothing "
            f"was compared with what {options.batch} at once take"
        )


def _of_return(plan: Plan, back: CutPoint) -> Iterator[str]:
    """What a second cut hides, and what it does not."""
    yield (
        f"the last layers, behind {back.name}, run at the edge: the cloud does not compute the "
        f"result; but it computes the features at {back.name}, and whoever trains on such features "
        "may tell the class from them: splitdeploy attack MODEL --cut NAME --return-at "
        f"{back.name} --aux-images DIR tells how often"
    )
    seen = told_results(plan.graph, back)
    if seen is not None:
        yield seen


def environment() -> dict[str, Any]:
    """Versions and machine, for the record.

    Returns:
        Names and values that JSON can hold.
    """
    packages = ("splitdeploy", "torch", "torchvision", "onnx", "onnxruntime", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }
