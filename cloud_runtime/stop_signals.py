"""The signals that end a server: the first asks it to, the second does it."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Catches SIGTERM and SIGINT while it is entered; of the main thread alone.

    The handler only writes to a pipe: taking a lock there could wait for itself.
    """

    def __enter__(self) -> StopSignals:
        self._read, self._write = os.pipe()
        self._before = {number: signal.signal(number, self._caught) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        os.write(self._write, bytes([number]))

    def wait(self) -> signal.Signals:
        """Wait for the first signal; from then on, another ends the process at once.

        Returns:
            The signal.
        """
        return signal.Signals(os.read(self._read, 1)[0])
