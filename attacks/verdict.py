"""What an attack's figures mean, in words for whoever decides.

The scale is what the attack gained on the best guess that needs no smashed data,

    gained = (SSIM - guess) / (1 - guess),

so that a smooth picture, which a flat colour resembles, does not count as recovered. Where a guess
is worth nothing it is the SSIM itself.

The words follow the means alone, so that a better reconstruction never gets worse ones; the
intervals say between which words others of such pictures may come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from splitdeploy.attacks.identification import Identification
from splitdeploy.attacks.quality import Quality
from splitdeploy.profiles.report import Baseline

RECOGNISABLE = 0.3
"""He et al. 2019, section 4: "a recovered image with an SSIM value below this threshold [...] is
regarded as being unrecognizable"."""

COPY = 0.9
"""He et al.'s Table 3: what they recover of a first layer (0.996, 0.997) lies above it, what they
recover of a middle one (0.60, 0.69) below."""

TRACE = 0.05
"""Below it a gain is within what the choice of the guess makes: another flat colour moves the SSIM
of photographs by a few hundredths."""

TRACE_DB = 1.0
"""Decibels on the best guess that count as a trace too: a fifth less squared error."""


class Level(IntEnum):
    """How much of a picture comes back, the least first."""

    GUESS = 0
    OUTLINES = 1
    RECOGNISABLE = 2
    COPY = 3


WORDS = {
    Level.GUESS: (
        "No more than guessing: the attack does no better than a flat colour or an average picture"
    ),
    Level.OUTLINES: (
        "The cloud can recover outlines or colours, by SSIM short of a recognisable picture: "
        "look at the pictures before relying on that"
    ),
    Level.RECOGNISABLE: "The cloud can recover a recognisable picture",
    Level.COPY: "The cloud can recover a near copy of the picture",
}

_SHORT = {
    Level.GUESS: "nothing",
    Level.OUTLINES: "outlines",
    Level.RECOGNISABLE: "a recognisable picture",
    Level.COPY: "a near copy",
}


@dataclass(frozen=True)
class Verdict:
    """What came of an attack.

    Attributes:
        level: How much came back.
        text: In a few sentences; the first says it all.
    """

    level: Level
    text: str


def verdict(
    quality: Quality,
    baseline: Baseline,
    identification: Identification | None = None,
    *,
    converged: bool = True,
) -> Verdict:
    """Say what an attack recovered.

    Args:
        quality: Of its reconstructions.
        baseline: The best guess without smashed data, on the same pictures.
        identification: Whether the originals can be picked out by them; None where not tried.
        converged: Whether the attack had come to its end.

    Returns:
        The words.
    """
    level = level_of(quality.ssim, quality.psnr_db, baseline, identification)
    pictures = "picture" if quality.images == 1 else "pictures"
    sentences = [
        f"{WORDS[level]}.",
        f"SSIM {quality.ssim:.2f} over {quality.images} {pictures}, the best guess has "
        f"{max(0.0, baseline.ssim):.2f}.",
    ]
    if identification is not None:
        sentences.append(_identified(identification))
    low, high = (
        level_of(ssim, psnr, baseline, identification)
        for ssim, psnr in zip(quality.ssim_ci95, quality.psnr_ci95_db, strict=True)
    )
    if quality.images == 1:
        sentences.append("One picture says nothing of others.")
    elif low != high:
        sentences.append(
            f"Of pictures like these it may be {_SHORT[low]} to {_SHORT[high]} (95 % interval)."
        )
    if not converged and level < Level.COPY:
        sentences.append("It had not converged: a longer attack may recover more.")
    elif level == Level.GUESS:
        sentences.append("That shows no risk, and proves no safety: another attack may do better.")
    return Verdict(level, " ".join(sentences))


def level_of(
    ssim: float, psnr_db: float, baseline: Baseline, identification: Identification | None
) -> Level:
    """The level of a reconstruction; no better figure lowers it.

    Args:
        ssim: Its structural similarity.
        psnr_db: Its peak signal-to-noise ratio.
        baseline: The best guess without smashed data.
        identification: Whether the originals can be picked out; None where not tried.

    Returns:
        The level.
    """
    guess = max(0.0, baseline.ssim)
    # Where the guess is perfect nothing can be gained on it.
    gained = (ssim - guess) / (1.0 - guess) if guess < 1.0 else 0.0
    if gained >= COPY:
        return Level.COPY
    if gained >= RECOGNISABLE:
        return Level.RECOGNISABLE
    told = identification is not None and identification.above_chance
    traced = gained >= TRACE or psnr_db >= baseline.psnr_db + TRACE_DB
    return Level.OUTLINES if traced or told else Level.GUESS


def _identified(found: Identification) -> str:
    if not found.above_chance:
        return f"It does not tell which of {found.gallery} pictures was sent better than by chance."
    low, high = found.ci95
    return (
        f"It tells which of {found.gallery} pictures was sent {found.rate:.0%} of the time "
        f"({low:.0%} to {high:.0%}; chance is {found.chance:.1%})."
    )
