"""What a defence is set up on and judged by: a bundle's model in torch, pictures in two parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitdeploy.attacks.defences.base import Victim
from splitdeploy.attacks.images import Images, load_photographs
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.partitioner.codec import read_ranges
from splitdeploy.partitioner.defended_bundle import open_head, plain_halves
from splitdeploy.partitioner.deployed import TWIN_TOLERANCE, saturated, twin_error
from splitdeploy.partitioner.head_module import torch_head, torch_tail
from splitdeploy.partitioner.models import InputSpec, LoadedModel
from splitdeploy.partitioner.slicing import Halves
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.errors import DefenceError, ImagesError, VerificationError

_PHOTOGRAPHS_TO_JUDGE = 3
"""Of the five photographs that scikit-image carries: the others set defences up."""


@dataclass(frozen=True)
class Pictures:
    """Pictures in two parts that share none.

    Attributes:
        judging: ``[n, c, h, w]`` on [0, 1].
        judging_labels: ``[n]`` int64, or None.
        fitting: ``[m, c, h, w]``: what defences are set up by.
        fitting_labels: ``[m]`` int64, or None.
        source: Where they come from, in words.
    """

    judging: Tensor
    judging_labels: Tensor | None
    fitting: Tensor
    fitting_labels: Tensor | None
    source: str


@dataclass(frozen=True)
class Setup:
    """A bundle's model, ready for a defence.

    Attributes:
        victim: In torch, with the pictures that defences are set up by.
        halves: In ONNX, with their codec, without a defence.
        expects: What the model takes.
        pictures: To judge by, and to set up by.
        twin_error: The largest difference of torch head and exported head, over the largest value.
    """

    victim: Victim
    halves: Halves
    expects: InputSpec
    pictures: Pictures
    twin_error: float


def prepare(bundle: Bundle, model: LoadedModel, pictures: Pictures, work: Path) -> Setup:
    """Cut the model again in torch, and see that it is the bundle's.

    Args:
        bundle: Checked.
        model: What its manifest says that it came from.
        pictures: Of the model's shape.
        work: Where graphs are put to be opened.

    Returns:
        The model, ready for a defence.

    Raises:
        DefenceError: There is nothing to defend, or the model has no torch graph.
        VerificationError: The bundle's head sends something else than the model's.
    """
    if bundle.cut.name in {CLOUD_ONLY, EDGE_ONLY}:
        raise DefenceError(
            f"expected a bundle that is cut within the model, got {bundle.cut.name}: there is no "
            "smashed data to defend"
        )
    if model.onnx_path is not None:
        raise DefenceError(
            f"expected a model with a torch graph, got {model.name}: an .onnx file has no "
            "gradients to fit a defence or to attack by; export from the torch model"
        )
    names = [tensor.name for tensor in bundle.cut.tensors]
    program = model.trace.program
    expects = model.input
    head = PixelHead(torch_head(program, names), expects.mean, expects.std).eval()
    if not model.trace.dynamic_batch:
        raise DefenceError(
            f"expected a model of any batch, got {model.name}, which takes one picture at a time: "
            "defences are fitted on batches"
        )
    victim = Victim(head, torch_tail(program, names), pictures.fitting, pictures.fitting_labels)
    halves = plain_halves(bundle)
    with open_head(halves, bundle.cut.tensors, expects, work) as exported:
        sent = exported.send(pictures.judging)
    with torch.no_grad():
        ranges = read_ranges(halves, bundle.cut.tensors)
        error = twin_error(saturated(head(pictures.judging), ranges), sent)
    allowed = TWIN_TOLERANCE[bundle.precision]
    if not error <= allowed:
        raise VerificationError(
            f"expected the head of {model.name} to be that of {bundle.folder}, they differ by "
            f"{error:.1e} of the largest value where rounding explains {allowed:.0e}: export again"
        )
    return Setup(victim, halves, expects, pictures, error)


def load_pictures(
    source: Path | None, labels: Path | None, shape: tuple[int, ...], count: int, seed: int
) -> Pictures:
    """Pictures to judge a defence by, and others to set it up by.

    Of a folder the first half judges, of all that were asked for or are there. Of scikit-image's
    photographs three judge, and crops of the two others set up.

    Args:
        source: A folder; None for scikit-image's photographs.
        labels: A CSV file of their classes, or None.
        shape: Of the model's input, the batch first.
        count: How many to judge by, at least 2; as many to set up by.
        seed: Of crops and of the order of classes.

    Returns:
        The pictures.

    Raises:
        ImagesError: There are fewer than four.
    """
    _, channels, height, width = shape
    size = (channels, height, width)
    if source is None:
        # Five photographs take turns: enough of them that both parts get as many as asked for.
        wanted = 5 * -(-count // 2)
        found = load_photographs("photos", shape=size, count=wanted, seed=seed, labels=labels)
        order = list(dict.fromkeys(name.partition("-")[0] for name in found.names))
        to_judge = set(order[:_PHOTOGRAPHS_TO_JUDGE])
        judging = [i for i, n in enumerate(found.names) if n.partition("-")[0] in to_judge][:count]
        fitting = [i for i, n in enumerate(found.names) if n.partition("-")[0] not in to_judge][
            :count
        ]
    else:
        found = load_photographs(source, shape=size, count=2 * count, seed=seed, labels=labels)
        if len(found) < 4:
            raise ImagesError(
                f"expected at least 4 pictures in {source}, half to judge a defence by and half to "
                f"set it up by, got {len(found)}: give more"
            )
        half = len(found) // 2
        judging, fitting = list(range(half)), list(range(half, len(found)))
    return Pictures(
        *_part(found, judging), *_part(found, fitting), f"{found.source}, {len(judging)} to judge "
        f"and {len(fitting)} others to set up by",
    )  # fmt: skip


def _part(found: Images, chosen: list[int]) -> tuple[Tensor, Tensor | None]:
    pixels: NDArray[np.float32] = np.ascontiguousarray(found.pixels[chosen])
    labels = None if found.labels is None else torch.from_numpy(found.labels[chosen])
    return torch.from_numpy(pixels), labels
