"""What a device has, told as one line of JSON; sent to it as text, so it imports nothing of ours.

Runs on any Python from 3.6 on: a device with an old one is to be told what it lacks.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("splitdeploy", "numpy", "onnxruntime", "tensorrt", "pycuda", "tritonclient")


def version_of(package: str) -> Any:
    """Its version, None where it is not there, the complaint where it does not start."""
    try:
        if importlib.util.find_spec(package) is None:
            return None
        from importlib import metadata

        return metadata.version(package)
    except Exception:
        pass  # an old Python, or a package under another name: onnxruntime-gpu
    try:
        module = importlib.import_module(package)
    except Exception as error:
        return "does not start: " + str(error)
    return str(getattr(module, "__version__", "there"))


def model_of_board() -> str:
    """As the device tree has it; empty on a computer without one."""
    try:
        with pathlib.Path("/proc/device-tree/model").open("rb") as file:
            return file.read().decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def agent_protocol() -> int:
    """Of the agent in the splitdeploy that is installed; 0 where there is none."""
    try:
        module = importlib.import_module("splitdeploy.edge_runtime.agent_protocol")
    except Exception:
        return 0
    return int(getattr(module, "PROTOCOL", 0))


def main() -> None:
    """Print what there is."""
    facts = {
        "event": "facts",
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "system": platform.platform(),
        "board": model_of_board(),
        "home": str(Path("~").expanduser()),
        "user": os.environ.get("USER") or os.environ.get("LOGNAME") or "",
        "root": os.getuid() == 0,
        "systemctl": shutil.which("systemctl") or "",
        "packages": {package: version_of(package) for package in PACKAGES},
        "protocol": agent_protocol(),
    }
    facts["time_s"] = time.time()
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
