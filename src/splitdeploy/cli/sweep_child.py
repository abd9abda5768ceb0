"""One run of a sweep, in a process of its own: ``python -m splitdeploy.cli.sweep_child ARGUMENTS``.

It ends when whoever started it does: standard input is a pipe that is never written to, and its end
is seen at once. So no run goes on writing into a folder that a resumed sweep has taken up.
"""

from __future__ import annotations

import os
import sys
import threading

from splitdeploy.__main__ import main

_ORPHANED = 137
"""As if it had been killed."""


def _end_with_parent() -> None:
    """Wait for the end of standard input; the raw descriptor, which needs no lock at shutdown."""
    while os.read(0, 64):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
