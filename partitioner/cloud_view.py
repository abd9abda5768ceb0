"""What the cloud sees of pictures at a second cut, and what the edge makes of it.

The features are taken as the cloud computes them, before they are encoded for the way back; the
answers as the edge gives them, from what came back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from splitdeploy.attacks.label_probes.views import views_of
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.partitioner.codec import QuantisationRange, add_codec
from splitdeploy.partitioner.deployed import decode, deployed_halves
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.slicing import HELD, write_slice
from splitdeploy.partitioner.verify import run_behind
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.errors import AttackError, CutError

_BATCH = 32


@dataclass(frozen=True)
class Seen:
    """Some pictures, as both sides have them.

    Attributes:
        views: Of the cloud's features, by name ``[n, k]``.
        answers: ``[n]`` int64: what the edge answers.
        finished: ``[n]`` int64: what the last layers make of the cloud's own features; None where
            they need what the cloud does not have.
    """

    views: dict[str, Tensor]
    answers: Tensor
    finished: Tensor | None


class CloudView:
    """Three parts in sessions, and what the cloud has between the second and the third.

    Args:
        plan: The model, its two cuts and its export.
        place: The first cut's place among the cuts.
        opened: Keeps the sessions open.

    Attributes:
        features: What the cloud has of the tensors that cross the second cut.
        withheld: Names of those that it has not.

    Raises:
        CutError: There is no second cut.
    """

    def __init__(self, plan: Plan, place: int, opened: ExitStack) -> None:
        cut, self._sent = plan.cuts[place], plan.sent[place]
        if cut.last is None:
            raise CutError(f"expected a second cut behind {cut.name}, got none")
        sent = {tensor.name for tensor in cut.tensors}
        self._kept = tuple(t for t in cut.last.held if t.name in sent)
        self._returned = cut.last.returned
        self.features: tuple[TensorSpec, ...] = (*self._returned, *self._kept)
        self.withheld = tuple(t.name for t in cut.last.held if t.name not in sent)
        self._plan = plan
        halves, self._ranges = deployed_halves(plan, cut, self._sent, plan.precision)
        self._head, self._middle, self._last = (
            opened.enter_context(_opened(plan, part, name))
            for part, name in (
                (halves.head, "head"), (halves.tail, "tail"), (_part(halves.last), "last"),
            )
        )  # fmt: skip
        self._inner, self._own_last = self._middle, self._last
        if plan.precision != "fp32":
            middle, last = _unencoded(plan, cut, self._sent, self._ranges)
            self._inner = opened.enter_context(_opened(plan, middle, "inner"))
            self._own_last = opened.enter_context(_opened(plan, last, "inner.last"))

    def see(self, pixels: Tensor, told: Callable[[float], None]) -> Seen:
        """Send pictures through all parts.

        Args:
            pixels: ``[n, c, h, w]``, on [0, 1] or uint8 on 0 to 255.
            told: Told the share of them that is done, batch after batch.

        Returns:
            What was seen of them.
        """
        step = _BATCH if self._plan.exported.dynamic_batch else 1
        parts: list[Seen] = []
        for batch in torch.split(pixels, step):
            parts.append(self._batch(batch))
            told(len(batch) / len(pixels))
        finished = [part.finished for part in parts if part.finished is not None]
        return Seen(
            {name: torch.cat([part.views[name] for part in parts]) for name in parts[0].views},
            torch.cat([part.answers for part in parts]),
            torch.cat(finished) if finished else None,
        )

    def _batch(self, pictures: Tensor) -> Seen:
        whole = pictures.dtype == torch.uint8
        pixels = (pictures.float() / 255 if whole else pictures.float()).numpy()
        inputs = self._plan.model.input.normalise(pixels)
        up = self._head.run({self._plan.exported.inputs[0]: inputs})
        answers = run_behind(up, self._middle, self._last)[0]
        got = self._inner.run({spec.name: up[spec.name] for spec in self._inner.inputs})
        received = dict(
            zip(
                (tensor.name for tensor in self._sent.tensors),
                decode(up, self._sent.tensors, self._ranges),
                strict=True,
            )
        )
        has = {tensor.name: got[tensor.name] for tensor in self._returned}
        has |= {tensor.name: received[tensor.name] for tensor in self._kept}
        return Seen(
            views_of([torch.from_numpy(np.ascontiguousarray(value)) for value in has.values()]),
            _likeliest(answers),
            None if self.withheld else self._finished(has),
        )

    def _finished(self, has: Mapping[str, Array]) -> Tensor:
        feeds = {
            spec.name: has[spec.name.removesuffix(HELD)].astype(spec.dtype)
            for spec in self._own_last.inputs
        }
        return _likeliest(next(iter(self._own_last.run(feeds).values())))


@contextmanager
def cloud_view(plan: Plan, place: int) -> Iterator[CloudView]:
    """What the cloud sees at a second cut.

    Args:
        plan: The model, its two cuts and its export; its first result scores classes.
        place: The first cut's place among the cuts.

    Yields:
        The view, for as long as its sessions are open.

    Raises:
        AttackError: The first result is no row of scores.
    """
    scores = plan.expected[0]
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise AttackError(
            f"expected a model whose first result scores classes, [n, classes], got "
            f"{list(scores.shape)}: there is no label to be told"
        )
    with ExitStack() as opened:
        yield CloudView(plan, place, opened)


def _unencoded(
    plan: Plan, cut: CutPoint, sent: CutPoint, ranges: Mapping[str, QuantisationRange]
) -> tuple[ModelProto, ModelProto]:
    """The middle with its results as it computed them, and the last part that takes them."""
    halves = add_codec(plan.slicer.cut(cut), sent.tensors, plan.precision, ranges)
    return halves.tail, _part(halves.last)


def _part(part: ModelProto | None) -> ModelProto:
    if part is None:
        raise CutError("expected three parts of a model with a second cut, got two")
    return part


def _opened(plan: Plan, part: ModelProto, name: str) -> Session:
    path: Path = write_slice(part, plan.exported.path, f"seen.{name}.onnx")
    return OnnxRuntimeSession(path)


def _likeliest(scores: Array) -> Tensor:
    return torch.from_numpy(np.asarray(scores).argmax(1))
