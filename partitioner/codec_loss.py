"""What a codec costs: answers of the cut model against the whole one's, on pictures put aside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.intervals import wilson95
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.slicing import Halves, write_slice
from splitdeploy.partitioner.verify import run_halves

JUDGED_ON = 32
"""Pictures, where there are so many."""


@dataclass(frozen=True)
class Judged:
    """Pictures to judge a codec on.

    Attributes:
        pixels: ``[n, c, h, w]`` on [0, 1].
        labels: ``[n]``; None where none are known.
        pictures: Where they come from, in words.
        aside: Whether the codec was calibrated on others.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    pictures: str
    aside: bool


@dataclass(frozen=True)
class CodecLoss:
    """How often the cut model answers as the whole one does.

    Attributes:
        images: How many pictures.
        pictures: Where they come from, in words.
        aside: Whether the codec was calibrated on others.
        top1_agreement: The share with the same first class; None where results are no classes.
        top1_agreement_ci95: Its 95 % interval.
        max_rel_error: The largest difference of a result over its tensor's largest magnitude.
        accuracy_before: The whole model's, where labels are known.
        accuracy_after: The cut model's.
    """

    images: int
    pictures: str
    aside: bool
    top1_agreement: float | None
    top1_agreement_ci95: tuple[float, float] | None
    max_rel_error: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def told(self) -> str:
        """One line for people."""
        what = f"the codec, measured on {self.images} pictures ({self.pictures})"
        parts = [f"largest error {self.max_rel_error:.1e} of the largest result"]
        if self.top1_agreement is not None and self.top1_agreement_ci95 is not None:
            low, high = (100 * end for end in self.top1_agreement_ci95)
            parts.insert(0, f"{100 * self.top1_agreement:.1f} % [{low:.1f}, {high:.1f}] same class")
        if self.accuracy_before is not None and self.accuracy_after is not None:
            before, after = 100 * self.accuracy_before, 100 * self.accuracy_after
            parts.append(f"accuracy {before:.1f} % before, {after:.1f} % after")
        return f"{what}: {', '.join(parts)}"


def judged_pictures(shape: tuple[int, ...], images: Path | None, skipped: int, seed: int) -> Judged:
    """Pictures behind those that a codec was calibrated on.

    Args:
        shape: Of the model's input, the batch first.
        images: A folder; None for scikit-image's photographs, of which there are ever more crops.
        skipped: How many pictures were used before.
        seed: Places the crops.

    Returns:
        `JUDGED_ON` of them; all there are, where there are too few to put any aside.
    """
    _, channels, height, width = shape
    found = load_photographs(
        images or "photos", shape=(channels, height, width), count=skipped + JUDGED_ON, seed=seed
    )
    aside = len(found) > skipped
    chosen = slice(skipped, None) if aside else slice(None)
    labels = None if found.labels is None else found.labels[chosen]
    return Judged(found.pixels[chosen], labels, found.source, aside)


def codec_loss(plan: Plan, halves: Halves, judged: Judged) -> CodecLoss:
    """Run pictures through the whole model and through both halves.

    Args:
        plan: The model and its export.
        halves: With their codec.
        judged: The pictures.

    Returns:
        How far the answers differ.
    """
    whole = plan.exported.path
    head = write_slice(halves.head, whole, "judged.head.onnx")
    tail = write_slice(halves.tail, whole, "judged.tail.onnx")
    wanted, got = [], []
    with (
        OnnxRuntimeSession(whole) as model,
        OnnxRuntimeSession(head) as first,
        OnnxRuntimeSession(tail) as second,
    ):
        for picture in judged.pixels:
            feeds: dict[str, Array] = {
                plan.exported.inputs[0]: plan.model.input.normalise(picture[None])
            }
            wanted.append(model.run(feeds)[plan.exported.results[0]])
            got.append(run_halves(first, second, feeds)[0])
    return _compared(np.concatenate(wanted), np.concatenate(got), judged)


def _compared(wanted: Array, got: Array, judged: Judged) -> CodecLoss:
    scale = float(np.abs(wanted).max()) or 1.0
    error = float(np.abs(wanted - got).max()) / scale
    count = len(wanted)
    if wanted.ndim != 2:
        return CodecLoss(count, judged.pictures, judged.aside, None, None, error)
    before, after = wanted.argmax(1), got.argmax(1)
    same = int((before == after).sum())
    right: tuple[float | None, float | None] = (None, None)
    if judged.labels is not None and int(judged.labels.max()) < wanted.shape[1]:
        right = (float((before == judged.labels).mean()), float((after == judged.labels).mean()))
    return CodecLoss(
        count, judged.pictures, judged.aside, same / count, wilson95(same, count), error, *right
    )
