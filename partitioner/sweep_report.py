"""A sweep's rows with all that was the same for every cut: model, places, network, warnings."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from splitdeploy.partitioner.local_times import LocalTimes
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.sweep import Places, cloud_precision
from splitdeploy.profiles.device import DeviceProfile
from splitdeploy.profiles.report import CutReport, ModelInfo, PlaceInfo, SweepReport


def sweep_report(
    plan: Plan,
    rows: Sequence[CutReport],
    places: Places,
    options: ProfileOptions,
    local: LocalTimes | None,
    command: Sequence[str],
) -> SweepReport:
    """A report of the rows, undecided.

    Args:
        plan: The model and its export.
        rows: Of every cut.
        places: Where the sides run.
        options: Of the sweep.
        local: The times on this machine, where a side runs here.
        command: What the user typed.

    Returns:
        The report, without a recommendation.
    """
    model = plan.model
    return SweepReport(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=tuple(command),
        environment=environment(),
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
        edge=_place(options.device, places.edge, options.precision, options.power_mode, local),
        cloud=_place(options.cloud, places.cloud, cloud_precision(options), None, local),
        network=options.network,
        cuts=tuple(rows),
        warnings=tuple(_warnings(plan, places, options, local)),
        result_bytes=plan.result_bytes,
    )


def _place(
    name: str,
    device: DeviceProfile | None,
    precision: str,
    power_mode: str | None,
    local: LocalTimes | None,
) -> PlaceInfo:
    if device is not None:
        mode = device.mode(power_mode).name
        return PlaceInfo(name, precision, mode, device.latency_source, device.validation)
    note = "measured in ONNX Runtime on this machine, in fp32; energy is not measured here"
    if local is not None and local.check is not None:
        note += (
            f"; {len(local.check.boundaries)} cuts timed whole differ from the profiled sums by at "
            f"most {local.check.worst_error:.0%} of the model's time"
            + (", which corrects them" if local.check.stable else "; they were not steady")
        )
    return PlaceInfo(name, precision, None, "measured", note)


def _warnings(
    plan: Plan, places: Places, options: ProfileOptions, local: LocalTimes | None
) -> Iterator[str]:
    if options.privacy and plan.pixel_head(plan.cuts[0]) is None:
        yield (
            f"no leakage and no attacks: {plan.model.name} "
            + ("takes no picture" if plan.pixels is None else "is an ONNX file without gradients")
        )
    if not plan.exported.dynamic_batch:
        yield "the exported graph has a fixed batch of one: the model does not allow another"
    if plan.images < options.image_count:
        yield f"verified on {plan.images} of the {options.image_count} inputs asked for"
    if local is not None and local.check is not None and not local.check.stable:
        yield "the timings on this machine are not steady: close other programs and run again"
    if places.edge is None and options.precision != "fp32":
        yield f"this machine computes in fp32; {options.precision} is the payload's alone"


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
