"""The Euclidean projection on the ℓ1 ball (Duchi, Shalev-Shwartz, Singer and Chandra 2008).

    Π(v) = argmin_{‖x‖₁ ≤ r} ‖x − v‖²  =  sign(v)·max(|v| − θ, 0),

with θ such that the norm is r (their figure 1, algorithm of O(d log d)), and v itself where it lies
inside the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_on_l1_ball(points: Tensor, radius: Tensor | float) -> Tensor:
    """The nearest points of ℓ1 balls around 0, one ball for each sample.

    Args:
        points: ``[n, …]``; each sample is one vector.
        radius: Of the balls, at least 0, infinite for none; one, or ``[n]``.

    Returns:
        Of the same shape; samples inside their ball as they came, bit for bit.
    """
    flat = points.detach().flatten(1)
    radii = torch.as_tensor(radius, dtype=flat.dtype, device=flat.device).expand(len(flat))
    sizes = flat.abs()
    inside = sizes.sum(1) <= radii
    if bool(inside.all()):
        return points.detach()
    threshold = _threshold(sizes, radii).unsqueeze(1)
    shrunk = flat.sign() * (sizes - threshold).clamp_min(0.0)
    return torch.where(inside.unsqueeze(1), flat, shrunk).view_as(points)


def _threshold(sizes: Tensor, radii: Tensor) -> Tensor:
    """θ for each row of absolute values whose sum is above its radius; anything for others."""
    ordered = sizes.sort(dim=1, descending=True).values
    # In float64: the sum of a large map less the radius is a difference of close numbers.
    surplus = ordered.double().cumsum(1) - radii.double().unsqueeze(1)
    counts = torch.arange(1, sizes.shape[1] + 1, device=sizes.device, dtype=torch.float64)
    kept = (ordered.double() * counts > surplus).sum(1).clamp_min(1)
    theta = surplus.gather(1, (kept - 1).unsqueeze(1)).squeeze(1) / kept
    return theta.clamp_min(0.0).to(sizes.dtype)
