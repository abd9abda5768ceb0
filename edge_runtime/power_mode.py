"""The board's power mode (``nvpmodel``): read, and set by name for as long as a ``with`` lasts.

Numbers of modes differ between boards and releases, so nothing here takes one. A mode that asks for
a reboot is refused: the question is answered with no, and the mode is read again afterwards.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from splitdeploy.profiles.errors import SensorError, UnknownNameError

_CURRENT = re.compile(r"NV Power Mode\s*:\s*(\S+)[^\S\n]*(?:\n\s*(\d+)\s*$)?", re.MULTILINE)
_AVAILABLE = re.compile(r"POWER_MODEL\s*:?\s*ID=(\d+)\s+NAME=(\S+)")
_PREFIX = "MODE_"


@dataclass(frozen=True)
class CurrentMode:
    """The mode that a board is in: its name, and the number that this board has for it."""

    name: str
    number: int | None


def parse_query(text: str) -> CurrentMode | None:
    """The mode that ``nvpmodel -q`` tells.

    Args:
        text: What it printed.

    Returns:
        The mode; None where it tells none.
    """
    found = _CURRENT.search(text)
    if found is None:
        return None
    return CurrentMode(found[1], None if found[2] is None else int(found[2]))


def parse_modes(text: str) -> dict[str, int]:
    """The modes that ``nvpmodel -p --verbose`` lists.

    Args:
        text: What it printed.

    Returns:
        This board's numbers by name.
    """
    return {name: int(number) for number, name in _AVAILABLE.findall(text)}


def find_mode(wanted: str, available: Sequence[str]) -> str:
    """The mode that a name means.

    Args:
        wanted: In any case; ``MODE_`` before it may be left out.
        available: The board's modes.

    Returns:
        The name as the board has it.

    Raises:
        UnknownNameError: The board has no such mode.
    """
    for name in available:
        if _plain(name) == _plain(wanted):
            return name
    raise UnknownNameError("power mode of this board", wanted, available)


def _plain(name: str) -> str:
    return name.upper().removeprefix(_PREFIX)


class Nvpmodel:
    """Asks and tells ``nvpmodel``.

    Args:
        command: How it is run; to set a mode ``setter`` goes before it.
        setter: Makes it run as root; None is nothing for root, else ``sudo -n``, which never asks.
        timeout_s: The longest that one call may take.
    """

    def __init__(
        self,
        command: Sequence[str] = ("nvpmodel",),
        *,
        setter: Sequence[str] | None = None,
        timeout_s: float = 20.0,
    ) -> None:
        self._command = tuple(command)
        if setter is None:
            setter = () if os.geteuid() == 0 else ("sudo", "-n")
        self._setter = tuple(setter)
        self._timeout_s = timeout_s

    def current(self) -> CurrentMode:
        """The mode that the board is in.

        Returns:
            The mode.

        Raises:
            SensorError: There is no nvpmodel, or it tells no mode.
        """
        text = self._run((*self._command, "-q"))
        found = parse_query(text)
        if found is None:
            raise SensorError(
                f"expected a power mode from nvpmodel -q, got {' '.join(text.split())[:120]!r}"
            )
        return found

    def available(self) -> dict[str, int]:
        """The board's modes.

        Returns:
            Its numbers by name.

        Raises:
            SensorError: There is no nvpmodel, or it lists none.
        """
        text = self._run((*self._command, "-p", "--verbose"))
        found = parse_modes(text)
        if not found:
            raise SensorError(
                "expected power modes from nvpmodel -p --verbose, got "
                f"{' '.join(text.split())[:120]!r}"
            )
        return found

    def set(self, wanted: str) -> str:
        """Put the board into a mode.

        Args:
            wanted: Its name.

        Returns:
            The name as the board has it.

        Raises:
            SensorError: The mode needs a reboot, or the board did not take it.
            UnknownNameError: The board has no such mode.
        """  # noqa: DOC502
        modes = self.available()
        name = find_mode(wanted, list(modes))
        if self.current().name == name:
            return name
        text = self._run((*self._setter, *self._command, "-m", str(modes[name])), answer="no\n")
        now = self.current().name
        if now == name:
            return name
        if "reboot" in text.lower():
            raise SensorError(
                f"power mode {name} needs a reboot, which is not done here; the board stays in "
                f"{now}: set it with nvpmodel -m {modes[name]}, reboot, and measure then"
            )
        raise SensorError(
            f"expected the board in power mode {name}, it stays in {now} "
            f"({' '.join(text.split())[:120] or 'nvpmodel said nothing'}): run as root, or allow "
            "nvpmodel in sudoers"
        )

    def _run(self, command: Sequence[str], answer: str = "") -> str:
        try:
            # A session of its own: a Ctrl-C is for us, and must not break a change half-way.
            done = subprocess.run(
                command,
                input=answer,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout_s,
                start_new_session=True,
                check=False,
            )
        except OSError as error:
            raise SensorError(
                f"{command[0]} cannot be run ({error.strerror or error}): power modes are known "
                "on a Jetson alone"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SensorError(
                f"expected an answer of {command[0]} within {self._timeout_s:g} s, none came"
            ) from error
        return done.stdout + "\n" + done.stderr


@contextmanager
def power_mode(wanted: str | None, nvpmodel: Nvpmodel | None = None) -> Iterator[str | None]:
    """Put the board into a mode, and back into its own whatever happens.

    Ctrl-C, SIGTERM and SIGHUP (a connection that broke) end the work by an exception, so that the
    mode is restored; while it is being restored they are not heard.

    Args:
        wanted: The mode's name; None leaves the board as it is.
        nvpmodel: How the board is told.

    Yields:
        The name as the board has it; None where nothing was wanted.

    Raises:
        SensorError: The mode cannot be set, or the board did not go back to its own.
    """  # noqa: DOC502
    if wanted is None:
        yield None
        return
    board = nvpmodel or Nvpmodel()
    before = board.current().name
    with _signals_raise():
        try:
            yield board.set(wanted)
        finally:
            with _signals_wait():
                board.set(before)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, as Ctrl-C does; signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDING[1:]}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Signals that would end the process wait until this is done."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
