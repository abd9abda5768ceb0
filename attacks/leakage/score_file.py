"""A learned prior as a file: .npz, read without pickle."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from splitdeploy.attacks.leakage.score_prior import Origin, RingInformation, ScorePrior
from splitdeploy.attacks.leakage.sides import frequency_rings
from splitdeploy.profiles.errors import LeakageError
from splitdeploy.profiles.report import Estimate
from splitdeploy.profiles.store import write_atomically

_VERSION = 1
_ARRAYS = ("information", "standard_error", "variance")


def save_prior(prior: ScorePrior, path: Path | str) -> None:
    """Write a learned prior: its information by ring, its settings, the digest of its pictures.

    Args:
        prior: The prior.
        path: The file, ``.npz`` by custom; it is there whole or not at all.
    """
    settings = {
        "version": _VERSION,
        "shape": prior.shape,
        "smoothing": prior.smoothing,
        "images": prior.rings.images,
        "mean": asdict(prior.rings.mean),
        "origin": asdict(prior.origin),
    }
    arrays = {name: getattr(prior.rings, name).numpy() for name in _ARRAYS}
    out = io.BytesIO()
    np.savez(out, settings=np.array(json.dumps(settings)), **arrays)
    write_atomically(path, out.getvalue())


def load_prior(path: Path | str) -> ScorePrior:
    """Read a learned prior and check it.

    Args:
        path: What `save_prior` wrote.

    Returns:
        The prior.

    Raises:
        LeakageError: The file cannot be read, or is no learned prior.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            settings = json.loads(str(file["settings"][()]))
            arrays = {name: np.asarray(file[name]) for name in _ARRAYS}
        return _prior(settings, arrays)
    except FileNotFoundError:
        raise LeakageError(
            f"expected a learned prior, got {path}, which does not exist: learn one with "
            "splitdeploy leakage --prior fit --prior-images DIR --out DIR"
        ) from None
    except (OSError, EOFError, ValueError, LookupError, TypeError, BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LeakageError(
            f"expected a learned prior as fit_score_prior makes it, got {path} ({reason}): learn "
            "it anew"
        ) from error


def _prior(settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> ScorePrior:
    if settings["version"] != _VERSION:
        raise ValueError(f"version {settings['version']}, not {_VERSION}")
    c, h, w = (int(side) for side in settings["shape"])
    smoothing = float(settings["smoothing"])
    if min(c, h, w) < 1 or not 0 < smoothing <= 1:
        raise ValueError(f"shape {(c, h, w)} and smoothing {smoothing}")
    rings = int(frequency_rings((c, h, w)).max()) + 1
    for name, array in arrays.items():
        if array.shape != (rings,) or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"expected {rings} finite float64 values of {name}")
    if (arrays["variance"] < 0).any() or (arrays["standard_error"] < 0).any():
        raise ValueError("a negative variance or standard error")
    information, error, variance = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
    mean = Estimate(float(settings["mean"]["value"]), float(settings["mean"]["standard_error"]))
    told = RingInformation(information, error, variance, mean, int(settings["images"]))
    origin = settings["origin"]
    return ScorePrior(
        (c, h, w),
        smoothing,
        told,
        Origin(
            str(origin["sha256"]),
            *(int(origin[name]) for name in ("images", "epochs", "steps", "seed")),
        ),
    )
