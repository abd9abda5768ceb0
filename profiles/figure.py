"""One figure of what a cut gives away, with its error, whom it binds and what it assumes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from splitdeploy.profiles.document import Node


@dataclass(frozen=True)
class Figure:
    """One line of the table of a cut's leakage.

    Attributes:
        name: What it is called, in snake case; lower bounds on the error begin with ``mse``.
        text: What it is, in words.
        value: In ``unit``; may be infinite.
        standard_error: None where it was not estimated.
        unit: ``nats/d`` is nats per input element; ``MSE`` is of a pixel on [0, 1].
        binds: ``any`` or ``unbiased`` attackers; empty for a figure that bounds none.
        assumes: ``prior``: pictures follow it; ``local``: neighbours of each picture;
            ``variances``, ``samples``, ``labels``: of the given pictures, which stand behind every
            figure.
        images: How many pictures stand behind it; 0 where that was not kept.
    """

    name: str
    text: str
    value: float
    standard_error: float | None
    unit: str
    binds: str
    assumes: str
    images: int = 0

    @property
    def bounds_error(self) -> bool:
        """Whether it is a lower bound on the error of a reconstruction."""
        return self.name.startswith("mse")


def ordered(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """The figures, bounds on the error last; else in the given order."""
    return tuple(sorted(figures, key=lambda figure: figure.bounds_error))


def figure_to_json(figure: Figure) -> dict[str, Any]:
    """The document of a figure. JSON knows no infinity: it is ``"inf"`` or ``"-inf"`` there.

    Args:
        figure: What to write.

    Returns:
        Its document.
    """
    document = dict(vars(figure))
    if math.isinf(figure.value):
        document["value"] = "inf" if figure.value > 0 else "-inf"
    error = figure.standard_error
    if error is not None and not math.isfinite(error):
        document["standard_error"] = None
    return document


def figure_from_json(node: Node) -> Figure:
    """The figure of a document.

    Args:
        node: Where it stands.

    Returns:
        The figure.
    """
    value, error, images = node["value"], node.get("standard_error"), node.get("images")
    infinite = isinstance(value.value, str)
    return Figure(
        name=node["name"].text(),
        text=node["text"].text(),
        value=float(value.choice(("inf", "-inf"))) if infinite else value.number(),
        standard_error=None if error is None else error.number(),
        unit=node["unit"].text(),
        binds=node["binds"].text(),
        assumes=node["assumes"].text(),
        images=images.integer() if images else 0,
    )
