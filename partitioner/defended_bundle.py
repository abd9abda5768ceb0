"""A defence put into a bundle's graphs, and seen to be there before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from splitdeploy.attacks.defences.adaptive import Send
from splitdeploy.attacks.defences.base import Defended, Perturbation, Victim
from splitdeploy.attacks.leakage.noise import PrecisionNoise
from splitdeploy.edge_runtime.bundle import Bundle
from splitdeploy.edge_runtime.guard_noise import NoiseInput, draw
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.session import FREE, Array
from splitdeploy.partitioner.bundle import save_graph
from splitdeploy.partitioner.codec import calibrate, read_ranges, replace_ranges
from splitdeploy.partitioner.deployed import TWIN_TOLERANCE, DeployedHead, saturated, twin_error
from splitdeploy.partitioner.guarded_head import add_guard, remove_guard, seeded_draws
from splitdeploy.partitioner.models import InputSpec
from splitdeploy.partitioner.retrained import export_halves
from splitdeploy.partitioner.slicing import Halves
from splitdeploy.partitioner.verify import compare
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import DefenceError, VerificationError
from splitdeploy.profiles.report import Verification

_SIGMAS = 6.0
"""How far a statistic of drawn noise may lie off: chance does that once in 10^9 times."""

_KURTOSIS = {"gaussian": 3.0, "laplace": 6.0}
_VARIANCE = {"gaussian": 1.0, "laplace": 2.0}

_RANGE_DRAWS = 4
"""How often each picture is sent to find the range of an int8 codec."""

_CLIPPED = 0.02
"""What the range of an int8 codec may clip off the noise's variance."""


@dataclass(frozen=True)
class Deployable:
    """A defended pair of halves in ONNX.

    Attributes:
        halves: With codec and defence, in memory.
        inputs: The noise that the head takes.
        retrained: Whether the halves are others than the model's.
    """

    halves: Halves
    inputs: tuple[NoiseInput, ...]
    retrained: bool


def plain_halves(bundle: Bundle) -> Halves:
    """A bundle's halves, in memory, without a defence that they may have.

    Args:
        bundle: Checked.

    Returns:
        Head and tail with their codec.

    Raises:
        DefenceError: The bundle's halves were retrained, so that there are none without.
    """
    guard = bundle.manifest.get("guard_noise")
    if guard is not None and guard.get("retrained"):
        raise DefenceError(
            f"expected the model's own halves in {bundle.folder}, got ones that were retrained by "
            f"the defence {guard.get('defence')!r}: export the model again"
        )
    return Halves(remove_guard(onnx.load(str(bundle.head))), onnx.load(str(bundle.tail)))


def open_head(
    halves: Halves, tensors: Sequence[TensorSpec], expects: InputSpec, folder: Path
) -> DeployedHead:
    """Open a head that lies in memory.

    Args:
        halves: With their codec.
        tensors: The boundary, as it is sent.
        expects: What the model takes.
        folder: Where its file is put.

    Returns:
        The open head.
    """
    path = folder / "opened.onnx"
    save_graph(halves.head, folder, path)
    return DeployedHead(path, tensors, expects, read_ranges(halves, tuple(tensors)))


def put_in(
    defended: Defended,
    victim: Victim,
    plain: Halves,
    bundle: Bundle,
    expects: InputSpec,
    folder: Path,
    *,
    seed: int,
) -> Deployable:
    """Put a defence into the halves of a bundle.

    An int8 codec gets the ranges of what is now sent, noise and all: else it would clip the noise
    off, and the largest features with it.

    Args:
        defended: The model under the defence.
        victim: The model without it, and the pictures that ranges are taken from.
        plain: The bundle's halves without a defence; left as they are.
        bundle: The bundle.
        expects: What the model takes.
        folder: Where retrained halves are exported to.
        seed: Of the noise that ranges are taken with.

    Returns:
        The defended halves.
    """
    tensors, precision = bundle.cut.tensors, bundle.precision
    ranges = read_ranges(plain, tensors)
    retrained = defended.head is not victim.head or defended.tail is not victim.tail
    if retrained:
        halves = export_halves(defended, plain, tensors, precision, ranges, expects, folder)
    else:
        halves = Halves(_copy(plain.head), _copy(plain.tail))
    if ranges:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            draws = [defended.send(victim.images, generator) for _ in range(_RANGE_DRAWS)]
        features = zip(
            ranges, (torch.cat(parts).numpy() for parts in zip(*draws, strict=True)), strict=True
        )
        replace_ranges(halves, calibrate(dict(features)))
    inputs = add_guard(halves.head, tensors, defended.perturbations)
    return Deployable(halves, inputs, retrained)


@contextmanager
def sending(
    found: Deployable,
    defended: Defended,
    tensors: Sequence[TensorSpec],
    expects: InputSpec,
    folder: Path,
) -> Iterator[Send]:
    """The exported head as what is attacked; its noise comes from a generator, to be repeatable.

    Args:
        found: The defended halves.
        defended: The same in torch.
        tensors: The boundary, as it is sent.
        expects: What the model takes.
        folder: Where the head is put to be opened.

    Yields:
        From pixels and a generator to what the cloud gets.
    """
    with open_head(found.halves, tensors, expects, folder) as head:

        def send(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
            noise = seeded_draws(defended.perturbations, tensors, len(pixels), generator)
            return head.send(pixels, noise)

        yield send


def check_deployed(
    found: Deployable,
    defended: Defended,
    bundle: Bundle,
    expects: InputSpec,
    pixels: Tensor,
    folder: Path,
    *,
    seed: int,
) -> Verification:
    """See that the graphs do what the defence says.

    Args:
        found: The defended halves.
        defended: The same in torch.
        bundle: Whose boundary they have.
        expects: What the model takes.
        pixels: ``[n, c, h, w]`` on [0, 1].
        folder: Where graphs are put to be opened.
        seed: Of the noise that both get alike.

    Returns:
        How far the exported tail's result is from torch's, on the same noise.

    Raises:
        VerificationError: The exported head sends something else, noise from the operating
            system has other statistics than it should, or the tail answers something else.
    """
    tensors, tolerance = bundle.cut.tensors, TWIN_TOLERANCE[bundle.precision]
    ranges = read_ranges(found.halves, tensors)
    with torch.no_grad():
        want = saturated(defended.send(pixels, torch.Generator().manual_seed(seed)), ranges)
        pairs = zip(defended.perturbations, defended.head(pixels), strict=True)
        clean = [p.gate * z + p.shift for p, z in pairs]
    with open_head(found.halves, tensors, expects, folder) as head:
        generator = torch.Generator().manual_seed(seed)
        noise = seeded_draws(defended.perturbations, tensors, len(pixels), generator)
        payload = head.payload(pixels, noise)
        got = head.decoded(payload)
        drawn = head.send(pixels, draw(found.inputs, len(pixels)))
    error = twin_error(want, got)
    if not error <= tolerance:
        raise VerificationError(
            f"expected the defended head to send what the defence says, it differs by {error:.1e} "
            "of the largest value: do not deploy it, and report this"
        )
    for tensor, perturbation, z, sent in zip(
        tensors, defended.perturbations, clean, drawn, strict=True
    ):
        _check_noise(tensor.name, perturbation, z, sent, bundle.precision)
    return _check_tail(found.halves, defended, payload, got, folder)


def _check_noise(
    name: str, perturbation: Perturbation, clean: Tensor, sent: Tensor, precision: str
) -> None:
    """Whether noise that the operating system gave has the mean and variance that it should."""
    kind = perturbation.distribution
    if kind == "dropout":
        told = clean.abs() > TWIN_TOLERANCE[precision] * clean.abs().max()
        count, rate = int(told.sum()), perturbation.drop_rate
        off = abs(float((sent[told] == 0).double().mean()) - rate) if count else 0.0
        allowed = _SIGMAS * math.sqrt(rate * (1.0 - rate) / max(1, count))
    elif kind == "none":
        return
    else:
        scale = perturbation.scale.double().expand(1, *clean.shape[1:]).expand_as(clean)
        noisy = scale > 0
        count = int(noisy.sum())
        if count == 0:
            return
        unit = ((sent - clean).double()[noisy] / scale[noisy]).square()
        codec = PrecisionNoise(precision).tensor_sigma(sent) ** 2 * scale[noisy].pow(-2)
        off = abs(float(unit.mean()) - _VARIANCE[kind])
        spread = _VARIANCE[kind] * math.sqrt((_KURTOSIS[kind] - 1.0) / count)
        allowed = _SIGMAS * spread + 2.0 * float(codec.mean()) + _CLIPPED * _VARIANCE[kind]
    if not off <= allowed:
        raise VerificationError(
            f"expected {kind} noise on {name!r} as the defence says, what the operating system's "
            f"randomness gave is off by {off:.2g} where chance allows {allowed:.2g}: do not deploy "
            "it, and report this"
        )


def _check_tail(
    halves: Halves,
    defended: Defended,
    payload: Mapping[str, Array],
    decoded: tuple[Tensor, ...],
    folder: Path,
) -> Verification:
    """Whether the exported tail answers to the payload what the torch tail answers to the same."""
    path = folder / "tail.onnx"
    save_graph(halves.tail, folder, path)
    with torch.no_grad():
        want = defended.tail(*decoded).numpy()
    with OnnxRuntimeSession(path) as session:
        free = session.inputs[0].shape[0] == FREE
        feeds = {spec.name: payload[spec.name] for spec in session.inputs}
        ranges = [slice(None)] if free else [slice(i, i + 1) for i in range(len(want))]
        first = session.outputs[0].name
        runs = [session.run({k: v[at] for k, v in feeds.items()})[first] for at in ranges]
    verdict = compare([want], [np.concatenate(runs)], len(want))
    if not verdict.ok:
        raise VerificationError(
            "expected the exported tail to answer what the model's own does to noisy data, they "
            f"differ by {verdict.max_rel_error:.1e} of the largest value: export the model again"
        )
    return verdict


def _copy(model: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    return copied
