"""A user's own device, in a file: ``--device mine.json`` takes it where it takes a name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from splitdeploy.profiles.device import DeviceProfile, ModelConstants, ModelError, PowerMode
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError, UsageError

SCHEMA_VERSION = 1
KIND = "splitdeploy device"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN = ("local", "jetson")
_MAY_BE_ZERO = ("tail_tiles",)


@dataclass(frozen=True)
class FittedRow:
    """One measured figure behind a fitted device.

    Attributes:
        name: The cut.
        measured_s: Of its head.
        simulated_s: By the constants that were fitted to all rows.
        left_out_s: By constants that never saw it.
    """

    name: str
    measured_s: float
    simulated_s: float
    left_out_s: float


def check_name(name: str, taken: Mapping[str, object]) -> None:
    """Refuse a name that a device cannot have.

    Args:
        name: As the user typed it.
        taken: Names of the devices that are shipped.

    Raises:
        UsageError: It is another device's, or has letters that a name cannot have.
    """
    if not _NAME.fullmatch(name) or name.endswith(".json"):
        raise UsageError(
            f"expected a device's name of small letters, digits, '-', '_' and '.', got {name!r}: "
            "such as my-orin"
        )
    if name in taken or name in _TAKEN:
        raise UsageError(
            f"expected a name that is free, {name!r} is taken: see splitdeploy devices"
        )


def device_to_json(device: DeviceProfile, rows: tuple[FittedRow, ...]) -> str:
    """The file of a device.

    Args:
        device: What was fitted.
        rows: What it was fitted to.

    Returns:
        A JSON document.
    """
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "document": KIND}
    document |= asdict(device)
    document["modes"] = list(document["modes"].values())
    document["rows"] = [asdict(row) for row in rows]
    return json.dumps(document, indent=1) + "\n"


def read_device(path: Path) -> DeviceProfile:
    """The device in a file.

    Args:
        path: From ``splitdeploy devices fit``.

    Returns:
        Its profile.

    Raises:
        UsageError: There is no such file.
        ReportError: It holds something else, or a number that no device can have.
    """  # noqa: DOC502
    node = _node(path)
    modes = {mode["name"].text(): _mode(mode) for mode in node["modes"]}
    device = DeviceProfile(
        name=node["name"].text(),
        title=node["title"].text(),
        architecture=node["architecture"].text(),
        kind=node["kind"].choice(("edge", "cloud")),
        peak_flops={name: _positive(value) for name, value in node["peak_flops"].items()},
        bandwidth_bytes_per_s=_positive(node["bandwidth_bytes_per_s"]),
        multiprocessors=int(_positive(node["multiprocessors"])),
        max_gpu_mhz=_positive(node["max_gpu_mhz"]),
        modes=modes,
        default_mode=node["default_mode"].choice(tuple(modes)),
        idle_w=_optional(node, "idle_w"),
        constants=_constants(node["constants"]),
        precision_time={name: _positive(value) for name, value in node["precision_time"].items()},
        derived_from=None,
        error=ModelError(**{f.name: node["error"][f.name].number() for f in fields(ModelError)}),
        validation=node["validation"].text(),
        latency_source="simulated",
        provenance={name: value.text() for name, value in node["provenance"].items()},
        fitted_precision=node["fitted_precision"].choice(tuple(node["peak_flops"].value)),
    )
    if "fp16" not in device.peak_flops:
        raise ReportError(f"{path}: expected a peak of fp16, got {', '.join(device.peak_flops)}")
    return device


def read_rows(path: Path) -> tuple[FittedRow, ...]:
    """What the device in a file was fitted to.

    Args:
        path: From ``splitdeploy devices fit``.

    Returns:
        The rows.

    Raises:
        UsageError: There is no such file.
        ReportError: It holds something else.
    """  # noqa: DOC502
    return tuple(
        FittedRow(
            row["name"].text(),
            *(_positive(row[key]) for key in ("measured_s", "simulated_s", "left_out_s")),
        )
        for row in _node(path)["rows"]
    )


def _node(path: Path) -> Node:
    again = "make it with splitdeploy devices fit RUN --name NAME --out FILE.json"
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"expected a device's file at {path}, it cannot be read "
            f"({error.strerror or error}): {again}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is no JSON ({type(error).__name__}): {again}") from error
    node = Node(document, document=str(path))
    version = document.get("schema_version") if isinstance(document, dict) else None
    told = document.get("document") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION or told != KIND:
        raise ReportError(
            f"{path}: expected a {KIND} of schema_version {SCHEMA_VERSION}, got {told!r} of "
            f"{version!r}: {again}"
        )
    return node


def _mode(node: Node) -> PowerMode:
    return PowerMode(
        name=node["name"].text(),
        watts=_optional(node, "watts"),
        gpu_mhz=_positive(node["gpu_mhz"]),
        cores_share=_positive(node["cores_share"]),
        bandwidth_share=_positive(node["bandwidth_share"]),
        active_w=_optional(node, "active_w"),
    )


def _constants(node: Node) -> ModelConstants:
    return ModelConstants(**{
        f.name: node[f.name].number() if f.name in _MAY_BE_ZERO else _positive(node[f.name])
        for f in fields(ModelConstants)
    })  # fmt: skip


def _optional(node: Node, key: str) -> float | None:
    found = node.get(key)
    return None if found is None else _positive(found)


def _positive(node: Node) -> float:
    value = node.number()
    if value <= 0:
        raise ReportError(f"{node.document} at {node.path}: expected more than zero, got {value}")
    return value
