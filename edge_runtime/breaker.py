"""A circuit breaker: who failed too often just now is left alone for a while, then tried once.

    closed ──failures in a row──> open ──pause over──> half-open ──answered──> closed
                                   ^                        │
                                   └──failed, longer pause──┘

A pure state machine: the clock is an argument, and whoever uses it from several threads holds a
lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splitdeploy.profiles.errors import UsageError

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True)
class BreakerSettings:
    """When it opens, and for how long.

    Attributes:
        failures: So many in a row open it.
        pause_s: How long it stays open the first time.
        growth: Each probe that fails makes the pause so many times longer.
        longest_pause_s: But never longer than this.
    """

    failures: int = 3
    pause_s: float = 0.25
    growth: float = 2.0
    longest_pause_s: float = 4.0

    def __post_init__(self) -> None:
        fine = self.failures >= 1 and 0 < self.pause_s <= self.longest_pause_s and self.growth >= 1
        if not fine:
            raise UsageError(
                "expected a breaker of at least 1 failure, 0 < pause_s <= longest_pause_s and a "
                f"growth of at least 1, got {self}"
            )


@dataclass(frozen=True)
class Permit:
    """Leave to ask once; handed back by `Breaker.answered`, `failed` or `abandoned`."""

    era: int


class Breaker:
    """Says whether to ask, from how it went before.

    Args:
        settings: When it opens, and for how long.
    """

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._state: State = "closed"
        # What was asked before the last change of state tells nothing of the time after it.
        self._era = 0
        self._failed_in_a_row = 0
        self._pause_s = self._settings.pause_s
        self._closed_until_s = 0.0

    @property
    def state(self) -> State:
        """As it is; ``open`` becomes ``half-open`` when somebody asks after the pause."""
        return self._state

    def ask(self, now_s: float) -> Permit | None:
        """Ask for leave.

        Args:
            now_s: The time on a clock that never goes back.

        Returns:
            A permit; None where it is open, or half-open with the one probe under way.
        """
        if self._state == "closed":
            return Permit(self._era)
        if self._state == "open" and now_s >= self._closed_until_s:
            self._enter("half-open")
            return Permit(self._era)
        return None

    def wait_s(self, now_s: float) -> float:
        """How long until it may let somebody through, as far as it knows."""
        return max(0.0, self._closed_until_s - now_s) if self._state == "open" else 0.0

    def answered(self, permit: Permit) -> None:
        """There was an answer, if only a refusal: somebody is there."""
        if permit.era != self._era:
            return
        self._failed_in_a_row = 0
        if self._state == "half-open":
            self._pause_s = self._settings.pause_s
            self._enter("closed")

    def failed(self, permit: Permit, now_s: float) -> None:
        """There was no answer."""
        if permit.era != self._era:
            return
        if self._state == "half-open":
            longer = self._pause_s * self._settings.growth
            self._pause_s = min(longer, self._settings.longest_pause_s)
            self._open(now_s)
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.failures:
            self._open(now_s)

    def abandoned(self, permit: Permit, now_s: float) -> None:
        """Nobody waited for the answer: the probe, if it was one, may be made again at once."""
        if permit.era == self._era and self._state == "half-open":
            self._closed_until_s = now_s
            self._enter("open")

    def _open(self, now_s: float) -> None:
        self._closed_until_s = now_s + self._pause_s
        self._failed_in_a_row = 0
        self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._era += 1
