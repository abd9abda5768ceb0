"""What a model leaks under Gaussian noise as it is deployed, and when a picture is sent again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitdeploy.attacks.defences.base import Defended
from splitdeploy.attacks.leakage.measure import measure_leakage
from splitdeploy.attacks.leakage.noise import ElementNoise, Noise, PrecisionNoise, repeated
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.profiles.errors import DefenceError
from splitdeploy.profiles.report import LeakageRecord


def measure_defended(
    defended: Defended,
    images: Tensor,
    prior: ImagePrior,
    *,
    queries: int = 1,
    rounding: Noise | None = None,
    seed: int = 0,
    deadline_s: float | None = None,
    relative_error: float | None = 0.01,
    steps: int = 300,
) -> LeakageRecord:
    """All leakage figures of a model under Gaussian noise.

    Fresh noise for every query adds their informations: n queries leak as one at σ/√n. Rounding is
    independent of the drawn noise, whose variance it adds to; it is there in any payload, and keeps
    an element without noise from counting as known exactly.

    Args:
        defended: Noise is all that protects it: `Defended.gaussian`.
        images: ``[n, c, h, w]`` on [0, 1]; best others than it was calibrated on.
        prior: What is taken as known of pictures.
        queries: How often the same picture is sent.
        rounding: What the payload carries besides; None takes that of fp32.
        seed: Of probes.
        deadline_s: Seconds after which no further step of quadrature begins.
        relative_error: At which quadrature ends (see `measure_leakage`).
        steps: At most so many a probe.

    Returns:
        The record, the figure that binds any attacker (``bayesian_fsinfo``) included.
    """
    noise = deployed_noise(defended, images, rounding=rounding)
    return measure_leakage(
        gated_head(defended),
        images,
        noise=repeated(noise, queries),
        prior=prior,
        steps=steps,
        probes=8,
        deadline_s=deadline_s,
        seed=seed,
        bayesian=True,
        relative_error=relative_error,
    )


def deployed_noise(
    defended: Defended, images: Tensor, *, rounding: Noise | None = None
) -> ElementNoise:
    """The noise on what is sent: what is drawn, and what rounding adds.

    Args:
        defended: Noise is all that protects it.
        images: ``[n, c, h, w]`` on [0, 1], from which the rounding's size follows.
        rounding: What the payload carries besides; None takes that of fp32.

    Returns:
        One σ for each element.

    Raises:
        DefenceError: The defence is no Gaussian noise.
    """
    if not defended.gaussian:
        raise DefenceError(
            f"expected a defence by Gaussian noise of one sigma for all pictures, which has Fisher "
            f"information, got {defended.text}: judge it by attacks"
        )
    with torch.no_grad():
        tensors = gated_head(defended)(images)
    besides = (PrecisionNoise("fp32") if rounding is None else rounding).level(tensors)
    drawn = defended.sigma(tensors)
    sigma = (drawn.square() + besides.sigma.to(drawn).square()).sqrt()
    parts = torch.split(sigma, [t[0].numel() for t in tensors])
    return ElementNoise(
        tuple(p.view(1, *t.shape[1:]) for p, t in zip(parts, tensors, strict=True)),
        f"{defended.text}; {besides.text}",
    )


def gated_head(defended: Defended) -> PixelHead:
    """The head with its gates: what is sent but for noise and shift, which tell nothing.

    Args:
        defended: The model under defence.

    Returns:
        The head itself where no gate does anything.
    """
    gates = [p.gate for p in defended.perturbations]
    if all(bool((g == 1).all()) for g in gates):
        return defended.head
    head = defended.head
    gated = PixelHead(_Gated(head.head, gates), (0.0,), (1.0,))
    gated.mean, gated.std = head.mean, head.std
    return gated.eval()


class _Gated(nn.Module):
    """A head whose tensors are multiplied by gates."""

    def __init__(self, head: nn.Module, gates: list[Tensor]) -> None:
        super().__init__()
        self._head, self._gates = head, gates

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out = self._head(x)
        tensors = tuple(out) if isinstance(out, tuple | list) else (out,)
        return tuple(g.to(t) * t for g, t in zip(self._gates, tensors, strict=True))
