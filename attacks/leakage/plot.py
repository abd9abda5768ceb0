"""Leakage against the strength of the noise, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from splitdeploy.attacks.leakage.family import CurvePoint
from splitdeploy.profiles.errors import OutputError
from splitdeploy.profiles.store import write_atomically


def save_curve(path: Path, points: Sequence[CurvePoint], title: str) -> None:
    """Draw gain and FSInfo with two standard errors; written aside and renamed.

    Args:
        path: A PNG; its folder is made where it is missing.
        points: In the order of the noise.
        title: Above it.

    Raises:
        OutputError: The place cannot be written.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    x = [point.noise_sigma for point in points]
    for name, style in (("gain", "o-"), ("fsinfo", "s--")):
        estimates = [getattr(point, name) for point in points]
        errors = [2 * e.standard_error for e in estimates]
        axes.errorbar(x, [e.value for e in estimates], errors, fmt=style, capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("sigma of the noise / root mean square of the smashed data")
    axes.set_ylabel("nats per input element")
    axes.set_title(title)
    axes.axhline(0.0, color="grey", linewidth=0.8)
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, out.getvalue())
    except (OSError, OutputError) as error:
        raise OutputError(f"cannot write the plot {path}: {error}; choose another") from error
