"""What the page's script decides from: the report's figures, the constants, and the controls."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from splitdeploy.partitioner.rebase import result_bytes
from splitdeploy.partitioner.scoring import COST_FLOOR, PRIVACY_FLOOR
from splitdeploy.partitioner.wording import runs_of
from splitdeploy.profiles.network import NETWORKS
from splitdeploy.profiles.power import RADIOS
from splitdeploy.profiles.report import SweepReport
from splitdeploy.profiles.report_writer import network_to_json, report_to_json

SCRIPTS = (
    "numbers.js", "limits.js", "decide.js", "drawing.js", "detail.js", "controls.js", "pointing.js",
    "explore.js",
)  # fmt: skip
"""The page's script, in the order in which its parts need each other."""

LIMITS = (
    "max_latency_s", "max_energy_j", "max_edge_memory_bytes", "max_ssim", "max_fsinfo",
    "min_agreement",
)  # fmt: skip
"""What the page can limit."""

_HEAVY = ("figures", "notes", "prior", "noise")
"""Of a leakage record: stands elsewhere on the page, and decides nothing."""


@dataclass(frozen=True)
class Control:
    """A slider with a number field.

    Attributes:
        key: What it sets: a field of the network or of the limits.
        label: In words.
        unit: Of the number field.
        factor: From that unit to the SI unit of ``key``.
        flag: The option of ``splitdeploy recommend``.
        suffix: The unit as that option takes it.
        low: Where the slider begins, in ``unit``.
        high: Where it ends; a limit's slider lifts the limit there.
        logarithmic: Whether equal steps of the slider are equal factors.
        value: What the report has, in the unit of ``key``; None where there is no limit.
        positive: Whether zero is refused.
        whole: Whether the value is rounded, as bytes are.
        floor: Whether a figure must not fall below it: the slider lifts it where it begins.
    """

    key: str
    label: str
    unit: str
    factor: float
    flag: str
    suffix: str
    low: float
    high: float
    logarithmic: bool
    value: float | None
    positive: bool = True
    whole: bool = False
    floor: bool = False

    @property
    def shown(self) -> str:
        """The value in ``unit``, to nine digits; empty where there is no limit."""
        return "" if self.value is None else f"{self.value / self.factor:.9g}"


def network_controls(report: SweepReport) -> list[Control]:
    """The controls of the network.

    Args:
        report: What they start from.

    Returns:
        Uplink, downlink and round trip.
    """
    network = report.network
    up, down = network.uplink_bps / 1e6, network.downlink_bps / 1e6
    rtt_ms = network.rtt_s * 1e3
    return [
        Control("uplink_bps", "Uplink", "Mbit/s", 1e6, "--uplink", "mbit",
                min(0.1, up), max(1e4, up), True, network.uplink_bps),
        Control("downlink_bps", "Downlink", "Mbit/s", 1e6, "--downlink", "mbit",
                min(0.1, down), max(1e4, down), True, network.downlink_bps),
        Control("rtt_s", "Round trip", "ms", 1e-3, "--rtt", "ms",
                0.0, max(300.0, rtt_ms), False, network.rtt_s, positive=False),
    ]  # fmt: skip


def limit_controls(report: SweepReport) -> list[Control]:
    """The controls of the limits, for the figures that a row has or that are limited already.

    Args:
        report: What they start from.

    Returns:
        Of latency, energy, memory, SSIM, FSInfo and codec those that mean something.
    """
    limits, rows = report.constraints, report.cuts
    totals = [1e3 * row.latency_s.total.median for row in rows if row.latency_s]
    joules = [1e3 * row.energy_j.total for row in rows if row.energy_j]
    memory = [row.edge_memory_bytes / 1e6 for row in rows if row.edge_memory_bytes is not None]
    fsinfo = [row.leakage.fsinfo.value for row in rows if row.leakage]
    controls = []
    if totals or limits.max_latency_s is not None:
        low, high = _decades(totals, 10.0)
        controls.append(Control("max_latency_s", "Latency at most", "ms", 1e-3, "--max-latency",
                                "ms", low, high, True, limits.max_latency_s))  # fmt: skip
    if joules or limits.max_energy_j is not None:
        low, high = _decades(joules, 4.0)
        controls.append(Control("max_energy_j", "Energy at most", "mJ", 1e-3, "--max-energy", "mJ",
                                low, high, True, limits.max_energy_j))  # fmt: skip
    if memory or limits.max_edge_memory_bytes is not None:
        controls.append(Control(
            "max_edge_memory_bytes", "Edge memory at most", "MB", 1e6, "--max-edge-memory", "MB",
            0.0, math.ceil(1.1 * max(memory, default=1e3)) or 1.0, False,
            limits.max_edge_memory_bytes, whole=True,
        ))  # fmt: skip
    if any(row.attacks for row in rows) or limits.max_ssim is not None:
        controls.append(Control("max_ssim", "SSIM at most", "", 1.0, "--max-ssim", "",
                                0.0, 1.0, False, limits.max_ssim, positive=False))  # fmt: skip
    if fsinfo or limits.max_fsinfo is not None:
        low = math.floor(min(fsinfo, default=-2.0)) - 1.0
        high = math.ceil(max(fsinfo, default=2.0)) + 1.0
        controls.append(Control("max_fsinfo", "FSInfo at most", "nats", 1.0, "--max-fsinfo", "",
                                low, high, False, limits.max_fsinfo, positive=False))  # fmt: skip
    if any(row.codec_loss for row in rows) or limits.min_agreement is not None:
        controls.append(Control("min_agreement", "Codec agreement at least", "", 1.0,
                                "--min-agreement", "", 0.0, 1.0, False, limits.min_agreement,
                                floor=True))  # fmt: skip
    return controls


def _decades(values: list[float], room: float) -> tuple[float, float]:
    """Ends of a logarithmic slider with room on either side of the values."""
    positive = [value for value in values if value > 0] or [1.0]
    return min(positive) / room, max(positive) * room


def page_data(report: SweepReport) -> dict[str, Any]:
    """The document that the page's script reads.

    Args:
        report: The report of the page.

    Returns:
        Its rows without what decides nothing and stands elsewhere, its settings and pick, and the
        constants of the arithmetic.
    """
    document = report_to_json(report)
    return {
        "network": document["network"],
        "networks": {name: network_to_json(network) for name, network in NETWORKS.items()},
        "radios": {
            name: {key: value for key, value in vars(radio).items() if key != "source"}
            for name, radio in RADIOS.items()
        },
        "floors": {"cost": COST_FLOOR, "privacy": PRIVACY_FLOOR},
        "result_bytes": result_bytes(report),
        "batch": report.batch,
        "constraints": {name: document["constraints"][name] for name in LIMITS},
        # A chance is drawn, which the page does not do: it shows what the run found, and says so.
        "confidence": document["constraints"].get("confidence"),
        "pareto": document["pareto"],
        "objective": document["objective"],
        "runs": list(runs_of(report).values()),
        "pick": report.recommendation.cut if report.recommendation else None,
        "rows": list(_rows(document)),
        "controls": {
            control.key: vars(control)
            for control in (*network_controls(report), *limit_controls(report))
        },
    }


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in document["cuts"]:
        leakage = row["leakage"]
        if leakage is not None:
            leakage = {key: value for key, value in leakage.items() if key not in _HEAVY}
        yield {**row, "leakage": leakage}


def inline_json(document: object) -> Markup:
    """JSON that may stand in a ``script`` element: no markup can begin in it.

    Args:
        document: Dicts, lists, strings and finite numbers.

    Returns:
        The text.
    """
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def page_script() -> Markup:
    """The page's script, as it stands between its tags."""
    folder = resources.files("splitdeploy.partitioner").joinpath("templates")
    parts = [folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS]
    return Markup("\n" + "\n".join(parts))


def script_digest(script: str) -> str:
    """The source expression that lets a page's policy run this script and no other.

    Args:
        script: What stands between the tags.

    Returns:
        ``sha256-`` and the digest in base 64.
    """
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
