"""The Fisher information of the user's pictures, learned by denoising score matching.

Pictures x are smoothed with a declared s: y = x + s·n, n ~ N(0, 1), so that they have a density and
a score, ∇ln p_s(y) = −E[n | y]/s (Tweedie; Vincent 2011). In an orthonormal basis, coefficient by
coefficient (Score-to-Fisher bridge, arXiv 2510.05496),

    J_ii = E[(∇ln p_s)_i²] = E[E[n_i | y]²]/s² = (1 − E Var(n_i | y))/s².

Any predictor ν(y) of the noise, on pictures that it was not trained on, has

    E[2·n_i·ν_i − ν_i²]/s² = (1 − E(n_i − ν_i)²)/s² ≤ J_ii,

with equality for the best one. This is what is estimated, with its standard error over pictures:
the mean square of the network's own output, which is the obvious estimate, may err either way. So
a network that falls short makes J too SMALL, error bounds too HIGH and FSInfo too LOW: a learned
prior makes them estimates, the better the network the lower the bounds.

Little noise is the hardest to tell. But Fisher information under more, t > s, bounds it too: by
Stam's inequality J_t⁻¹ ⪰ J_s⁻¹ + (t² − s²)·1, whence, as x/(1 − ax) is convex,

    (J_s)_ii ≥ (J_t)_ii/(1 − (t² − s²)·(J_t)_ii),

and the level that bounds a ring best stands for it. With J_s so, no denoiser of that level is below
the van Trees bound for pictures sent with noise of variance t² − s².

What always holds is
1/C_ii ≤ J_ii ≤ 1/s² (a Gaussian has the least information of all of its covariance; smoothing
limits it): below, the estimate is cut off there; above, J = 1/s² is what to take for bounds that no
picture breaks, which no finite number of pictures can better.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitdeploy.attacks.leakage.exact import GAUSSIAN_ENTROPY
from splitdeploy.attacks.leakage.prior import SMOOTHING, ImagePrior, Transform
from splitdeploy.attacks.leakage.score_network import (
    NoisePredictor,
    Progress,
    ring_variance,
    train_predictor,
)
from splitdeploy.attacks.leakage.sides import frequency_rings
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate

EPOCHS = 40
FEWEST_IMAGES = 32
"""With fewer there is too little to hold out."""

_HELD_OUT, _MOST_HELD_OUT = 0.2, 1000
_DRAWS, _BATCH = 2, 32

_SURE = 2.0
"""Standard errors below its estimate at which a bound is compared with others."""


@dataclass(frozen=True)
class RingInformation:
    """Fisher information of smoothed pictures, ring by ring of frequency and colour.

    Attributes:
        information: ``[rings]``: mean of J_ii over the ring, one over squared pixel units;
            estimated from below, it may come out negative where there is little.
        standard_error: ``[rings]``: of it, over pictures and noise.
        variance: ``[rings]``: mean of C_ii over the ring, s² included; zero for an empty ring.
        mean: tr(J)/d over all rings, not cut off.
        images: How many pictures it was measured on.
    """

    information: Tensor
    standard_error: Tensor
    variance: Tensor
    mean: Estimate
    images: int


@dataclass(frozen=True)
class Origin:
    """What a learned prior was learned from.

    Attributes:
        sha256: Of the pictures' tensor (see `digest`), those held out included.
        images: How many pictures it was trained on.
        epochs: Passes over them, as asked for.
        steps: Steps that were made; a deadline may have ended them.
        seed: Of everything random.
    """

    sha256: str
    images: int
    epochs: int
    steps: int
    seed: int


class ScorePrior(ImagePrior):
    """Pictures of learned Fisher information, smoothed: usable wherever an `ImagePrior` is.

    Args:
        shape: ``(c, h, w)``.
        smoothing: s, in pixel units.
        rings: The information, measured on pictures held out.
        origin: What it was learned from.

    Attributes:
        rings: As given.
        origin: As given.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        smoothing: float,
        rings: RingInformation,
        origin: Origin,
    ) -> None:
        least = 1.0 / rings.variance.clamp_min(smoothing**2)
        # Maximum and minimum in this order: with few pictures even 1/C may exceed 1/s².
        information = rings.information.maximum(least).clamp_max(smoothing**-2)
        variance = (1.0 / information)[frequency_rings(shape)].view(shape)
        super().__init__(shape, variance, smoothing=smoothing)
        self.rings, self.origin = rings, origin

    @property
    def entropy_at_most(self) -> float:
        """h(X) of Gaussian pictures of the same variances in each ring, in nats."""
        size = torch.bincount(frequency_rings(self.shape))
        used = size > 0
        logs = size[used].double() * self.rings.variance[used].log()
        return self.dimensions * GAUSSIAN_ENTROPY + float(logs.sum()) / 2

    def describe(self) -> str:
        """The prior in a sentence, for the report."""
        levels, mean = self.smoothing * 255, self.rings.mean
        return (
            f"learned from {self.origin.images} pictures by denoising score matching at "
            f"{levels:.3g}/255, which is added to every picture: Fisher information "
            f"{mean.value:.4g} ± {mean.standard_error:.2g} per squared pixel unit on "
            f"{self.rings.images} others, from below (at most {self.smoothing**-2:.4g}), taken as "
            "diagonal in DCT and opponent colours"
        )


def fit_score_prior(
    images: Tensor,
    *,
    smoothing: float = SMOOTHING,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Progress | None = None,
    deadline_s: float | None = None,
) -> ScorePrior:
    """Learn the Fisher information of pictures: a fifth of them is held out, and it is told there.

    Args:
        images: ``[n, c, h, w]`` on [0, 1], at least `FEWEST_IMAGES`; other than those whose leakage
            is measured.
        smoothing: s, in pixel units on [0, 1].
        epochs: Passes over the pictures.
        seed: Of the split, the weights and the noise.
        progress: Told after each epoch.
        deadline_s: Seconds by which training ends.

    Returns:
        The prior.

    Raises:
        LeakageError: The pictures are too few, of another form or not on [0, 1], the smoothing is
            not on (0, 1], or there are no epochs to train for.
    """
    pictures = _checked(images, smoothing)
    if epochs < 1 or (deadline_s is not None and not deadline_s > 0):
        raise LeakageError(
            f"expected at least 1 epoch and a positive time to train, got {epochs} and {deadline_s}"
        )
    if len(pictures) < FEWEST_IMAGES:
        raise LeakageError(
            f"expected at least {FEWEST_IMAGES} pictures to learn a prior from, got "
            f"{len(pictures)}: give more, or take the Gaussian prior"
        )
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    count = min(math.ceil(_HELD_OUT * len(pictures)), _MOST_HELD_OUT)
    network, steps = train_predictor(
        pictures[order[count:]], smoothing=smoothing, epochs=epochs, seed=seed, progress=progress,
        deadline_s=deadline_s,
    )  # fmt: skip
    rings = measure_information(network, pictures[order[:count]], seed=seed + 1)
    origin = Origin(digest(pictures), len(pictures) - count, epochs, steps, seed)
    shape = (pictures.shape[1], pictures.shape[2], pictures.shape[3])
    return ScorePrior(shape, smoothing, rings, origin)


def measure_information(
    network: NoisePredictor, images: Tensor, *, seed: int = 0
) -> RingInformation:
    """The Fisher information of pictures by a predictor of noise, from below, ring by ring.

    Args:
        network: Trained on other pictures.
        images: ``[n, c, h, w]`` on [0, 1], at least 2.
        seed: Of the noise.

    Returns:
        The information; the standard error is over pictures.

    Raises:
        LeakageError: The pictures are too few, of another form or not on [0, 1].
    """
    pictures, s = _checked(images, network.smoothing), network.smoothing
    if len(pictures) < 2:
        raise LeakageError(f"expected at least 2 pictures held out, got {len(pictures)}")
    ring = frequency_rings((pictures.shape[1], pictures.shape[2], pictures.shape[3]))
    size = torch.bincount(ring)
    best = torch.full((len(size),), -math.inf, dtype=torch.float64)
    each = torch.zeros(len(pictures), len(size), dtype=torch.float64)
    for place, level in enumerate(network.levels):
        found = explained_noise(network, pictures, level, seed=seed + place)
        lifted, error = _lift(found, level**2 - s**2)
        # The surest bound, not the largest: chance would choose among noisy ones.
        better = lifted.mean(dim=0) - _SURE * error > best
        best = torch.where(better, lifted.mean(dim=0) - _SURE * error, best)
        each = torch.where(better, lifted, each)
    means = each @ size.double() / size.sum()
    root = math.sqrt(len(each))
    variance = ring_variance(pictures, network.mean.flatten().double()).flatten() + s**2
    sums = torch.zeros(len(size), dtype=torch.float64).index_add_(0, ring, variance)
    return RingInformation(
        each.mean(dim=0),
        each.std(dim=0) / root,
        sums / size.clamp_min(1),
        Estimate(float(means.mean()), float(means.std()) / root),
        len(each),
    )


def explained_noise(
    network: NoisePredictor, images: Tensor, level: float, *, seed: int = 0
) -> Tensor:
    """E[2·n_i·ν_i − ν_i²]/t² for each picture, averaged over rings: information under noise t.

    Noise is drawn in pairs n and −n: what the prediction owes to the picture then cancels in the
    mean of n·ν, which is most of its variance where t is small beside the pictures' contrast. What
    the linear part a·n of ν has of n² is replaced by its mean, 1.

    Args:
        network: Trained on other pictures.
        images: ``[n, c, h, w]`` float32 on [0, 1].
        level: t.
        seed: Of the noise.

    Returns:
        ``[n, rings]`` float64. A denoiser by this network has the error t²(1 − t²·that).
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    transform, ring = Transform(shape, images), frequency_rings(shape)
    size = torch.bincount(ring)
    generator = torch.Generator().manual_seed(seed)
    linear = level**2 / (network.variance + level**2)
    of_square = 2 * linear - linear.square()
    found = []
    with torch.no_grad():
        for part in torch.split(images, _BATCH):
            levels = torch.full((len(part),), level)
            explained = torch.zeros(len(part), len(size), dtype=torch.float64)
            for _ in range(_DRAWS):
                noise = torch.randn(part.shape, generator=generator)
                n = transform.forward(noise.flatten(1))
                plus = transform.forward(network(part + level * noise, levels).flatten(1))
                minus = transform.forward(network(part - level * noise, levels).flatten(1))
                both = n * (plus - minus) - (plus.square() + minus.square()) / 2
                both -= of_square * (n.square() - 1.0)
                explained.index_add_(1, ring, both.flatten(1).double() / _DRAWS)
            found.append(explained / size.clamp_min(1) / level**2)
    return torch.cat(found)


def _lift(found: Tensor, more: float) -> tuple[Tensor, Tensor]:
    """From noise of a variance larger by so much down to s: x/(1 − more·x), linear about the mean.

    Args:
        found: ``[n, rings]``: information of each picture.
        more: t² − s².

    Returns:
        ``[n, rings]``; the standard error of its mean, ``[rings]``, infinite where the mean is
        beyond what the noise allows.
    """
    mean = found.mean(dim=0)
    left = 1.0 - more * mean
    slope = torch.where(left > 0, left.square().reciprocal(), math.inf)
    error = slope * found.std(dim=0) / math.sqrt(len(found))
    finite = torch.where(left > 0, slope, 0.0)
    return torch.where(left > 0, mean / left, 0.0) + finite * (found - mean), error.nan_to_num(
        nan=0.0, posinf=math.inf
    )


def digest(images: Tensor) -> str:
    """SHA-256 of pictures: their shape, then their float32 values.

    Args:
        images: ``[n, c, h, w]``.

    Returns:
        Hexadecimal.
    """
    told = hashlib.sha256(repr(tuple(images.shape)).encode())
    told.update(images.detach().cpu().float().contiguous().numpy().tobytes())
    return told.hexdigest()


def _checked(images: Tensor, smoothing: float) -> Tensor:
    if not 0 < smoothing <= 1:
        raise LeakageError(
            f"expected a smoothing of the prior on (0, 1], in pixel units, got {smoothing}"
        )
    if images.dim() != 4 or not images.is_floating_point():
        raise LeakageError(
            f"expected floating-point pictures [n, c, h, w], got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    if images.numel() > 0 and not bool(((images >= 0) & (images <= 1)).all()):
        raise LeakageError(
            f"expected pictures on [0, 1], got values from {float(images.min()):g} to "
            f"{float(images.max()):g}"
        )
    return images.detach().cpu().float()
