"""The public names: sorted, complete, each importable, and loaded on first use alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import splitdeploy


def test_the_list_is_sorted_and_complete() -> None:
    assert splitdeploy.__all__ == sorted(splitdeploy.__all__)
    assert set(splitdeploy.__all__) == {*splitdeploy._PUBLIC, "__version__"}
    assert dir(splitdeploy) == splitdeploy.__all__


@pytest.mark.parametrize("name", sorted(splitdeploy._PUBLIC))
def test_each_name_is_what_its_module_holds(name: str) -> None:
    module, _, attribute = splitdeploy._PUBLIC[name].partition(":")
    assert module.startswith("splitdeploy.")
    value = getattr(splitdeploy, name)
    assert value is getattr(importlib.import_module(module), attribute)
    assert value.__doc__, "a public name has a docstring"


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'CutPiont'; available: .*CutPoint"):
        _ = splitdeploy.CutPiont
    with pytest.raises(ImportError, match="cannot import name 'CutPiont'"):
        exec("from splitdeploy import CutPiont")


def test_names_load_on_first_use() -> None:
    program = (
        "import sys, splitdeploy\n"
        "assert not any(name.startswith('splitdeploy.') for name in sys.modules)\n"
        "splitdeploy.CutPoint\n"
        "assert 'splitdeploy.profiles.cut' in sys.modules\n"
        "assert 'splitdeploy.profiles.report' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_version_is_the_distribution_s() -> None:
    assert importlib.metadata.version("splitdeploy") == splitdeploy.__version__
