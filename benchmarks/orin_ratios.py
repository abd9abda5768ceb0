"""Published ratios of Orin boards against simulated ones: precision, power mode, board.

The published nets are YOLOs, of which torchvision has none, and classifiers in eager PyTorch, which
starts a kernel for every operator where an engine fuses them. So no latency is compared here, only
ratios of latencies on the same net: of a YOLO with those of torchvision nets of about its
multiply-accumulates, of eager PyTorch with those of the same net in an engine.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.profiles.device import DEVICES
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.simulate import simulate_latency
from splitdeploy.profiles.validation import ValidatedRow

DATA = Path(__file__).parents[1] / "profiles" / "data" / "published_orin.csv"
STANDINS = (("resnet50", 224), ("densenet121", 224), ("squeezenet1_1", 640), ("mobilenet_v2", 640))
"""Nets and sizes of 2 to 4 billion multiply-accumulates; YOLOv8n has 4.4 and YOLO11n 3.2 at 640."""
EAGER = ("resnet18", "resnet50", "mobilenet_v2", "vgg16")

Graphs = Mapping[tuple[str, int], Sequence[KernelGroup]]
Key = tuple[str, str, str, str]
_YOLO = (
    "published of a YOLO at 640 pixels; simulated is the median over torchvision nets of 2 to 4 "
    "billion MACs ({})"
)
_FITTED = "the precision ratios of the Orin profiles were set to the mean of these same rows"
_EAGER = "published in eager PyTorch, which launches a kernel for every operator; simulated fused"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two published latencies.

    Attributes:
        model: Whose.
        over: The row above the line: device, precision, power mode.
        under: The row below.
    """

    model: str
    over: tuple[str, str, str]
    under: tuple[str, str, str]

    @property
    def what(self) -> str:
        """In words; the device only where the ratio is of two."""
        parts = [
            f"{above} / {below}" if above != below else above
            for place, (above, below) in enumerate(zip(self.over, self.under, strict=True))
            if place or above != below
        ]
        return f"{self.model}: {', '.join(parts)}"


def graphs_needed() -> list[tuple[str, int]]:
    """The nets and sizes that are simulated."""
    return [*STANDINS, *((name, 224) for name in EAGER if (name, 224) not in STANDINS)]


def published() -> dict[Key, tuple[float, str]]:
    """Milliseconds and source by device, model, precision and power mode."""
    return {
        (row["device"], row["model"], row["precision"], row["power_mode"]): (
            float(row["latency_ms"]),
            row["source"],
        )
        for row in csv.DictReader(DATA.read_text("utf-8").splitlines())
    }


def ratios() -> list[Ratio]:
    """Every ratio that the rows hold and the model speaks of."""
    nano, unstated = "jetson-orin-nano", "not stated"
    found = []
    for model, device, mode in (
        ("yolov8n", nano, "15W"), ("yolov8n", nano, "MAXN_SUPER"),
        ("yolo11n", nano, "MAXN_SUPER"), ("yolo11n", "jetson-orin-nx", unstated),
    ):  # fmt: skip
        for precision in ("fp32", "int8"):
            found.append(Ratio(model, (device, precision, mode), (device, "fp16", mode)))
    for precision in ("fp32", "fp16", "int8"):
        over, under = (nano, precision, "15W"), (nano, precision, "MAXN_SUPER")
        found.append(Ratio("yolov8n", over, under))
    for model in ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x"):
        over = ("jetson-orin-nx", "fp16", unstated)
        found.append(Ratio(model, over, (nano, "fp16", "MAXN_SUPER")))
    for model in EAGER:
        for mode in ("15W", "30W", "50W"):
            agx = "jetson-agx-orin"
            found.append(Ratio(model, (agx, "fp16", mode), (agx, "fp16", "MAXN")))
    return found


def compare(graphs: Graphs) -> list[ValidatedRow]:
    """Every ratio, published and simulated.

    Args:
        graphs: Fused kernels of `graphs_needed`.

    Returns:
        The rows.
    """
    rows, known = [], published()
    for ratio in ratios():
        above, source = known[_key(ratio.model, ratio.over)]
        below, _ = known[_key(ratio.model, ratio.under)]
        eager = ratio.model in EAGER
        nets = [(ratio.model, 224)] if eager else list(STANDINS)
        simulated = statistics.median(
            _simulated_s(graphs[net], *ratio.over) / _simulated_s(graphs[net], *ratio.under)
            for net in nets
        )
        note = _EAGER if eager else _YOLO.format(", ".join(f"{n} at {s}" for n, s in STANDINS))
        if ratio.over[1] != ratio.under[1]:
            note += f"; {_FITTED}"
        row = ValidatedRow(
            ratio.over[0], ratio.what, "ratio", above / below, simulated, None, note, source
        )
        rows.append(row)
    return rows


def _key(model: str, place: tuple[str, str, str]) -> Key:
    return place[0], model, place[1], place[2]


def _simulated_s(
    groups: Sequence[KernelGroup], device: str, precision: str, power_mode: str
) -> float:
    # Ultralytics does not state the mode of its NX; it is taken as the highest.
    mode = "MAXN" if power_mode == "not stated" else power_mode
    found = simulate_latency(groups, DEVICES[device], precision=precision, power_mode=mode)
    return found.latency_s


def print_ratios(rows: Sequence[ValidatedRow]) -> None:
    """Every ratio, and the median error of each kind."""
    print(f"\n{'ratio':72} {'published':>9} {'simulated':>9} {'error':>7}")
    for row in rows:
        print(f"{row.what:72} {row.published:9.2f} {row.simulated:9.2f} {row.error:+7.1%}")
    kinds = {
        "precision, YOLO (the profiles' own ratios)": [r for r in rows if "set to" in r.note],
        "power mode, YOLO in TensorRT": [r for r in rows if "15W / MAXN_SUPER" in r.what],
        "board, YOLO in TensorRT": [r for r in rows if "orin-nx / " in r.what],
        "power mode, classifiers in eager PyTorch": [r for r in rows if r.note == _EAGER],
    }
    for kind, of_kind in kinds.items():
        errors = [abs(row.error) for row in of_kind]
        print(f"{kind}: median error {statistics.median(errors):.0%}, worst {max(errors):.0%}")
