"""Where a bundle's model can be had again: what it was loaded by, and digests to know it by.

A manifest goes to devices and servers, so it holds no path of the machine that wrote it: of a file
given by an absolute path, the name alone. Who loads it again says where the file lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitdeploy.partitioner.models import LoadedModel, load_model
from splitdeploy.profiles.digest import file_sha256
from splitdeploy.profiles.errors import ModelError, ReportError

_FILES = {".onnx", ".pt2"}


def source_to_json(model: LoadedModel, images: str, count: int) -> dict[str, Any] | None:
    """The ``source`` entry of a manifest.

    Args:
        model: The model that was cut.
        images: Where the pictures come from that it was verified on, in words.
        count: How many.

    Returns:
        The entry; None for a model that did not come by `load_model`.
    """
    given = model.given
    if given is None:
        return None
    kind = "file" if Path(given.model).suffix in _FILES else _kind(given.model)
    # Weights that could not be had were drawn at random, and shall be again.
    fell_back = given.weights == "auto" and not model.weights.trained
    return {
        "kind": kind,
        "model": _named(given.model) if kind == "file" else given.model,
        "model_sha256": file_sha256(Path(given.model)) if kind == "file" else None,
        "weights": "none" if fell_back else _named(given.weights),
        "weights_source": model.weights.source,
        "weights_sha256": model.weights.sha256,
        "input_shape": None if given.input_shape is None else list(given.input_shape),
        "seed": given.seed,
        "images": {"source": _named(images), "count": count},
    }


def load_source(
    source: Mapping[str, Any] | None,
    bundle: Path,
    *,
    model: str | None = None,
    weights: str | None = None,
) -> LoadedModel:
    """Load a bundle's model again, and check that it is the same one.

    Args:
        source: The ``source`` entry of its manifest.
        bundle: Its folder; files are sought where they lay, then beside it.
        model: Where the model's file lies now, or None.
        weights: Where the weights' file lies now, or None.

    Returns:
        The model.

    Raises:
        ReportError: The manifest does not say where the model comes from.
        ModelError: The model or its weights are others than the bundle's.
    """
    if source is None:
        raise ReportError(
            f"{bundle}/manifest.json does not say what its model was loaded from, which a defence "
            "needs: export the model again"
        )
    try:
        of_file = source["kind"] == "file"
        name = model or (_found(source["model"], bundle) if of_file else source["model"])
        chosen = weights or source["weights"]
        chosen = chosen if chosen in {"auto", "none"} else _found(chosen, bundle)
        shape, seed, digest = source["input_shape"], source["seed"], source["weights_sha256"]
        file_digest = source["model_sha256"]
    except (KeyError, TypeError) as error:
        raise ReportError(
            f"{bundle}/manifest.json: its source lacks {error}: export the model again"
        ) from error
    if of_file and Path(name).is_file() and file_sha256(Path(name)) != file_digest:
        raise ModelError(f"{name} is another file than {bundle} was made from: give that one")
    loaded = load_model(name, weights=chosen, input_shape=shape, seed=seed)
    if loaded.weights.sha256 != digest:
        raise ModelError(
            f"expected the weights that {bundle} was made with ({source['weights_source']}), got "
            f"others ({loaded.weights.source}): give their file with --weights, or export again"
        )
    return loaded


def _kind(model: str) -> str:
    return "factory" if ":" in model else "torchvision"


def _named(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _found(path: str, bundle: Path) -> str:
    """Where the file lay, or beside the bundle; as it is where it is at neither."""
    beside = bundle.parent / Path(path).name
    return str(beside) if not Path(path).is_file() and beside.is_file() else path
