"""A core that gives programs only a part of its time: a device slower than this machine.

A program of real-time priority takes the core away for a millisecond or less at a time, so that all
other work there goes evenly slower, be it short or long, after a pause or in a row. (A quota lets
work run at full speed until it is used up, then not at all: latencies fall on steps of its period.)
What is slowed is up to a quarter slower than was asked for, since each turn costs a little. As a
program, ``python slow_host.py CORE TIMES`` does that until it is ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_FREE_S = 200e-6
"""For the others at a stretch."""

_READY = "ready"


@contextmanager
def slow_core(core: int, times: float) -> Iterator[tuple[str, ...]]:
    """Make a core so many times slower; needs root.

    Args:
        core: Its number.
        times: At least 1, below 20: the kernel keeps a twentieth from real-time priority.

    Yields:
        What a command is run by to be on it.

    Raises:
        ValueError: The factor is out of range.
        RuntimeError: The core is not this process's, or real-time priority is not allowed.
    """
    if not 1 <= times < 20:
        raise ValueError(f"expected a core 1 to 20 times slower, got {times:g}")
    taker = subprocess.Popen(
        [sys.executable, __file__, str(core), str(times)], stdout=subprocess.PIPE, text=True
    )
    try:
        if taker.stdout is None or taker.stdout.readline().strip() != _READY:
            raise RuntimeError(
                f"core {core} cannot be slowed down: run as root, and name one of "
                f"{sorted(os.sched_getaffinity(0))}"
            )
        yield ("taskset", "-c", str(core))
    finally:
        taker.kill()
        taker.wait()


def main() -> None:
    """Take the core for all but a part of the time."""
    core, times = int(sys.argv[1]), float(sys.argv[2])
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print(_READY, flush=True)
    owed_s = 0.0
    while True:
        left_s = time.perf_counter()
        time.sleep(_FREE_S)
        back_s = time.perf_counter()
        # Sleeps are longer than asked for: what was given decides what is taken.
        owed_s += (times - 1.0) * (back_s - left_s)
        ends_s = back_s + owed_s
        while (now_s := time.perf_counter()) < ends_s:
            pass
        owed_s = ends_s - now_s


if __name__ == "__main__":
    main()
