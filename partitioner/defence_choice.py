"""Which defence: the guards, by a leakage target; the others, by a strength of their own."""

from __future__ import annotations

import math

from splitdeploy.attacks.defences.base import Defence
from splitdeploy.attacks.defences.calibration import Budget
from splitdeploy.attacks.defences.guard_bayesian import GuardBayesian
from splitdeploy.attacks.defences.guard_published import GuardPublished
from splitdeploy.attacks.defences.guard_shaped import GuardShaped
from splitdeploy.attacks.defences.registry import defences_table, find_defence
from splitdeploy.attacks.defences.target import Target
from splitdeploy.attacks.leakage.noise import PrecisionNoise
from splitdeploy.profiles.errors import UnknownNameError, UsageError

GUARDS = ("bayesian", "shaped", "published")
"""The forms that take a target."""

_NOPEEK_WEIGHT = 0.5
"""What its published experiments take."""


def forms() -> list[str]:
    """Every form that ``--form`` takes."""
    return [*GUARDS, *(row["name"] for row in defences_table() if row["name"] not in GUARDS)]


def check_form(form: str, target: Target | None, strength: float | None) -> None:
    """Refuse a form with the other kind of setting.

    Args:
        form: By name.
        target: A leakage target, or None.
        strength: A strength, or None.

    Raises:
        UnknownNameError: There is no such form.
        UsageError: A guard has no target or a strength, or another defence has no strength.
    """
    if form not in forms():
        raise UnknownNameError("form of defence", form, forms())
    if form in GUARDS and (target is None or strength is not None):
        given = "none" if target is None else "a --strength besides"
        raise UsageError(
            f"expected --target for the form {form}, got {given}: such as --target fsinfo:-1, "
            "gain:0.5 or mse:0.02"
        )
    if form not in GUARDS and strength is None:
        meaning = next(row["strength"] for row in defences_table() if row["name"] == form)
        raise UsageError(
            f"expected --strength for the form {form} ({meaning}), got none: only the forms "
            f"{', '.join(GUARDS)} are calibrated to a --target"
        )


def make_defence(
    form: str, target: Target | None, strength: float | None, precision: str, seconds: float
) -> Defence:
    """The defence of that name.

    Args:
        form: As `check_form` lets it pass.
        target: A leakage target, or None.
        strength: A strength, or None.
        precision: Of the payload, whose rounding is there without a guard.
        seconds: For the curves of a calibration.

    Returns:
        The defence, to be fitted.
    """
    check_form(form, target, strength)
    if target is not None and form in GUARDS:
        rounding, budget = PrecisionNoise(precision), Budget(deadline_s=seconds)
        if form == "bayesian":
            return GuardBayesian(target, rounding=rounding, budget=budget)
        if form == "shaped":
            return GuardShaped(target, rounding=rounding, budget=budget)
        return GuardPublished(target)
    return find_defence(form)(strength)  # type: ignore[call-arg]


def rivals(
    form: str, target: Target | None, relative_sigma: float | None
) -> list[tuple[str, Target | None, float | None]]:
    """What a defence is compared with, as strong as it is where strengths compare.

    Additive noise is given the same power relative to the smashed data. Dropout and pruning are
    given the share ρ²/(1 + ρ²): the noise's part of the variance of what is sent; dropout of that
    share adds noise of the same power. NoPeek takes its published weight.

    Args:
        form: The defence's own name, which is left out.
        target: The guards' target; None leaves them out.
        relative_sigma: ρ: the noise's standard deviation over the smashed data's root mean
            square; None, for a defence without noise, counts as 1.

    Returns:
        The form, target and strength of each.
    """
    rho = 1.0 if relative_sigma is None else relative_sigma
    share = rho**2 / (1.0 + rho**2)
    strengths = {
        "laplace": rho / math.sqrt(2.0), "dropout": share, "pruning": share,
        "nopeek": _NOPEEK_WEIGHT, "shredder": rho / math.sqrt(2.0),
    }  # fmt: skip
    if target is None:
        strengths["gaussian"] = rho  # with a target, the bayesian guard is that
    guards = [] if target is None else [(name, target, None) for name in GUARDS]
    others = [(name, None, strengths[name]) for name in forms() if name in strengths]
    return [row for row in [*guards, *others] if row[0] != form]
