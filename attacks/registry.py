"""The attacks by name. Adding one: its file, its line here, its row in the tests' table."""

from __future__ import annotations

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.deep_image_prior import DeepImagePrior
from splitdeploy.attacks.inverse_attack import InverseAttack, InverseBlind
from splitdeploy.attacks.inverse_refined import InverseRefined
from splitdeploy.attacks.latent_search import LatentSearch
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.linear_queries import LinearByQueries
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.pfo import Pfo
from splitdeploy.attacks.query_shadow import QueryShadow
from splitdeploy.attacks.rmle import Rmle, RmlePublished
from splitdeploy.attacks.shadow import Shadow, ShadowOtherNet
from splitdeploy.attacks.unsplit import UnSplit
from splitdeploy.profiles.errors import UnknownNameError

_ATTACKS: dict[str, type[Attack]] = {}


def register(attack: type[Attack]) -> type[Attack]:
    """Make an attack available under its name.

    Args:
        attack: The class.

    Returns:
        The class, so that this can decorate one.

    Raises:
        ValueError: The name is taken by another attack.
    """
    taken = _ATTACKS.get(attack.name)
    if taken is not None and taken is not attack:
        raise ValueError(
            f"attack {attack.name!r} is registered twice: by {taken.__module__} and "
            f"{attack.__module__}"
        )
    _ATTACKS[attack.name] = attack
    return attack


def find_attack(name: str) -> type[Attack]:
    """The attack of that name.

    Args:
        name: One of those that ``attacks_table()`` lists.

    Returns:
        The class; ``find_attack("rmle").preset("fast")`` is an attack.

    Raises:
        UnknownNameError: There is no such attack.
    """
    if name not in _ATTACKS:
        raise UnknownNameError("attack", name, _ATTACKS, "(see: splitdeploy attacks)")
    return _ATTACKS[name]


def attacks_table() -> list[dict[str, str]]:
    """What there is: for each attack its name, presets, threat model, cost and paper."""
    return [
        {
            "name": a.name,
            "presets": ", ".join(a.presets),
            "threat_model": str(a.threat),
            "cost": a.cost,
            "paper": a.paper,
        }
        for _, a in sorted(_ATTACKS.items())
    ]


register(Rmle)
register(RmlePublished)
register(LeastSquares)
register(NoiseAware)
register(Pfo)
register(LatentSearch)
register(InverseAttack)
register(InverseBlind)
register(DeepImagePrior)
register(LinearByQueries)
register(Shadow)
register(ShadowOtherNet)
register(QueryShadow)
register(UnSplit)
register(InverseRefined)
