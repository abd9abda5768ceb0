"""Processes that get a part of one core: a device slower than this machine, by the kernel.

A CPU quota with a period of 5 ms, so that work of tens of milliseconds is slowed evenly. As a
program, ``python slow_host.py GROUP COMMAND…`` becomes the command within the group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PERIOD_US = 5000
_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


@contextmanager
def slow_group(times: float) -> Iterator[tuple[str, ...]]:
    """Make a group whose processes together are so many times slower than one core; needs root.

    Args:
        times: At least 1.

    Yields:
        What a command is run by to be in it.

    Raises:
        RuntimeError: There is no cgroup controller for the processor here.
    """
    quota_us = int(_PERIOD_US / times)
    if (_V1 / "cpu.cfs_quota_us").is_file():
        group = _V1 / f"splitdeploy{os.getpid()}"
        settings = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
    elif "cpu" in _read(_V2 / "cgroup.subtree_control").split():
        group = _V2 / f"splitdeploy{os.getpid()}"
        settings = {"cpu.max": f"{quota_us} {_PERIOD_US}"}
    else:
        raise RuntimeError(
            f"expected a cgroup controller for the processor below {_V2}, found none"
        )
    group.mkdir()
    try:
        for name, value in settings.items():
            (group / name).write_text(value)
        yield (sys.executable, __file__, str(group))
    finally:
        group.rmdir()


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def main() -> None:
    """Enter the group and become the command."""
    group, *command = sys.argv[1:]
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
