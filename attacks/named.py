"""Classes by the name that each bears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from splitdeploy.attacks.threat import ThreatModel
from splitdeploy.profiles.errors import UnknownNameError


class Named(Protocol):
    """What has a name.

    Attributes:
        name: Unique among its kind.
    """

    name: ClassVar[str]


class Described(Named, Protocol):
    """What has a name, settings, and what it takes.

    Attributes:
        presets: Settings by name.
        threat: What it needs to know.
        cost: What it takes, in words.
        paper: Whose idea it is.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    threat: ClassVar[ThreatModel]
    cost: ClassVar[str]
    paper: ClassVar[str]


T = TypeVar("T", bound=Named)


def described(kinds: Iterable[type[Described]]) -> list[dict[str, str]]:
    """A row for each of some attacks, as lists of attacks show it.

    Args:
        kinds: Their classes.

    Returns:
        Name, presets, threat model, cost and paper of each.
    """
    return [
        {
            "name": kind.name,
            "presets": ", ".join(kind.presets),
            "threat_model": str(kind.threat),
            "cost": kind.cost,
            "paper": kind.paper,
        }
        for kind in kinds
    ]


class Registry(Generic[T]):
    """The classes of one kind, each under its ``name``.

    Args:
        kind: For messages: ``"attack"``.
        hint: What else to do about an unknown name, appended as it is.
    """

    def __init__(self, kind: str, hint: str = "") -> None:
        self._kind, self._hint = kind, hint
        self._classes: dict[str, type[T]] = {}

    def register(self, member: type[T]) -> type[T]:
        """Make a class available under its name.

        Args:
            member: The class.

        Returns:
            The class, so that this can decorate one.

        Raises:
            ValueError: The name is taken by another class.
        """
        taken = self._classes.get(member.name)
        if taken is not None and taken is not member:
            raise ValueError(
                f"{self._kind} {member.name!r} is registered twice: by {taken.__module__} and "
                f"{member.__module__}"
            )
        self._classes[member.name] = member
        return member

    def find(self, name: str) -> type[T]:
        """The class of that name.

        Args:
            name: A registered one.

        Returns:
            The class.

        Raises:
            UnknownNameError: There is none.
        """
        if name not in self._classes:
            raise UnknownNameError(self._kind, name, self._classes, self._hint)
        return self._classes[name]

    def __iter__(self) -> Iterator[type[T]]:
        """In the order of their names."""
        return iter([self._classes[name] for name in sorted(self._classes)])
