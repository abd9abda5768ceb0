"""What the reproductions share: settings, rows that are kept as they come, tables, pictures."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from splitdeploy.attacks.base import Attack, run_attack
from splitdeploy.attacks.baselines import best_baseline
from splitdeploy.attacks.pictures import save_comparison
from splitdeploy.attacks.target import AttackTarget
from splitdeploy.profiles.store import write_atomically

SHOWN = 10
"""Pictures of a row's sheet."""


@dataclass(frozen=True)
class Bench:
    """What every setting of a run has.

    Attributes:
        data: DIR.
        out: Where rows, pictures and trained nets are kept.
        images: How many pictures are attacked.
        seconds: For one attack of ours, about.
        quick: Whether published settings have to do with as many seconds, too.
    """

    data: Path
    out: Path
    images: int
    seconds: float
    quick: bool = False


@dataclass(frozen=True)
class Setting:
    """One entry of a published table.

    Attributes:
        table: Its heading.
        labels: Data set, cut, attacker and the like, in the order of the heading's columns.
        published: The published figures by name, empty where there are none.
        measure: Attacks, and gives our figures.
    """

    table: str
    labels: tuple[str, ...]
    published: Mapping[str, float]
    measure: Callable[[Bench], dict[str, Any]]

    @property
    def key(self) -> str:
        """What names the row in the file of results."""
        return " / ".join((self.table, *self.labels))


def run_settings(settings: Sequence[Setting], bench: Bench, results: Path, only: str) -> None:
    """Measure what is not in the file of results yet, and write it after every row.

    Args:
        settings: In order.
        bench: What they have.
        results: A JSON file of rows by key.
        only: A regular expression that keys must contain.
    """
    rows = read_rows(results)
    pending = [s for s in settings if s.key not in rows and re.search(only, s.key)]
    for place, setting in enumerate(pending, start=1):
        print(f"{time.strftime('%H:%M:%S')} {place}/{len(pending)} {setting.key}", flush=True)
        started = time.perf_counter()
        row = setting.measure(bench)
        row["published"] = dict(setting.published)
        row["wall_s"] = time.perf_counter() - started
        rows = read_rows(results)  # another process may have added to it
        rows[setting.key] = row
        write_atomically(results, json.dumps(rows, indent=1) + "\n")
        told = {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}
        print(f"  {told}", flush=True)


def read_rows(results: Path) -> dict[str, Any]:
    """The rows of a file of results, none where it does not exist."""
    if not results.exists():
        return {}
    rows: dict[str, Any] = json.loads(results.read_text())
    return rows


def attacked(
    attack: Attack,
    target: AttackTarget,
    originals: Tensor,
    bench: Bench,
    sheet: str,
    *,
    published: bool = False,
) -> tuple[dict[str, Any], Tensor]:
    """Attack and judge; the figures of a row, and the reconstructions.

    Args:
        attack: With its settings.
        target: What was observed, and what the attacker has.
        originals: To judge by.
        bench: Where the sheet of pictures goes.
        sheet: Its name.
        published: Whether the settings are published ones, which run to their end.

    Returns:
        The figures, and ``[n, c, h, w]``.
    """
    folder = bench.out / "state" / sheet
    deadline_s = None if published and not bench.quick else bench.seconds
    record, found = run_attack(attack, target, originals, deadline_s=deadline_s, folder=folder)
    trivial = best_baseline(originals)
    save_comparison(bench.out / f"{sheet}.png", originals[:SHOWN], found.pixels[:SHOWN])
    figures = {
        "attack": f"{attack.name}:{attack.preset_name}",
        "threat_model": record.threat_model,
        "psnr_db": record.psnr_db,
        "psnr_ci95_db": record.psnr_ci95_db,
        "ssim": record.ssim,
        "ssim_ci95": record.ssim_ci95,
        "mse": record.mse,
        "mse_ci95": record.mse_ci95,
        "images": record.images,
        "seconds": record.seconds,
        "steps": record.steps,
        "converged": record.converged,
        "notes": list(found.notes),
        "baseline": {"psnr_db": trivial.psnr_db, "ssim": trivial.ssim, "mse": trivial.mse},
        "sheet": f"{sheet}.png",
    }
    return figures, found.pixels


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def with_interval(row: Mapping[str, Any], name: str, digits: int) -> str:
    """A mean and its 95 % interval."""
    unit = "_db" if name == "psnr_db" else ""
    low, high = row[f"{name.removesuffix('_db')}_ci95{unit}"]
    return f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
