"""Devices: published rates, power modes, and the fitted constants of the latency model.

The numbers stand in ``data/devices.json``, each with its provenance. Constants of a device that
was not fitted are those of the fitted board that it names in ``derived_from``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.measurement import Source


@dataclass(frozen=True)
class PowerMode:
    """One of a board's power modes (``nvpmodel``), known by name since numbers change.

    Attributes:
        name: As ``nvpmodel`` calls it.
        watts: Its budget; None where it has none.
        gpu_mhz: The GPU's highest clock in it.
        cores_share: The share of the GPU's cores that are on.
        bandwidth_share: The share of the memory's peak bandwidth.
        active_w: Draw of the board while the GPU is never without work; None where unknown.
    """

    name: str
    watts: float | None
    gpu_mhz: float
    cores_share: float
    bandwidth_share: float
    active_w: float | None


@dataclass(frozen=True)
class ModelConstants:
    """The constants of the latency model; ``profiles.simulate`` holds the formula.

    Attributes:
        compute_efficiency: Share of the peak that dense arithmetic reaches.
        depthwise_efficiency: The same for depthwise convolution.
        memory_efficiency: Share of the peak bandwidth that is reached.
        launch_s: What each kernel costs beyond its work.
        sync_s: What each call costs beyond its kernels.
        winograd_gain: How much faster 3x3 convolutions of stride one run than others.
        tail_tiles: Tiles of output that each multiprocessor works on in vain for each kernel.
        overlap: Exponent of the norm that joins arithmetic and memory traffic; 1 is their sum,
            infinity the larger of the two.
    """

    compute_efficiency: float
    depthwise_efficiency: float
    memory_efficiency: float
    launch_s: float
    sync_s: float
    winograd_gain: float
    tail_tiles: float
    overlap: float


@dataclass(frozen=True)
class ModelError:
    """How far simulated latencies were from published ones, as relative errors.

    Attributes:
        fitted_median: Median over the rows that the constants were fitted to.
        fitted_worst: Worst of them.
        left_out_median: Median over rows whose model family the fit had not seen.
        left_out_worst: Worst of those.
        left_out_p95: Their 95th percentile.
    """

    fitted_median: float
    fitted_worst: float
    left_out_median: float
    left_out_worst: float
    left_out_p95: float


@dataclass(frozen=True)
class DeviceProfile:
    """A device to simulate.

    Attributes:
        name: As the command line takes it.
        title: As people call it.
        architecture: Of its GPU, with the compute capability.
        kind: ``edge`` or ``cloud``.
        peak_flops: Operations a second (a multiply-accumulate is two) by precision, without
            sparsity; a precision that is missing runs as fp16.
        bandwidth_bytes_per_s: Peak of its memory.
        multiprocessors: Of its GPU.
        max_gpu_mhz: The clock at which ``peak_flops`` holds.
        modes: Its power modes by name.
        default_mode: The one that is meant where none is given.
        idle_w: Draw of the board while it waits; None where no power model is known.
        constants: Of the latency model.
        precision_time: Measured ratios of time to that of fp16, by precision, where there are any;
            they go before the ratio of the peaks.
        derived_from: The fitted device whose constants it has; None where it was fitted itself.
        error: Of the fit; for a derived device that of the device it derives from.
        validation: In words: what its latencies were compared with.
        latency_source: ``simulated``, or ``predicted`` in the cloud.
        provenance: Where each number comes from, by field.
        fitted_precision: Of the run that a user's own device was fitted to; None for those shipped.
    """

    name: str
    title: str
    architecture: str
    kind: str
    peak_flops: Mapping[str, float]
    bandwidth_bytes_per_s: float
    multiprocessors: int
    max_gpu_mhz: float
    modes: Mapping[str, PowerMode]
    default_mode: str
    idle_w: float | None
    constants: ModelConstants
    precision_time: Mapping[str, float]
    derived_from: str | None
    error: ModelError
    validation: str
    latency_source: Source
    provenance: Mapping[str, str]
    fitted_precision: str | None = None

    def mode(self, name: str | None = None) -> PowerMode:
        """One of its power modes.

        Args:
            name: Of the mode, in any case; None is the default.

        Returns:
            The mode.

        Raises:
            UnknownNameError: The device has no such mode.
        """
        wanted = self.default_mode if name is None else name
        for mode in self.modes.values():
            if mode.name.lower() == wanted.lower():
                return mode
        raise UnknownNameError(f"power mode of {self.name}", wanted, self.modes)


def find_device(name: str) -> DeviceProfile:
    """The named device.

    Args:
        name: One of ``DEVICES``, or a file that ends in ``.json``: a user's own device.

    Returns:
        Its profile.

    Raises:
        UnknownNameError: There is no such device.
    """
    if name.endswith(".json"):
        # It needs the classes of this module.
        from splitdeploy.profiles.device_file import read_device

        return read_device(Path(name))
    if name not in DEVICES:
        raise UnknownNameError("device", name, DEVICES, "or take local, or a FILE.json of your own")
    return DEVICES[name]


def _load() -> dict[str, DeviceProfile]:
    text = resources.files("splitdeploy.profiles").joinpath("data/devices.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    by_name = {entry["name"]: entry for entry in document["devices"]}
    return {name: _device(entry, by_name, document["shared"]) for name, entry in by_name.items()}


def _device(
    entry: dict[str, Any], by_name: dict[str, dict[str, Any]], shared: dict[str, Any]
) -> DeviceProfile:
    base = by_name[entry.get("derived_from") or entry["name"]]
    fitted, error = base["fitted"], base["error"]
    error_text = _error_text(error)
    return DeviceProfile(
        name=entry["name"],
        title=entry["title"],
        architecture=entry["architecture"],
        kind=entry["kind"],
        peak_flops=entry["peak_flops"],
        bandwidth_bytes_per_s=entry["bandwidth_bytes_per_s"],
        multiprocessors=entry["multiprocessors"],
        max_gpu_mhz=entry["max_gpu_mhz"],
        modes={mode["name"]: PowerMode(**mode) for mode in entry["modes"]},
        default_mode=entry["default_mode"],
        idle_w=entry["idle_w"],
        constants=ModelConstants(**(shared["constants"] | fitted | entry.get("overrides", {}))),
        precision_time=entry.get("precision_time", {}),
        derived_from=entry.get("derived_from"),
        error=ModelError(**error),
        validation=entry["validation"].format(base=base["title"], error=error_text),
        latency_source="predicted" if entry["kind"] == "cloud" else "simulated",
        provenance=shared["provenance"] | base["provenance_of_fit"] | entry["provenance"],
    )


def _error_text(error: dict[str, float]) -> str:
    return (
        f"median {error['fitted_median']:.1%}, worst {error['fitted_worst']:.1%} on the rows "
        f"fitted to; median {error['left_out_median']:.1%}, worst {error['left_out_worst']:.1%} "
        "on model families left out of the fit"
    )


DEVICES: dict[str, DeviceProfile] = _load()
"""Every device that can be simulated, by name."""
