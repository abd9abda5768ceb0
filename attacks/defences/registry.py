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
from splitdeploy.attacks.named import Registry

_DEFENCES: Registry[Defence] = Registry("defence")
register = _DEFENCES.register
find_defence = _DEFENCES.find


def defences_table() -> list[dict[str, str]]:
    """What there is: for each defence its name, what its strength means, and its paper."""
    return [{"name": d.name, "strength": d.strength, "paper": d.paper} for d in _DEFENCES]


register(GaussianNoise)
register(LaplaceNoise)
register(Dropout)
register(ChannelPruning)
register(NoPeek)
register(Shredder)
register(GuardBayesian)
register(GuardShaped)
register(GuardPublished)
