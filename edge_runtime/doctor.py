"""What this machine is and has, one check after the other, each with its mend.

A check reads and changes nothing. What it needs of the machine is injected: the root of the file
system, how a module is imported, how a program is found, whose groups are asked for.
"""

from __future__ import annotations

import grp
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from splitdeploy.edge_runtime.board import Board, find_board
from splitdeploy.edge_runtime.clocks import locked, read_clocks
from splitdeploy.edge_runtime.power.find import find_power_reader
from splitdeploy.edge_runtime.power.rail_map import RAIL_MAPS
from splitdeploy.edge_runtime.power.reader import NotMeasured, PowerReader
from splitdeploy.edge_runtime.power_mode import Nvpmodel
from splitdeploy.edge_runtime.thermal import read_temperatures_c
from splitdeploy.profiles.errors import SensorError
from splitdeploy.profiles.units import format_size

Status = Literal["ok", "warn", "missing", "failed"]

_LEAST_DISK_BYTES = 2 << 30
_HOT_C = 80.0
_GROUPS = {
    "video": "the GPU",
    "render": "the GPU, on JetPack 6 and later",
    "jtop": "jtop's service, where jetson-stats is installed",
}


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        name: What was looked at.
        status: ``ok``; ``warn``: works, but not as well as it could; ``missing``: not there, and
            only those who need it mind; ``failed``: was asked for and does not work.
        found: What there is.
        mend: What to do; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """As a document."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """How a machine is looked at.

    Attributes:
        root: Of its file system.
        load: Imports a module by name.
        which: Finds a program on the path.
        groups: That the user is in.
        nvpmodel: How the power mode is asked.
        open_power: Finds the power reader.
    """

    root: Path = Path("/")
    load: Callable[[str], Any] = importlib.import_module
    which: Callable[[str], str | None] = shutil.which
    groups: Callable[[], Sequence[str]] = lambda: my_groups()
    nvpmodel: Nvpmodel = Nvpmodel()
    open_power: Callable[[Path], PowerReader | NotMeasured] = find_power_reader


def my_groups() -> list[str]:
    """Names of the groups that this process is in."""
    found = []
    for number in os.getgroups():
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return found


def diagnose(machine: Machine | None = None) -> list[Check]:
    """Every check of a machine.

    Args:
        machine: How it is looked at; None is this one.

    Returns:
        The checks, in the order in which a reader needs them.
    """
    at = machine or Machine()
    board = find_board(at.root)
    steps: Iterable[Callable[[], Iterable[Check]]] = (
        lambda: [check_board(board)],
        lambda: [check_python(), check_package()],
        lambda: [check_tensorrt(at, board), check_bindings(at, board), check_onnxruntime(at)],
        lambda: [check_power(at, board)],
        lambda: [] if board is None else [check_power_mode(at)],
        lambda: [check_clocks(at, board), check_temperature(at)],
        lambda: [] if board is None else check_groups(at),
        lambda: [check_disk(Path.cwd())],
    )
    return [check for step in steps for check in step()]


def check_board(board: Board | None) -> Check:
    """Which machine this is."""
    if board is None:
        text = f"no Jetson: {platform.machine()}, {platform.system()} {platform.release()}"
        return Check("board", "ok", text)
    system = "Jetson Linux of an unknown release"
    if board.l4t is not None:
        system = f"Jetson Linux {board.l4t} (JetPack {board.jetpack or 'unknown'})"
    text = f"{board.model}, {system}"
    if board.profile is None:
        return Check("board", "warn", text, "it has no profile: simulate with the nearest one")
    return Check("board", "ok", f"{text}; profile {board.profile}")


def check_python() -> Check:
    """Which Python runs."""
    text = f"Python {platform.python_version()} at {sys.executable}"
    return Check("python", "ok", text)


def check_package() -> Check:
    """Which splitdeploy runs."""
    return Check("splitdeploy", "ok", metadata.version("splitdeploy"))


def check_tensorrt(machine: Machine, board: Board | None) -> Check:
    """Whether TensorRT can be imported."""
    version, why = _version(machine, "tensorrt")
    if version is not None:
        return Check("tensorrt", "ok", f"TensorRT {version}")
    mend = "needed for engines on an NVIDIA GPU alone: pip install 'splitdeploy[tensorrt]'"
    if board is not None:
        mend = (
            "apt install python3-libnvinfer, and make the environment with "
            "python3 -m venv --system-site-packages: JetPack's module lies outside of it"
        )
    return Check("tensorrt", "missing", f"TensorRT cannot be imported: {why}", mend)


def check_bindings(machine: Machine, board: Board | None) -> Check:
    """Whether something hands memory to the GPU."""
    version, why = _version(machine, "pycuda")
    if version is not None:
        return Check("cuda bindings", "ok", f"pycuda {version}")
    mend = "needed with TensorRT alone: pip install 'splitdeploy[tensorrt]'"
    if board is not None:
        mend = "pip install 'splitdeploy[jetson]', with /usr/local/cuda/bin (nvcc) on the PATH"
    return Check("cuda bindings", "missing", f"pycuda cannot be imported: {why}", mend)


def check_onnxruntime(machine: Machine) -> Check:
    """Whether ONNX Runtime is there, and on what it can run."""
    version, why = _version(machine, "onnxruntime")
    if version is None:
        return Check(
            "onnxruntime", "missing", f"ONNX Runtime cannot be imported: {why}",
            "pip install 'splitdeploy[cpu]'; on a Jetson with a GPU take NVIDIA's own wheel",
        )  # fmt: skip
    providers = machine.load("onnxruntime").get_available_providers()
    return Check("onnxruntime", "ok", f"ONNX Runtime {version}: {', '.join(providers)}")


def _version(machine: Machine, name: str) -> tuple[str | None, str]:
    try:
        module = machine.load(name)
    except ImportError as error:
        return None, " ".join(str(error).split())[:120]
    except Exception as error:  # a binary module may fail in any way when it is loaded
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return _version_of(module), ""


def _version_of(module: Any) -> str:
    """``__version__``, or ``VERSION`` and ``VERSION_TEXT`` as pycuda has them."""
    for name in ("__version__", "VERSION_TEXT", "VERSION"):
        if hasattr(module, name):
            return str(getattr(module, name))
    return "of an unknown version"


def check_power(machine: Machine, board: Board | None) -> Check:
    """Whether power can be measured, and over which rails."""
    reader = machine.open_power(machine.root)
    if isinstance(reader, NotMeasured):
        mend = "energy stays simulated or untold; it is never shown as 0"
        return Check("power", "missing", f"not measured: {reader.reason}", mend)
    with reader:
        try:
            sample = reader.sample()
        except SensorError as error:
            return Check("power", "warn", f"{reader.describe()}: {error}")
    if sample.total_w is None:
        missing = ", ".join(sample.missing)
        return Check("power", "warn", f"{reader.describe()}: {missing} could not be read")
    text = f"{reader.describe()}: {sample.total_w:.2f} W now"
    known = None if board is None else RAIL_MAPS.get(board.profile or "")
    absent = known.absent([rail.name for rail in sample.rails]) if known is not None else ()
    if absent and reader.name.startswith("INA"):
        return Check("power", "warn", f"{text}; without {', '.join(absent)}")
    return Check("power", "ok", text)


def check_power_mode(machine: Machine) -> Check:
    """In which power mode the board is."""
    try:
        current, modes = machine.nvpmodel.current().name, machine.nvpmodel.available()
    except SensorError as error:
        return Check("power mode", "warn", str(error), "install nvpmodel, or run outside a box")
    return Check("power mode", "ok", f"{current}; available: {', '.join(modes)}")


def check_clocks(machine: Machine, board: Board | None) -> Check:
    """Whether the clocks hold still."""
    clocks = read_clocks(machine.root)
    state = locked(clocks)
    if not clocks:
        return Check("clocks", "ok" if board is None else "warn", "none can be read")
    told = ", ".join(f"{clock.name} {clock.now_mhz:.0f} MHz" for clock in clocks[:6])
    if board is not None and state != "locked":
        mend = "sudo jetson_clocks before measuring; sudo jetson_clocks --restore afterwards"
        return Check("clocks", "warn", f"{told}; {state}", mend)
    return Check("clocks", "ok", f"{told}; {state}")


def check_temperature(machine: Machine) -> Check:
    """Whether it is too hot to measure."""
    found = read_temperatures_c(machine.root)
    if not found:
        return Check("temperature", "ok", "none can be read")
    name, hottest = max(found.items(), key=lambda pair: pair[1])
    text = f"{name} {hottest:.1f} °C, the highest of {len(found)}"
    if hottest >= _HOT_C:
        return Check("temperature", "warn", text, "let it cool: a hot board lowers its clocks")
    return Check("temperature", "ok", text)


def check_groups(machine: Machine) -> Iterator[Check]:
    """Whether the user may use what the board guards by groups."""
    mine = set(machine.groups())
    known = {line.split(":")[0] for line in _lines(machine.root / "etc/group")}
    lacking = [name for name in _GROUPS if name in known and name not in mine]
    if "root" in mine or not lacking:
        yield Check("groups", "ok", f"in {', '.join(sorted(mine)) or 'none'}")
        return
    for name in lacking:
        mend = f"sudo usermod -aG {name} $USER, then log in again"
        yield Check("groups", "warn", f"not in {name}, which opens {_GROUPS[name]}", mend)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def check_disk(folder: Path) -> Check:
    """Whether engines and bundles have room."""
    free = shutil.disk_usage(folder).free
    text = f"{format_size(free)} free at {folder}"
    if free < _LEAST_DISK_BYTES:
        mend = f"make room: engines and their caches want {format_size(_LEAST_DISK_BYTES)}"
        return Check("disk", "warn", text, mend)
    return Check("disk", "ok", text)
