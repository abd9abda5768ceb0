"""NVML: the power of an NVIDIA graphics card. A Jetson's has none; that is told, never a 0."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.profiles.errors import SensorError


class NvmlReader(PowerReader):
    """Reads one card.

    Args:
        nvml: The module ``pynvml``, initialised.
        handle: Of the card.
        title: The card's name.
        clock: Tells the time of a sample.
    """

    def __init__(
        self,
        nvml: Any,
        handle: Any,
        title: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "NVML"
        self.covers = "GPU board alone, without CPU and memory of the host"
        self.total_rails = (title,)
        self.interval_s = None
        self._nvml = nvml
        self._handle = handle
        self._clock = clock

    def sample(self) -> PowerSample:
        """Read the card's draw."""
        try:
            milliwatts = self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        except self._nvml.NVMLError as error:
            raise SensorError(f"NVML: the card's power cannot be read: {error}") from error
        power_w = float(milliwatts) * 1e-3
        return PowerSample(self._clock(), (RailReading(self.total_rails[0], power_w),), power_w)

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.nvmlShutdown()


def open_nvml(load: Callable[[str], Any], index: int = 0) -> NvmlReader | NotMeasured:
    """Open a card.

    Args:
        load: Imports a module by name.
        index: Of the card.

    Returns:
        A reader, or why there is none.
    """
    try:
        nvml = load("pynvml")
    except ImportError:
        return NotMeasured("NVML: the package pynvml is not installed (pip install nvidia-ml-py)")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return NotMeasured(f"NVML: {error}: is NVIDIA's driver loaded?")
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        title = nvml.nvmlDeviceGetName(handle)
        nvml.nvmlDeviceGetPowerUsage(handle)
    except nvml.NVMLError as error:
        nvml.nvmlShutdown()
        return NotMeasured(f"NVML: GPU {index} tells no power ({error}); no Jetson's GPU does")
    return NvmlReader(nvml, handle, title.decode() if isinstance(title, bytes) else str(title))
