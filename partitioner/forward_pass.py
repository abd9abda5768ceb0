"""The figures of every cut that need no derivative, from one pass forward through the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitdeploy.attacks.images import load_photographs
from splitdeploy.attacks.leakage.distance_correlation import FEWEST, distances
from splitdeploy.attacks.leakage.figures import sample_figures
from splitdeploy.attacks.leakage.noise import Noise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner.head_module import OneByOne, torch_head
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.profiles.cut import CLOUD_ONLY, CutPoint
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.figure import Figure, figure_from_json, figure_to_json

PICTURES = 32
"""How many a pass forward is made with: more than the derivatives can afford."""

_MOST_ELEMENTS = 1 << 27
"""Of all boundaries that are held at once: 512 MiB in float32."""

_FIGURES_COST = 2.0
"""What the pass and its figures take, over the pass alone; measured on ResNet-18."""


@dataclass(frozen=True)
class Sampled:
    """What one pass says about a cut.

    Attributes:
        figures: As the report's table has them; none where there was no time.
        notes: What could not be had, and why.
    """

    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """The pictures of a pass.

    Attributes:
        pixels: ``[n, c, h, w]`` on [0, 1].
        labels: ``[n]`` int64: the class of each, or None.
        measured: How many of the first stand behind the figures with derivatives; theirs is σ.
        source: Where they come from, in words.
    """

    pixels: Tensor
    labels: Tensor | None
    measured: int
    source: str

    def first(self, count: int) -> Samples:
        """The first of them."""
        labels = None if self.labels is None else self.labels[:count]
        return Samples(self.pixels[:count], labels, min(count, self.measured), self.source)


def load_samples(
    images: Path | None,
    labels: Path | None,
    *,
    shape: tuple[int, int, int],
    measured: int,
    seed: int,
) -> Samples:
    """The pictures that are measured, and more.

    Args:
        images: A folder; None for scikit-image's photographs.
        labels: A CSV file with the columns ``file`` and ``label``, or None.
        shape: ``(c, h, w)``.
        measured: How many have derivatives taken of them; they come first.
        seed: Places the crops of the photographs, and orders the classes.

    Returns:
        Them; fewer than `PICTURES` where a folder has no more.
    """
    found = load_photographs(
        images or "photos", shape=shape, count=max(PICTURES, measured), seed=seed, labels=labels
    )
    classes = None if found.labels is None else torch.from_numpy(found.labels)
    pixels = torch.from_numpy(found.pixels)
    return Samples(pixels, classes, min(measured, len(found)), found.source)


def sample_cuts(
    model: LoadedModel,
    cuts: Sequence[CutPoint],
    samples: Samples,
    *,
    noise: Noise,
    prior: ImagePrior,
    deadline_s: float | None = None,
) -> dict[int, Sampled]:
    """Distance correlation, information by covariance and class radius of every cut.

    Args:
        model: With a torch graph, of pictures.
        cuts: Of its graph; tensors as the model computes them.
        samples: The pictures.
        noise: What the smashed data carries.
        prior: What is taken as known of pictures.
        deadline_s: Seconds for all of it: fewer pictures are taken where all would take longer, and
            none where `FEWEST` would.

    Returns:
        The figures by the index of each cut.
    """
    started = time.perf_counter()
    ends = None if deadline_s is None else started + deadline_s
    count = len(samples.pixels)
    if ends is not None:
        count = min(count, _affordable(model, cuts, samples, ends))
    late = Sampled((), ("no figure of a pass forward alone, for lack of time",))
    found = {cut.index: late for cut in cuts}
    if ends is not None and count < min(FEWEST, len(samples.pixels)):
        return found
    taken = samples.first(count)
    between = distances(taken.pixels)
    for cut, tensors in _boundaries(model, cuts, taken.pixels):
        if ends is not None and time.perf_counter() > ends:
            break
        sigma = noise.level(tuple(t[: taken.measured] for t in tensors)).sigma
        figures, notes = sample_figures(
            taken.pixels, tensors, sigma, prior, labels=taken.labels, distances=between
        )
        found[cut.index] = Sampled(figures, notes)
    return found


def sampled_to_json(found: Mapping[int, Sampled]) -> dict[str, Any]:
    """What a pass said, as a document.

    Args:
        found: By the index of each cut.

    Returns:
        What ``json.dumps`` takes.
    """
    return {
        str(index): {
            "figures": [figure_to_json(figure) for figure in sampled.figures],
            "notes": list(sampled.notes),
        }
        for index, sampled in found.items()
    }


def sampled_from_json(document: object) -> dict[int, Sampled]:
    """What a pass had said.

    Args:
        document: As `sampled_to_json` made it; anything else counts for nothing.

    Returns:
        The figures by the index of each cut.
    """
    try:
        return {
            int(index): Sampled(
                tuple(figure_from_json(figure) for figure in entry["figures"]),
                tuple(note.text() for note in entry["notes"]),
            )
            for index, entry in Node(document).items()
        }
    except (ReportError, ValueError):
        return {}


def _affordable(model: LoadedModel, cuts: Sequence[CutPoint], samples: Samples, ends: float) -> int:
    """For how many pictures the time is enough, by a pass with one."""
    started = time.perf_counter()
    for _ in _boundaries(model, cuts, samples.pixels[:1]):
        pass
    now = time.perf_counter()
    return int((ends - now) / (_FIGURES_COST * max(now - started, 1e-9)))


def _boundaries(
    model: LoadedModel, cuts: Sequence[CutPoint], pixels: Tensor
) -> Iterator[tuple[CutPoint, tuple[Tensor, ...]]]:
    """Each cut with its boundary tensors, from as few passes as memory allows: mostly one."""
    for group in _groups(cuts, _MOST_ELEMENTS // len(pixels)):
        inner = [cut for cut in group if cut.name != CLOUD_ONLY]
        names = list(dict.fromkeys(tensor.name for cut in inner for tensor in cut.tensors))
        head: torch.nn.Module = torch.nn.Identity()
        if names:
            head = torch_head(model.trace.program, names, fold=False)
            if not model.trace.dynamic_batch:
                head = OneByOne(head)
        whole = PixelHead(head, model.input.mean, model.input.std).eval()
        with torch.no_grad():
            values = dict(zip(names, whole(pixels), strict=True)) if names else {}
        for cut in group:
            if cut.name == CLOUD_ONLY:
                yield cut, (whole.normalise(pixels),)
            else:
                yield cut, tuple(values[tensor.name] for tensor in cut.tensors)


def _groups(cuts: Sequence[CutPoint], most: int) -> Iterator[list[CutPoint]]:
    """The cuts in order, so many together as have at most that many elements a picture."""
    group: list[CutPoint] = []
    held = 0
    for cut in cuts:
        elements = sum(tensor.elements for tensor in cut.tensors)
        if group and held + elements > most:
            yield group
            group, held = [], 0
        group.append(cut)
        held += elements
    if group:
        yield group
