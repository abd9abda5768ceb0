"""The signals that end a server: the first asks it to, the second does it."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Catches SIGTERM and SIGINT while it is entered; of the main thread alone.

    Python's C handler writes the signal's number to a pipe, whichever thread the system gave the
    signal to: a handler in Python would run only once the main thread is back from what it waits
    for, and could not take a lock that is held there.
    """

    def __enter__(self) -> StopSignals:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self) -> signal.Signals:
        """Wait for the first signal; from then on, another ends the process at once.

        Returns:
            The signal.
        """
        while True:
            number = os.read(self._read, 1)[0]
            if number in _SIGNALS:  # the pipe tells of every signal that has a handler
                break
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        return signal.Signals(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """There has to be a handler for the pipe to be written to."""
