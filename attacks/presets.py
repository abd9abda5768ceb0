"""Values with named settings: made by a preset, printed with every setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from splitdeploy.profiles.errors import UnknownNameError

_PresetsT = TypeVar("_PresetsT", bound="WithPresets")


class WithPresets:
    """What every attack has beside its settings, which are attributes named as its arguments.

    Attributes:
        name: In the registry and in reports.
        presets: Constructor arguments by name; the first is the default.
        preset_name: The preset that made this instance, or ``custom``.
        seed: Of its random numbers; the same seed gives the same reconstruction.
    """

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    preset_name: str = "custom"
    seed: int = 0

    @classmethod
    def preset(cls: type[_PresetsT], name: str | None = None, *, seed: int = 0) -> _PresetsT:
        """The attack with settings that have a name.

        Args:
            name: One of ``presets``; the default (the first) where None.
            seed: Of its random numbers.

        Returns:
            The attack.

        Raises:
            UnknownNameError: There is no such preset.
        """
        chosen = next(iter(cls.presets)) if name is None else name
        if chosen not in cls.presets:
            raise UnknownNameError(f"preset of {cls.name}", chosen, cls.presets)
        attack = cls(**cls.presets[chosen])
        attack.preset_name, attack.seed = chosen, seed
        return attack

    def __repr__(self) -> str:
        """Its preset and every setting, as a test's or a log's label."""
        settings = {k: v for k, v in vars(self).items() if k not in {"preset_name", "seed"}}
        words = [self.preset_name, *(f"{k}={v!r}" for k, v in settings.items())]
        return f"{self.name}({', '.join(words)})"
