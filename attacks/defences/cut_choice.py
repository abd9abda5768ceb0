"""Defending by another cut: deeper, or behind a fully connected layer.

He, Zhang and Lee (ACSAC 2019, "Model inversion attacks against collaborative inference", and IEEE
IoTJ 2021) find that pictures are recovered worse the deeper the cut, and advise to keep at least
one fully connected layer on the edge, since it mixes all positions. What it costs is the edge's
time: the cuts carry their multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.errors import DefenceError, UnknownNameError


def deeper_cuts(cuts: Sequence[CutPoint], cut: str) -> tuple[CutPoint, ...]:
    """The cuts behind a cut, the nearest first.

    Args:
        cuts: Those of the model, the two ends among them or not.
        cut: The name of one of them.

    Returns:
        Those of a higher index, without the ends; empty behind the last.

    Raises:
        UnknownNameError: None of the cuts has that name.
    """
    here = next((each for each in cuts if each.name == cut), None)
    if here is None:
        raise UnknownNameError("cut", cut, [each.name for each in cuts])
    deeper = [each for each in cuts if each.index > here.index and not each.is_end]
    return tuple(sorted(deeper, key=lambda each: each.index))


def behind_fully_connected(
    cuts: Sequence[CutPoint], holds: Callable[[CutPoint], bool]
) -> tuple[CutPoint, ...]:
    """The cuts whose head holds at least one fully connected layer, the nearest first.

    Args:
        cuts: Those of the model.
        holds: Whether a cut's smashed data comes through a fully connected layer alone; from a
            traced graph ``splitdeploy.partitioner.fully_connected`` tells.

    Returns:
        At least one; where nothing but ``edge-only`` lies behind such a layer, that alone.

    Raises:
        DefenceError: No cut does.
    """
    behind = sorted((cut for cut in cuts if holds(cut)), key=lambda cut: cut.index)
    if not behind:
        raise DefenceError(
            f"expected a cut behind a fully connected layer, none of {len(cuts)} is: the model has "
            "no such layer, choose a deeper cut instead"
        )
    return tuple(behind)
