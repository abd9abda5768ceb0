"""The leakage of one cut alone: no export, no timing, all the time for the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from splitdeploy.attacks.defences.reached import Reached, noise_for
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.family import CurvePoint, Family, measure_curve, measure_family
from splitdeploy.attacks.leakage.noise import Noise, repeated, repetition_caveats
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.partitioner.cuts import find_named_cuts
from splitdeploy.partitioner.declared_prior import PriorChoice, declared_prior
from splitdeploy.partitioner.forward_pass import load_samples
from splitdeploy.partitioner.head_module import OneByOne, torch_head
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.progress import Reporter, Silent
from splitdeploy.profiles.cut import CLOUD_ONLY, CutPoint
from splitdeploy.profiles.errors import CutError, LeakageError


@dataclass(frozen=True)
class CutLeakage:
    """What one cut gives away.

    Attributes:
        cut: The cut.
        family: All figures.
        curve: Leakage against the noise; empty where it was not asked for.
        images: Where the pictures come from, in words.
        noise: The noise, in words, the number of queries included.
        reached: What noise reaches the target; None where there was none.
    """

    cut: CutPoint
    family: Family
    curve: tuple[CurvePoint, ...]
    images: str
    noise: str
    reached: Reached | None = None


def leakage_of_cut(
    model: LoadedModel,
    cut: str,
    *,
    noise: Noise,
    queries: int = 1,
    images: Path | None = None,
    labels: Path | None = None,
    image_count: int = 8,
    budget_s: float | None = None,
    curve_factors: Sequence[float] = (),
    target: Target | None = None,
    prior: PriorChoice | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> CutLeakage:
    """Measure the leakage of one cut by every figure there is.

    Args:
        model: From `load_model`; it needs a torch graph and pictures as inputs.
        cut: The name of a module that ends there, or of an end.
        noise: What the smashed data of one query carries.
        queries: How often each picture is sent, with fresh noise.
        images: A folder of pictures; None for photographs that scikit-image carries.
        labels: A CSV file with the columns ``file`` and ``label``, for the class radius; None where
            there is none, or where the folder has one sub-folder a class.
        image_count: How many of them have derivatives taken; more serve for the other figures.
        budget_s: Seconds for the quadratures, and as many for learning a prior; None for as long as
            the errors ask.
        curve_factors: On σ, for leakage against the noise; none for no curve.
        target: A leakage, for which the noise is sought that reaches it.
        prior: What is taken as known of pictures; None for the Gaussian one.
        seed: Places the crops of the photographs, and draws the probes.
        reporter: Told as it goes.

    Returns:
        The figures.

    Raises:
        LeakageError: The model has no torch graph to differentiate, its input is no picture, or no
            noise reaches the target.
        CutError: Nothing of that name can be cut at.
    """
    told = reporter or Silent()
    if model.onnx_path is not None:
        raise LeakageError(
            f"expected a model with a torch graph, got {model.name}: an .onnx file has no "
            "gradients; give the torchvision name, factory or .pt2 that it was exported from"
        )
    if not model.input.is_image:
        raise LeakageError(f"expected a model of pictures, got inputs of {model.input.shape}")
    told.stage("tracing", 1)
    found = next((c for c in find_named_cuts(model.trace.graph, [cut]) if c.name == cut), None)
    if found is None:
        raise CutError(f"expected the name of one cut, got {cut!r}: see `splitdeploy cuts`")
    _, channels, height, width = model.input.shape
    shape = (channels, height, width)
    samples = load_samples(images, labels, shape=shape, measured=image_count, seed=seed)
    pixels = samples.pixels[: samples.measured]
    head, together = _head(model, found), repeated(noise, queries)
    told.advance()
    declared = declared_prior(
        prior or PriorChoice(),
        shape,
        measured=images,
        deadline_s=budget_s,
        seed=seed,
        reporter=told,
    )
    runs = 1 + bool(curve_factors) + (target is not None)
    share_s = None if budget_s is None else budget_s / runs
    told.stage("leakage", runs)
    # The target first: where no noise reaches it, the rest would be in vain.
    reached = None
    if target is not None:
        reached = noise_for(
            head, pixels, target, noise=noise, queries=queries, prior=declared, deadline_s=share_s,
            seed=seed,
        )  # fmt: skip
        told.advance()
    family = measure_family(
        head, pixels, noise=together, prior=declared, samples=samples.pixels, labels=samples.labels,
        deadline_s=share_s, seed=seed,
    )  # fmt: skip
    told.advance()
    curve: tuple[CurvePoint, ...] = ()
    if curve_factors:
        curve = measure_curve(
            head, pixels, noise=together, prior=declared, factors=curve_factors, deadline_s=share_s,
            seed=seed,
        )  # fmt: skip
        told.advance()
    notes = (*family.notes, *repetition_caveats(noise, queries))
    return CutLeakage(
        found, replace(family, notes=notes), curve, samples.source, together.describe(), reached
    )


def _head(model: LoadedModel, cut: CutPoint) -> PixelHead:
    if cut.name == CLOUD_ONLY:
        head: torch.nn.Module = torch.nn.Identity()
    else:
        head = torch_head(model.trace.program, [tensor.name for tensor in cut.tensors])
        if not model.trace.dynamic_batch:
            head = OneByOne(head)
    return PixelHead(head, model.input.mean, model.input.std).eval()
