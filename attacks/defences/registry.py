"""The defences by name. Adding one: its file, its line here, its row in the tests' table.

The first argument of every defence's constructor is its strength; the others have defaults. A
strength is a number, or a `Target` where the defence is calibrated to one.
"""

from __future__ import annotations

from splitdeploy.attacks.defences.added_noise import GaussianNoise, LaplaceNoise
from splitdeploy.attacks.defences.base import Defence
from splitdeploy.attacks.defences.guard_bayesian import GuardBayesian
from splitdeploy.attacks.defences.guard_published import GuardPublished
from splitdeploy.attacks.defences.guard_shaped import GuardShaped
from splitdeploy.attacks.defences.masks import ChannelPruning, Dropout
from splitdeploy.attacks.defences.nopeek import NoPeek
from splitdeploy.attacks.defences.shredder import Shredder
from splitdeploy.profiles.errors import UnknownNameError

_DEFENCES: dict[str, type[Defence]] = {}


def register(defence: type[Defence]) -> type[Defence]:
    """Make a defence available under its name.

    Args:
        defence: The class.

    Returns:
        The class, so that this can decorate one.

    Raises:
        ValueError: The name is taken by another defence.
    """
    taken = _DEFENCES.get(defence.name)
    if taken is not None and taken is not defence:
        raise ValueError(
            f"defence {defence.name!r} is registered twice: by {taken.__module__} and "
            f"{defence.__module__}"
        )
    _DEFENCES[defence.name] = defence
    return defence


def find_defence(name: str) -> type[Defence]:
    """The defence of that name.

    Args:
        name: One of those that ``defences_table()`` lists.

    Returns:
        The class; ``find_defence("gaussian")(0.5)`` is a defence.

    Raises:
        UnknownNameError: There is no such defence.
    """
    if name not in _DEFENCES:
        raise UnknownNameError("defence", name, _DEFENCES)
    return _DEFENCES[name]


def defences_table() -> list[dict[str, str]]:
    """What there is: for each defence its name, what its strength means, and its paper."""
    return [
        {"name": d.name, "strength": d.strength, "paper": d.paper}
        for _, d in sorted(_DEFENCES.items())
    ]


register(GaussianNoise)
register(LaplaceNoise)
register(Dropout)
register(ChannelPruning)
register(NoPeek)
register(Shredder)
register(GuardBayesian)
register(GuardShaped)
register(GuardPublished)
