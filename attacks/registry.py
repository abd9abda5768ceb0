"""The attacks by name. Adding one: its file, its line here, its row in the tests' table."""

from __future__ import annotations

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.deep_image_prior import DeepImagePrior
from splitdeploy.attacks.inverse_attack import InverseAttack, InverseBlind
from splitdeploy.attacks.inverse_refined import InverseRefined
from splitdeploy.attacks.latent_search import LatentSearch
from splitdeploy.attacks.least_squares import LeastSquares
from splitdeploy.attacks.linear_queries import LinearByQueries
from splitdeploy.attacks.named import Registry, described
from splitdeploy.attacks.noise_aware import NoiseAware
from splitdeploy.attacks.pfo import Pfo
from splitdeploy.attacks.query_shadow import QueryShadow
from splitdeploy.attacks.rmle import Rmle, RmlePublished
from splitdeploy.attacks.shadow import Shadow, ShadowOtherNet
from splitdeploy.attacks.unsplit import UnSplit

_ATTACKS: Registry[Attack] = Registry("attack", "(see: splitdeploy attacks)")
register = _ATTACKS.register
find_attack = _ATTACKS.find


def attacks_table() -> list[dict[str, str]]:
    """What there is: for each attack its name, presets, threat model, cost and paper."""
    return described(_ATTACKS)


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
