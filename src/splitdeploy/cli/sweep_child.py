"""One run of a sweep, or a shard of one, in a process of its own.

    python -m splitdeploy.cli.sweep_child [--shard 2/4] profile …

It ends when whoever started it does: standard input is a pipe that is never written to, and its end
is seen at once. So no run goes on writing into a folder that a resumed sweep has taken up.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

from splitdeploy.__main__ import main
from splitdeploy.partitioner.shard import parse_shard

_ORPHANED = 137
"""As if it had been killed."""


def _end_with_parent() -> None:
    """Wait for the end of standard input; the raw descriptor, which needs no lock at shutdown."""
    while os.read(0, 64):
        pass
    os._exit(_ORPHANED)


def run(arguments: Sequence[str]) -> int:
    """Run a command, or a shard of it.

    Args:
        arguments: Of the command; before them ``--shard`` with what `Shard` writes, or not.

    Returns:
        The exit code.
    """
    if arguments[:1] != ["--shard"]:
        return main(arguments)
    return main(arguments[2:], parse_shard(arguments[1]))


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(run(sys.argv[1:]))
