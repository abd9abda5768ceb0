"""Published figures of the devices beside simulated ones: what a profile's trust rests on.

The rows are what ``benchmarks/device_model.py --write`` found; nothing is simulated here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class ValidatedRow:
    """A published figure and its simulation.

    Attributes:
        device: Name of the device profile.
        what: Which figure, in words.
        unit: ``s`` or ``ratio``.
        published: As published.
        simulated: By the constants that are shipped.
        left_out: By constants that never saw its model's family; None where it was not fitted to.
        note: What differs between the two; empty where nothing does.
        source: Where it was published.
    """

    device: str
    what: str
    unit: str
    published: float
    simulated: float
    left_out: float | None
    note: str
    source: str

    @property
    def error(self) -> float:
        """Simulated over published, less one."""
        return self.simulated / self.published - 1


def validated_rows(device: str) -> tuple[ValidatedRow, ...]:
    """What a device was compared with.

    Args:
        device: Name of its profile.

    Returns:
        The rows; none for a device of which nothing was compared.
    """
    data = resources.files("splitdeploy.profiles").joinpath("data/validated.csv")
    return tuple(
        ValidatedRow(
            device=row["device"],
            what=row["what"],
            unit=row["unit"],
            published=float(row["published"]),
            simulated=float(row["simulated"]),
            left_out=float(row["left_out"]) if row["left_out"] else None,
            note=row["note"],
            source=row["source"],
        )
        for row in csv.DictReader(data.read_text("utf-8").splitlines())
        if row["device"] == device
    )
