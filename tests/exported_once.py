"""Models loaded and exported once for all tests of a module: each takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from splitdeploy.partitioner import models
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.plan import Plan


@contextmanager
def exported_once(
    module: ModuleType,
    folders: pytest.TempPathFactory,
    key: Callable[[LoadedModel, dict[str, Any]], str],
) -> Iterator[None]:
    """What is asked for again is taken from before.

    Args:
        module: Whose ``make_plan`` is called.
        folders: For the exports.
        key: What tells plans apart, from the model and what else is given but the folder.
    """
    loaded: dict[str, LoadedModel] = {}
    plans: dict[str, Plan] = {}
    load, make = models.load_model, module.make_plan

    def load_once(name: str, **given: Any) -> LoadedModel:
        asked = f"{name} {given}"
        if asked not in loaded:
            loaded[asked] = load(name, **given)
        return loaded[asked]

    def make_once(model: LoadedModel, **given: Any) -> Plan:
        del given["folder"]
        asked = key(model, given)
        if asked not in plans:
            plans[asked] = make(model, **given, folder=folders.mktemp("plan"))
        return plans[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_model", load_once)
        patch.setattr(module, "make_plan", make_once)
        yield
