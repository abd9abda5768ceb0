"""An edge device starts the base install in a moment: no torch, no onnx, no scipy."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "scipy", "skimage"),
    *("matplotlib", "networkx", "joblib", "jinja2", "jsonschema", "safetensors"),
}
PROGRAM = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def modules_of(package: str) -> list[str]:
    """Every module of a room, also those in folders of it."""
    room = importlib.import_module(package)
    found = pkgutil.walk_packages(room.__path__, package + ".")
    return [package, *(module.name for module in found)]


def loaded_by(*names: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these modules."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_package_itself_loads_nothing_but_python() -> None:
    loaded = loaded_by("splitdeploy")
    assert not loaded & {"numpy", "click", "rich", "grpc", *HEAVY}


@pytest.mark.parametrize("room", ["splitdeploy.profiles", "splitdeploy.edge_runtime"])
def test_no_module_of_the_edge_loads_a_heavy_package(room: str) -> None:
    modules = modules_of(room)
    assert len(modules) > 5
    loaded = loaded_by(*modules)
    assert set(modules) <= loaded
    assert not loaded & HEAVY


def test_the_front_door_is_light() -> None:
    assert not loaded_by("splitdeploy.__main__") & HEAVY
