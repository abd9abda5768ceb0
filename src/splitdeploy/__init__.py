"""Where to cut a neural network between an edge device and the cloud.

The public names load on first use, so that ``import splitdeploy`` stays light on a device.
"""

from __future__ import annotations

__version__ = "0.1.0"
