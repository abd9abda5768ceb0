"""A defence on a cut model, judged: what leaks, what it costs, and what attackers make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.base import run_attack
from splitdeploy.attacks.defences.adaptive import Send, observe_defended
from splitdeploy.attacks.defences.base import Defended, Perturbation, Victim
from splitdeploy.attacks.defences.defended_leakage import measure_defended
from splitdeploy.attacks.defences.guard_published import PublishedDefended
from splitdeploy.attacks.defences.utility import Utility, utility
from splitdeploy.attacks.leakage.noise import PrecisionNoise
from splitdeploy.attacks.leakage.prior import ImagePrior
from splitdeploy.attacks.registry import find_attack
from splitdeploy.profiles.errors import AttackError, LeakageError
from splitdeploy.profiles.report import AttackRecord, LeakageRecord

LEAKAGE_SHARE = 0.4
"""The part of a row's time that its leakage may take; the attacks share the rest."""

_LEARNED = "inverse-network"
"""The attack that learns from pictures: trained on what the defence sends, it adapts to any."""


@dataclass(frozen=True)
class Bench:
    """What every defence is judged on.

    Attributes:
        victim: The cut model, and the pictures that defences are set up by.
        images: ``[n, c, h, w]`` on [0, 1], to judge by: none of the victim's.
        labels: ``[n]`` int64, or None.
        attacked: How many of them are attacked and have their leakage measured: the first.
        auxiliary: Pictures of the attacker's own, to train a network on; None for no such attack.
        prior: What is taken as known of pictures.
        precision: Of the payload.
        queries: How often each picture is sent, with fresh noise.
        attacks: Names in the registry.
        seconds: For leakage and attacks of one row.
        seed: Of all that is random.
    """

    victim: Victim
    images: Tensor
    labels: Tensor | None
    attacked: int
    auxiliary: Tensor | None
    prior: ImagePrior
    precision: str
    queries: int
    attacks: tuple[str, ...]
    seconds: float
    seed: int


@dataclass(frozen=True)
class Verdict:
    """One row of the table.

    Attributes:
        name: ``undefended``, or the defence's.
        text: In words, with its strength.
        leakage: Its figures; None where it has no Fisher information.
        leakage_note: Whom the figures bind, or why there are none.
        utility: Right answers without and with it.
        attacks: Each attack, knowing the defence.
        relative_sigma: The noise over the smashed data's root mean square; None where it has none.
    """

    name: str
    text: str
    leakage: LeakageRecord | None
    leakage_note: str
    utility: Utility
    attacks: tuple[AttackRecord, ...]
    relative_sigma: float | None


def undefended(victim: Victim) -> Defended:
    """The victim as a defence that does nothing.

    Args:
        victim: The cut model.

    Returns:
        It, sent as it is.
    """
    with torch.no_grad():
        count = len(victim.head(victim.images[:1]))
    one, zero = torch.ones(()), torch.zeros(())
    nothing = Perturbation("none", one, zero, zero)
    return Defended(victim.head, victim.tail, (nothing,) * count, "nothing but the payload's codec")


def judge_defence(
    name: str, defended: Defended, bench: Bench, *, send: Send | None = None
) -> Verdict:
    """Measure a defence, and attack it.

    Args:
        name: What its row is called.
        defended: The model under it.
        bench: What to judge on.
        send: What sends where it is deployed: the exported head; None for the model in torch.

    Returns:
        The row.
    """
    record, note = leakage_of(defended, bench)
    return Verdict(
        name=name,
        text=defended.text,
        leakage=record,
        leakage_note=note,
        utility=utility(defended, bench.victim, bench.images, bench.labels, seed=bench.seed),
        attacks=_attacked(defended, bench, send),
        relative_sigma=relative_sigma(defended, bench.images[: bench.attacked]),
    )


def leakage_of(defended: Defended, bench: Bench) -> tuple[LeakageRecord | None, str]:
    """The Fisher-information figures of a defence, as far as it has any.

    Laplace noise of scale b has the Fisher information of Gaussian noise of sigma b, 1/b² an
    element, and the bounds need no more than that. Without noise there is the rounding alone.

    Args:
        defended: The model under it.
        bench: What to measure on.

    Returns:
        The record or None, and whom it binds or why there is none.
    """
    images = bench.images[: bench.attacked]
    if isinstance(defended, PublishedDefended):
        return None, "its sigma depends on the picture: its own target binds unbiased attackers"
    if any(p.distribution == "dropout" for p in defended.perturbations):
        return None, "dropout has no Fisher information: judged by attacks"
    # Rounding alone is the same each time: to send again tells nothing new.
    random = any(bool((p.scale > 0).any()) for p in defended.perturbations)
    smooth = replace(defended, perturbations=tuple(map(_gaussian, defended.perturbations)))
    try:
        record = measure_defended(
            smooth, images, bench.prior, queries=bench.queries if random else 1,
            rounding=PrecisionNoise(bench.precision), seed=bench.seed,
            deadline_s=LEAKAGE_SHARE * bench.seconds,
        )  # fmt: skip
    except LeakageError as error:
        return None, str(error)
    return record, "any attacker, on average over pictures of the prior"


def relative_sigma(defended: Defended, images: Tensor) -> float | None:
    """The noise's standard deviation over the root mean square of what it lies on.

    Args:
        defended: The model under a defence.
        images: ``[n, c, h, w]`` on [0, 1].

    Returns:
        Root-mean-squared over all elements; None without additive noise.
    """
    if all(p.distribution in {"none", "dropout"} for p in defended.perturbations):
        return None
    with torch.no_grad():
        tensors = defended.head(images)
    noise = signal = 0.0
    for perturbation, tensor in zip(defended.perturbations, tensors, strict=True):
        variance = 2.0 if perturbation.distribution == "laplace" else 1.0
        scale = perturbation.scale.double().expand(1, *tensor.shape[1:])
        noise += variance * float(scale.square().sum())
        signal += float((perturbation.gate * tensor).double().square().sum()) / len(tensor)
    return float((noise / signal) ** 0.5) if signal > 0 else None


def _gaussian(perturbation: Perturbation) -> Perturbation:
    """Gaussian noise of the same Fisher information."""
    return replace(perturbation, distribution="gaussian")


def _attacked(defended: Defended, bench: Bench, send: Send | None) -> tuple[AttackRecord, ...]:
    pixels = bench.images[: bench.attacked]
    rounding = PrecisionNoise(bench.precision)
    target = observe_defended(
        defended, pixels, queries=bench.queries, seed=bench.seed, send=send, rounding=rounding
    )
    names = list(bench.attacks)
    if bench.auxiliary is not None:
        target = replace(
            target,
            auxiliary=Auxiliary(bench.auxiliary),
            query=lambda images, seed: (
                observe_defended(
                    defended, images, queries=bench.queries, seed=seed, rounding=rounding
                ).observation
            ),
        )
        names += [name for name in (_LEARNED,) if name not in names]
    chosen = [find_attack(name).preset(seed=bench.seed) for name in names]
    chosen = [attack for attack in chosen if attack.applies(target)]
    share_s = (1.0 - LEAKAGE_SHARE) * bench.seconds / max(1, len(chosen))
    records = [run_attack(attack, target, pixels, deadline_s=share_s)[0] for attack in chosen]
    if not records:
        raise AttackError(
            f"none of the attacks {', '.join(bench.attacks)} applies to this head: name others"
        )
    return tuple(records)


def strongest(attacks: Sequence[AttackRecord]) -> AttackRecord:
    """The attack of the highest SSIM."""
    return max(attacks, key=lambda record: record.ssim)
