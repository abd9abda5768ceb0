"""How a device behind ssh is reached, and where it has things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = "~/.local/share/splitdeploy"


@dataclass(frozen=True)
class RemoteOptions:
    """The same for a profile and for a deployment.

    Attributes:
        python: The Python on the device that has splitdeploy.
        folder: Where files go there; ``~`` is the user's home there.
        ssh_config: An ssh configuration in place of ``~/.ssh/config``.
    """

    python: str = "python3"
    folder: str = DEFAULT_FOLDER
    ssh_config: Path | None = None
