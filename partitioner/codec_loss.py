"""What a codec costs: answers of the cut model against the whole one's, on pictures put aside."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitdeploy.attacks.images import load_photographs
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array
from splitdeploy.partitioner.answer_loss import AnswerLoss, relative_error, same_class
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
class CodecLoss(AnswerLoss):
    """What a codec costs, over the whole model.

    Attributes:
        accuracy_before: The whole model's, where labels are known.
        accuracy_after: The cut model's.
    """

    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def told(self) -> str:
        """One line for people."""
        parts = self.parts()
        if self.accuracy_before is not None and self.accuracy_after is not None:
            before, after = 100 * self.accuracy_before, 100 * self.accuracy_after
            parts.append(f"accuracy {before:.1f} % before, {after:.1f} % after")
        return (
            f"the codec, measured on {self.images} pictures ({self.pictures}): {', '.join(parts)}"
        )


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
    """Run pictures through the whole model and through all of its parts.

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
    end = None
    if halves.last is not None:
        end = OnnxRuntimeSession(write_slice(halves.last, whole, "judged.last.onnx"))
    with (
        end or nullcontext(),
        OnnxRuntimeSession(whole) as model,
        OnnxRuntimeSession(head) as first,
        OnnxRuntimeSession(tail) as second,
    ):
        for picture in judged.pixels:
            feeds: dict[str, Array] = {
                plan.exported.inputs[0]: plan.model.input.normalise(picture[None])
            }
            wanted.append(model.run(feeds)[plan.exported.results[0]])
            got.append(run_halves(first, second, feeds, end)[0])
    return _compared(np.concatenate(wanted), np.concatenate(got), judged)


def _compared(wanted: Array, got: Array, judged: Judged) -> CodecLoss:
    right: tuple[float | None, float | None] = (None, None)
    labels = judged.labels if wanted.ndim == 2 else None
    if labels is not None and int(labels.max()) < wanted.shape[1]:
        before, after = (answers.argmax(1) == labels for answers in (wanted, got))
        right = (float(before.mean()), float(after.mean()))
    error = relative_error(wanted, got)
    same = same_class(wanted, got)
    return CodecLoss(len(wanted), judged.pictures, judged.aside, *same, error, *right)
