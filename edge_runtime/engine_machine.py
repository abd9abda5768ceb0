"""What an engine is tied to: the software and the GPU that it was built with."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.tensorrt_api import version
from splitdeploy.profiles.errors import MissingExtraError, SessionError

_TEGRA = re.compile(r"#\s*R(?P<release>\d+)\s*\(release\),\s*REVISION:\s*(?P<revision>[\d.]+)")
_DPKG = Path("var/lib/dpkg/status")
_RELEASE = Path("etc/nv_tegra_release")


@dataclass(frozen=True)
class EngineMachine:
    """A machine as an engine sees it.

    Attributes:
        tensorrt: Its version.
        cuda: The version that pycuda was built with.
        jetpack: JetPack's version, or Jetson Linux's where JetPack's is not known; None on a
            machine that is no Jetson.
        gpu: The GPU's name.
        compute_capability: Such as ``8.7``.
    """

    tensorrt: str
    cuda: str
    jetpack: str | None
    gpu: str
    compute_capability: str

    @property
    def slug(self) -> str:
        """The name of the folder that its engines lie in: ``orin-trt10.3.0``."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-") or "gpu"
        return f"{gpu}-trt{re.sub(r'[^0-9A-Za-z.]+', '-', self.tensorrt)}"


def load_cuda() -> Any:
    """The driver of pycuda, imported on first use and initialised.

    Returns:
        The module ``pycuda.driver``.

    Raises:
        MissingExtraError: It is not installed.
        SessionError: There is no GPU that it can use.
    """
    try:
        cuda = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            "expected pycuda for the GPU's memory, it cannot be imported: on a Jetson type  pip "
            "install 'splitdeploy[jetson]'  with nvcc on the PATH (/usr/local/cuda/bin), on a "
            "server  pip install 'splitdeploy[tensorrt]'"
        ) from error
    try:
        cuda.init()
        cuda.Device(0)
    except Exception as error:  # pycuda's own error, whose class lies in the module
        raise SessionError(
            f"expected a GPU for CUDA, found none ({' '.join(str(error).split())}): look at the "
            "driver (nvidia-smi, or tegrastats on a Jetson)"
        ) from error
    return cuda


def this_machine(trt: Any, cuda: Any, root: Path = Path("/")) -> EngineMachine:
    """The machine that this runs on.

    Args:
        trt: The module ``tensorrt``.
        cuda: From `load_cuda`.
        root: Where the system's files lie.

    Returns:
        What its engines are tied to.
    """
    device = cuda.Device(0)
    return EngineMachine(
        tensorrt=version(trt),
        cuda=".".join(str(part) for part in cuda.get_version()),
        jetpack=jetpack(root),
        gpu=str(device.name()),
        compute_capability=".".join(str(part) for part in device.compute_capability()),
    )


def jetpack(root: Path = Path("/")) -> str | None:
    """The version of JetPack.

    Args:
        root: Where the system's files lie.

    Returns:
        Of the package ``nvidia-jetpack`` where it is installed; else ``L4T`` with that of Jetson
        Linux; None where there is neither.
    """
    try:
        status = (root / _DPKG).read_text("utf-8", errors="replace")
    except OSError:
        status = ""
    for entry in status.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line)
        installed = lines.get("Status", "").endswith(" installed")
        if lines.get("Package") == "nvidia-jetpack" and installed and "Version" in lines:
            return lines["Version"]
    try:
        found = _TEGRA.search((root / _RELEASE).read_text("utf-8", errors="replace"))
    except OSError:
        return None
    return None if found is None else f"L4T {found['release']}.{found['revision']}"
