"""How far an engine's build is. TensorRT 10 and later tell; before, there is only the clock."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_TICK_S = 0.5


@dataclass(frozen=True)
class BuildStatus:
    """Where a build is.

    Attributes:
        elapsed_s: Since it began.
        phase: What TensorRT is at; empty where it does not tell.
        done: The share that is done, on [0, 1]; None where nobody knows.
        remaining_s: An estimate; None where nobody knows.
        basis: What the estimate rests on, in words.
    """

    elapsed_s: float
    phase: str
    done: float | None
    remaining_s: float | None
    basis: str


Watch = Callable[[BuildStatus], None]
"""Told now and then, from another thread."""


@dataclass
class _Phase:
    title: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The phases that TensorRT tells of, and an estimate from them. Threads may share it.

    Args:
        last_s: How long the last build of this head took; None where none is known.
    """

    def __init__(self, last_s: float | None = None) -> None:
        self._last_s, self._lock = last_s, threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._done = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, within a step of its parent."""
        with self._lock:
            self._phases[phase] = _Phase(phase, parent, max(1, steps))

    def step(self, phase: str, step: int) -> None:
        """A step of a phase is done."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = min(step + 1, self._phases[phase].steps)
                self._done = max(self._done, self._share())

    def finish(self, phase: str) -> None:
        """A phase is done."""
        with self._lock:
            ended = self._phases.pop(phase, None)
            if ended is not None and ended.parent is None:
                self._done = 1.0

    def status(self, elapsed_s: float) -> BuildStatus:
        """Where the build is.

        Args:
            elapsed_s: Since it began.

        Returns:
            The status; the share that is done never falls.
        """
        with self._lock:
            done, phase = self._done, next(reversed(self._phases), "")
        if done > 0.0:
            left = elapsed_s * (1.0 - done) / done
            return BuildStatus(elapsed_s, phase, done, left, "TensorRT's own steps")
        if self._last_s is not None:
            share = min(1.0, elapsed_s / self._last_s) if self._last_s > 0 else None
            left = max(0.0, self._last_s - elapsed_s)
            return BuildStatus(elapsed_s, phase, share, left, "the last build of this head")
        return BuildStatus(
            elapsed_s, phase, None, None, "a first build takes from seconds to many minutes"
        )

    def _share(self) -> float:
        """Steps done, each phase counting for one step of its parent."""
        share, weight, parent = 0.0, 1.0, None
        for _ in range(len(self._phases)):
            inner = [p for p in self._phases.values() if p.parent == parent]
            if not inner:
                break
            phase = inner[-1]
            share += weight * phase.done / phase.steps
            weight, parent = weight / phase.steps, phase.title
        return min(1.0, share)


class Interrupted:
    """Whether somebody wants the build to end; TensorRT asks after each step."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C as a wish for as long as this lasts.

        C++ calls the logger and the monitor, and ends the process where they raise, as Python's
        own handler would let them.

        Yields:
            Nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_: object) -> None:
            self.asked = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def make_monitor(trt: Any, progress: BuildProgress, interrupted: Interrupted) -> Any:
    """A monitor for a builder's configuration.

    Args:
        trt: The module.
        progress: Told of every phase.
        interrupted: Asked after every step.

    Returns:
        A ``tensorrt.IProgressMonitor``; None where TensorRT has none.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return not interrupted.asked

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


@contextmanager
def watched(progress: BuildProgress, watch: Watch | None) -> Iterator[None]:
    """Tell where the build is, twice a second, for as long as this lasts.

    Args:
        progress: Of the build.
        watch: Told; None tells nobody.

    Yields:
        Nothing.
    """
    if watch is None:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(_TICK_S):
            watch(progress.status(time.monotonic() - began))

    watch(progress.status(0.0))
    teller = threading.Thread(target=tell, name="engine-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
