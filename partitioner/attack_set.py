"""Which attacks are run, in which order, and what each needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.label_probes.base import LabelAttack
from splitdeploy.attacks.registry import attacks_table, find_attack
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.errors import UnknownNameError, UsageError

ALL = "all"

STRONGEST = (
    "least-squares",  # exact, where the head is linear
    "pfo",
    "inverse-refined",
    "noise-aware",
    "deep-image-prior",
    "inverse-network",
    "rmle:restarts",
    "rmle",
)
"""What recovers most of modern nets comes first; a name that is not registered counts for nothing.
Whoever has pictures or a generator of his own recovers more than who has the weights alone."""

LEAST_S = 10.0
"""An attack that gets less than that of the time is not begun where nobody named it."""


@dataclass(frozen=True)
class Choice:
    """An attack with its settings.

    Attributes:
        name: In the registry.
        preset: By name; None for the attack's default.
    """

    name: str
    preset: str | None = None

    @property
    def label(self) -> str:
        """The attack and its preset: ``rmle:fast``; names files too, with a dash for the colon."""
        return f"{self.name}:{self.preset or next(iter(find_attack(self.name).presets))}"

    def make(self, seed: int) -> Attack:
        """The attack.

        Args:
            seed: Of its randomness.

        Returns:
            It, ready to be called.
        """
        return find_attack(self.name).preset(self.preset, seed=seed)


@dataclass(frozen=True)
class Skipped:
    """An attack that was not run.

    Attributes:
        label: The attack and its preset.
        reason: Why, and what to do.
    """

    label: str
    reason: str


def parse_attacks(text: str | None, preset: str | None = None) -> tuple[Choice, ...] | None:
    """Attacks that a user names.

    Args:
        text: ``rmle,noise-aware:thorough``, ``all``, or None for what the budget allows.
        preset: Of those that name none.

    Returns:
        The attacks, each once; None where none is named.

    Raises:
        UnknownNameError: There is no such attack or preset.
        UsageError: There is nothing between two commas, or a preset without an attack.
    """
    if text is None or text == ALL:
        if preset is not None:
            raise UsageError(
                f"expected --attack with the attacks whose preset is {preset!r}, got none by name"
            )
        return None
    choices: dict[str, Choice] = {}
    for part in text.split(","):
        name, _, own = part.strip().partition(":")
        if not name:
            raise UsageError(f"expected names of attacks with commas between them, got {text!r}")
        attack, wanted = find_attack(name), own or preset
        if wanted is not None and wanted not in attack.presets:
            raise UnknownNameError(f"preset of {name}", wanted, attack.presets)
        choice = Choice(name, wanted)
        choices[choice.label] = choice
    return tuple(choices.values())


def strongest() -> tuple[Choice, ...]:
    """Those of `STRONGEST` that are registered, in its order."""
    parts = [part.partition(":") for part in STRONGEST]
    there = {row["name"] for row in attacks_table()}
    return tuple(Choice(name, preset or None) for name, _, preset in parts if name in there)


def every() -> tuple[Choice, ...]:
    """All registered attacks with their default presets, those of `STRONGEST` first."""
    first = tuple(dict.fromkeys(choice.name for choice in strongest()))
    rest = tuple(row["name"] for row in attacks_table() if row["name"] not in first)
    return tuple(Choice(name) for name in (*first, *rest))


def needed_options(attack: type[Attack] | type[LabelAttack]) -> str:
    """What a user has to give an attack: the flags, with spaces between them."""
    threat = attack.threat
    flags = (
        (threat.auxiliary_data, "--aux-images"),
        (threat.auxiliary_labels, "--aux-labels"),
        (threat.generator, "--prior"),
        (threat.labels, "--labels"),
    )
    return " ".join(flag for needed, flag in flags if needed) or "nothing"


def why_not(attack: Attack, target: AttackTarget) -> str | None:
    """Why an attack cannot run on a target, in words with what to do; None where it can.

    Args:
        attack: The attack.
        target: What is attacked.

    Returns:
        The reason.
    """
    missing = target.lacks(attack.threat)
    if missing:
        return f"needs {' and '.join(missing)}"
    return None if attack.applies(target) else f"does not apply to this head ({attack.cost})"


def applicable(
    choices: Sequence[Choice], target: AttackTarget, seed: int
) -> tuple[list[Choice], list[Skipped]]:
    """Those that can run on a target, and why the others cannot.

    Args:
        choices: Attacks.
        target: What is attacked.
        seed: Of the attacks.

    Returns:
        Both.
    """
    fit, skipped = [], []
    for choice in choices:
        reason = why_not(choice.make(seed), target)
        if reason is None:
            fit.append(choice)
        else:
            skipped.append(Skipped(choice.label, reason))
    return fit, skipped


def select(
    named: Sequence[Choice] | None,
    target: AttackTarget,
    *,
    every_one: bool,
    seed: int,
) -> tuple[list[Choice], list[Skipped]]:
    """The attacks to run on a target.

    Args:
        named: Those that a user named; None for the strongest.
        target: What is attacked.
        every_one: Whether all that there are are wanted, where none is named.
        seed: Of the attacks.

    Returns:
        Those to run, in order, and those not, with the reason.

    Raises:
        UsageError: One that was named cannot run, or none can.
    """
    fit, skipped = applicable(
        named if named is not None else every() if every_one else strongest(), target, seed
    )
    if named is not None and skipped:
        first = skipped[0]
        raise UsageError(f"{first.label} cannot run here: it {first.reason}")
    if not fit:
        reasons = "; ".join(f"{s.label} {s.reason}" for s in skipped[:3])
        raise UsageError(f"no attack can run here: {reasons}")
    return fit, skipped
