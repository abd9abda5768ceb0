"""Attacks on a cut that are done, kept so that an interrupted run goes on."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from splitdeploy.partitioner.state import TRAINING_FOLDER, open_state
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.report import AttackRecord
from splitdeploy.profiles.report_reader import attack_from_json
from splitdeploy.profiles.report_writer import attack_to_json
from splitdeploy.profiles.store import write_atomically


@dataclass(frozen=True)
class Done:
    """An attack that is done.

    Attributes:
        record: The row.
        pixels: Its reconstructions, ``[n, c, h, w]``.
    """

    record: AttackRecord
    pixels: Tensor


class AttackState:
    """A folder with a row and the pictures of every attack, and with the trainings that are open.

    Args:
        folder: Made where it is missing.
        settings: What the rows depend on; a state of other settings is not taken up.
        resume: Whether to keep what is there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        self.resumed = open_state(folder, settings, resume=resume)

    def training(self, label: str) -> Path:
        """Where an attack keeps what it trains."""
        return self._folder / TRAINING_FOLDER / file_name(label)

    def load(self, label: str, budget_s: float | None) -> Done | None:
        """An attack that is done.

        Args:
            label: The attack and its preset.
            budget_s: Of this run: with more than it had, one that did not converge is run again,
                and a training goes on where it stood. None for no limit.

        Returns:
            It; None where it has to be run.
        """
        try:
            document = json.loads(self._row(label).read_text())
            record = attack_from_json(document["record"])
            with np.load(self._pictures(label), allow_pickle=False) as file:
                pixels = torch.from_numpy(file["pixels"])
        except (OSError, ValueError, LookupError, TypeError, BadZipFile, ReportError):
            return None
        had_s = document.get("budget_s")
        more = had_s is not None and (budget_s is None or budget_s > had_s)
        return None if more and not record.converged else Done(record, pixels)

    def save(self, label: str, done: Done, budget_s: float | None) -> None:
        """Keep an attack that is done.

        Args:
            label: The attack and its preset.
            done: What came of it.
            budget_s: Of this run.
        """
        out = io.BytesIO()
        np.savez_compressed(out, pixels=done.pixels.cpu().numpy())
        write_atomically(self._pictures(label), out.getvalue())
        document = {"budget_s": budget_s, "record": attack_to_json(done.record)}
        write_atomically(self._row(label), json.dumps(document))

    def _row(self, label: str) -> Path:
        return self._folder / f"attack-{file_name(label)}.json"

    def _pictures(self, label: str) -> Path:
        return self._folder / f"attack-{file_name(label)}.npz"


def file_name(label: str) -> str:
    """An attack and its preset as a file's name."""
    return label.replace(":", "-").replace("/", "_")
