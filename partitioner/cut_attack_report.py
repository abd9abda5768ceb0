"""What came of the attacks on one cut: as figures, as pictures, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from splitdeploy.attacks.pictures import save_sheet
from splitdeploy.partitioner.attack_set import Skipped
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.report import AttackRecord, Baseline
from splitdeploy.profiles.report_writer import attack_to_json, baseline_to_json
from splitdeploy.profiles.store import write_atomically

FIGURES_FILE = "attacks.json"
SHEET_FILE = "overview.png"

_MOST_SHOWN = 8
"""Pictures in a row of the overview."""


@dataclass(frozen=True)
class CutAttack:
    """The attacks on one cut.

    Attributes:
        model: Its name.
        weights: Where they come from, in words.
        cut: The cut.
        precision: Of the payload.
        images: How many pictures were attacked.
        image_source: Where they come from, in words.
        gallery: How many pictures an original was sought among.
        auxiliary: The attacker's own pictures, in words; None where he had none.
        prior: Where his generator came from; None where he had none.
        budget_s: Seconds for all attacks together; None for no limit.
        seed: Of everything random.
        baseline: The best guess without smashed data, each metric on its own.
        guess: The guess of the highest SSIM, by name.
        attacks: Those that were run, in order.
        skipped: Those that were not, and why.
        notes: What a reader has to know besides.
    """

    model: str
    weights: str
    cut: CutPoint
    precision: str
    images: int
    image_source: str
    gallery: int
    auxiliary: str | None
    prior: str | None
    budget_s: float | None
    seed: int
    baseline: Baseline
    guess: str
    attacks: tuple[AttackRecord, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]

    @property
    def strongest(self) -> AttackRecord:
        """The attack of the highest SSIM."""
        return max(self.attacks, key=lambda record: record.ssim)

    def to_json(self) -> dict[str, Any]:
        """Its document, ready for ``json.dumps``."""
        strongest = self.strongest
        return {
            "model": self.model,
            "weights": self.weights,
            "cut": self.cut.name,
            "tensors": [{"name": t.name, "shape": list(t.shape)} for t in self.cut.tensors],
            "precision": self.precision,
            "images": self.images,
            "image_source": self.image_source,
            "gallery": self.gallery,
            "auxiliary": self.auxiliary,
            "prior": self.prior,
            "budget_s": self.budget_s,
            "seed": self.seed,
            "baseline": {**baseline_to_json(self.baseline), "name": self.guess},
            "attacks": [attack_to_json(record) for record in self.attacks],
            "strongest_attack": label_of(strongest),
            "verdict": strongest.verdict,
            "not_run": [{"attack": s.label, "reason": s.reason} for s in self.skipped],
            "notes": list(self.notes),
        }


def label_of(record: AttackRecord) -> str:
    """The attack and its preset."""
    return f"{record.name}:{record.preset}"


def write_report(
    found: CutAttack, out: Path, pixels: Tensor, guess: Tensor, pictures: Sequence[Tensor]
) -> None:
    """Write the figures, and all attacks on one sheet.

    Args:
        found: The attacks so far, at least one.
        out: The folder.
        pixels: The originals, ``[n, c, h, w]`` on [0, 1].
        guess: The best guess at them.
        pictures: Their reconstructions by each attack.
    """
    rows = [
        ("originals", pixels),
        (f"best guess without smashed data: {found.guess}, SSIM {found.baseline.ssim:.2f}", guess),
        *((_caption(r), p) for r, p in zip(found.attacks, pictures, strict=True)),
    ]
    save_sheet(out / SHEET_FILE, [(caption, batch[:_MOST_SHOWN]) for caption, batch in rows])
    document = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out / FIGURES_FILE, document + "\n")


def _caption(record: AttackRecord) -> str:
    low, high = record.ssim_ci95
    ended = "" if record.converged else ", had not converged"
    return (
        f"{label_of(record)}: SSIM {record.ssim:.2f} ({low:.2f} to {high:.2f}), "
        f"PSNR {record.psnr_db:.1f} dB, {record.seconds:.0f} s{ended}"
    )
