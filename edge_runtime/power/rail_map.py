"""Which rails of a board add up to what it draws; the maps are data, each with its provenance."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from splitdeploy.edge_runtime.power.reader import NotMeasured, RailReading

_UNUSED = ("NC", "sum of shunt voltages")


@dataclass(frozen=True)
class Total:
    """What the total is made of on this machine.

    Attributes:
        rails: Names as the machine gives them, each once.
        missing: Rails that belong to the total and are not there; then there is no total.
        covers: What it stands for.
    """

    rails: tuple[str, ...]
    missing: tuple[str, ...]
    covers: str

    def of(self, readings: Sequence[RailReading]) -> tuple[float | None, tuple[str, ...]]:
        """The sum over its rails.

        Args:
            readings: What was read.

        Returns:
            Watts, or None where a rail is missing; and the names of what is missing.
        """
        power_w = {reading.name: reading.power_w for reading in readings}
        missing = (*self.missing, *(name for name in self.rails if name not in power_w))
        return (None if missing else sum(power_w[name] for name in self.rails)), missing


@dataclass(frozen=True)
class RailMap:
    """A board's ways to a total.

    Attributes:
        name: Of the board's profile.
        title: As people call it.
        model: Words of its model text, in lower case, one of which tells it.
        part: Words of its compatible list, one of which tells it.
        ways: What a way covers, and its rails, each with the names that it has borne.
        others: Rails that the board has besides; they lie within the total.
        provenance: Where this comes from.
    """

    name: str
    title: str
    model: tuple[str, ...]
    part: tuple[str, ...]
    ways: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    others: tuple[str, ...]
    provenance: str

    def absent(self, present: Collection[str]) -> tuple[str, ...]:
        """Rails that the board should have and this machine does not show.

        Args:
            present: Names of the rails that it shows.

        Returns:
            The names; the total's first.
        """
        besides = tuple(name for name in self.others if name not in present)
        return (*self.total(present).missing, *besides)

    def total(self, present: Collection[str]) -> Total:
        """The first way whose rails are all there; else the one that lacks least.

        Args:
            present: Names of the rails that this machine has.

        Returns:
            What the total is made of, and what is missing of it.
        """
        found = []
        for covers, rails in self.ways:
            named = [next((n for n in names if n in present), None) for names in rails]
            missing = tuple(
                names[0] for names, name in zip(rails, named, strict=True) if name is None
            )
            there = tuple(name for name in named if name is not None)
            found.append(Total(there, missing, covers))
        return min(found, key=lambda total: len(total.missing))


def _load() -> tuple[dict[str, RailMap], tuple[str, ...]]:
    file = resources.files("splitdeploy.profiles").joinpath("data/power_rails.json")
    document: dict[str, Any] = json.loads(file.read_text("utf-8"))
    maps = {entry["name"]: _rail_map(entry) for entry in document["boards"]}
    return maps, tuple(document["input_rails"])


def _rail_map(entry: Mapping[str, Any]) -> RailMap:
    ways = tuple((way["covers"], tuple(map(tuple, way["rails"]))) for way in entry["ways"])
    return RailMap(
        name=entry["name"],
        title=entry["title"],
        model=tuple(entry["model"]),
        part=tuple(entry["part"]),
        ways=ways,
        others=tuple(entry["others"]),
        provenance=entry["provenance"],
    )


RAIL_MAPS, _INPUT_RAILS = _load()
"""Every board whose rails are known, by the name of its profile."""


def is_used(name: str) -> bool:
    """Whether a channel of this name measures a rail at all.

    Args:
        name: The channel's label.

    Returns:
        False for channels that are not connected, and for the sum of shunt voltages.
    """
    return bool(name) and name not in _UNUSED


def total_for(board: str | None, present: Collection[str]) -> Total | NotMeasured:
    """What the total is made of.

    Of a board that is not known, an input rail is taken where there is exactly one: which other
    rails feed each other cannot be guessed.

    Args:
        board: Name of the board's profile; None where it is not known.
        present: Names of the rails that this machine has.

    Returns:
        The total, or why there is none.
    """
    known = RAIL_MAPS.get(board or "")
    if known is not None:
        total = known.total(present)
        if not total.missing:
            return total
        return NotMeasured(
            f"the total of a {known.title} needs {_words(total.missing)}, which "
            f"{'is' if len(total.missing) == 1 else 'are'} missing; present: {_words(present)}"
        )
    inputs = [name for name in _INPUT_RAILS if name in present]
    if len(inputs) == 1:
        return Total((inputs[0],), (), "input rail of an unknown board")
    return NotMeasured(
        f"expected a known board or one input rail ({_words(_INPUT_RAILS)}), got "
        f"{_words(present)}: which of them add up is not known"
    )


def _words(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
