"""Reads a JSON document value by value; what is wrong is told with the path where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from splitdeploy.profiles.errors import ReportError


@dataclass(frozen=True)
class Node:
    """A value inside a JSON document, and the path that leads to it.

    Attributes:
        value: What ``json.loads`` gave.
        path: Where it stands, as a JSON path: ``$.cuts[3].latency_s``.
        document: What is read, in words, for the messages.
    """

    value: Any
    path: str = "$"
    document: str = "report"

    def __getitem__(self, key: str) -> Node:
        """The value of a key of this object; a missing key is an error."""
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        if key not in self.value:
            raise ReportError(
                f"{self.document} at {self.path}: expected the key {key!r}, which is missing; "
                f"present: {', '.join(sorted(map(str, self.value))) or 'none'}"
            )
        return Node(self.value[key], f"{self.path}.{key}", self.document)

    def __iter__(self) -> Iterator[Node]:
        """The elements of this array."""
        if not isinstance(self.value, list):
            raise self._expected("an array")
        for position, element in enumerate(self.value):
            yield Node(element, f"{self.path}[{position}]", self.document)

    def get(self, key: str) -> Node | None:
        """The value of a key, or None where the key is missing or its value is null."""
        if isinstance(self.value, dict) and self.value.get(key) is None:
            return None
        return self[key]

    def items(self) -> Iterator[tuple[str, Node]]:
        """The keys of this object with their values.

        Yields:
            Each key and its value.

        Raises:
            ReportError: This is no object.
        """
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        for key in self.value:
            yield key, self[key]

    def text(self) -> str:
        """This value, which must be a string."""
        if not isinstance(self.value, str):
            raise self._expected("a string")
        return self.value

    def choice(self, options: Sequence[str]) -> str:
        """This value, which must be one of some strings."""
        if self.value not in options:
            raise self._expected(f"one of {', '.join(options)}")
        return self.text()

    def flag(self) -> bool:
        """This value, which must be true or false."""
        if not isinstance(self.value, bool):
            raise self._expected("true or false")
        return self.value

    def integer(self) -> int:
        """This value, which must be an integer of zero or more."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
            raise self._expected("an integer of zero or more")
        return self.value

    def number(self) -> float:
        """This value, which must be a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self._expected("a number")
        if isinstance(self.value, int) and self.value.bit_length() > 1023:
            raise self._expected("a number that a float can hold")
        if not math.isfinite(self.value):
            raise self._expected("a finite number")
        return float(self.value)

    def number_or_infinity(self) -> float:
        """This value, which must be a number, or null for an infinite one."""
        return math.inf if self.value is None else self.number()

    def _expected(self, what: str) -> ReportError:
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ReportError(f"{self.document} at {self.path}: expected {what}, got {shown}")
