"""The file of ``splitdeploy sweep``: models × devices × networks × precisions × batches.

    models: [resnet18, {model: mobilenet_v2, input-shape: 3x160x160}]
    devices: [jetson-nano, {device: jetson-orin-nano, power-mode: 7W}]
    networks: [lte, {uplink: 1mbit, rtt: 50ms}]
    precisions: [fp16, int8]
    batches: [1, 8]
    budget: 2m

An entry of a list is a name, or the options that it stands for. Every other key is an option of
``splitdeploy profile`` without its dashes, and holds for all runs; what stands with a batch comes
before what stands with a precision, that before a network's, that before a device's, that before a
model's, and that before the file's own.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitdeploy.profiles.errors import MissingExtraError, UnknownNameError, UsageError

AXES = {
    "models": "model", "devices": "device", "networks": "network", "precisions": "precision",
    "batches": "batch",
}  # fmt: skip
"""Each list, and the option that a bare name in it stands for."""

MOST_RUNS = 10_000
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        options: Of the profile, by name without dashes; the model among them.
    """

    name: str
    options: Mapping[str, str | bool]

    def arguments(self) -> list[str]:
        """What follows ``splitdeploy profile`` on a command line."""
        words = [str(self.options["model"])]
        for key, value in self.options.items():
            if key == "model" or value is False:
                continue
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        # A model of a name such as "-x" is no option.
        return [*words[1:], "--", words[0]]


def read_sweep_file(path: Path, known: Mapping[str, bool]) -> tuple[SweepRun, ...]:
    """The runs that a file asks for: of models, then devices, networks, precisions and batches.

    Args:
        path: The YAML file.
        known: The options of a profile without dashes; whether each is a switch.

    Returns:
        The runs, each with a name of its own.

    Raises:
        UsageError: There is no such file, it is no YAML, or what it says cannot be meant.
    """
    document = _load(path)
    if not isinstance(document, dict) or not document:
        raise UsageError(
            f"expected {path} to hold models and options (see: splitdeploy sweep --help), "
            f"got {_kind(document)}"
        )
    where = path.name
    for key in document:
        _check_key(key, [*AXES, *(k for k in known if k != "model")], where)
    for axis, option in AXES.items():
        if axis in document and option in document:
            raise UsageError(f"{where}: expected {axis} or {option}, got both: keep {axis}")
    if "models" not in document:
        raise UsageError(f"{where}: expected models: [NAME, …], which is missing")
    common = _options({k: v for k, v in document.items() if k not in AXES}, known, where)
    axes: list[list[tuple[str, dict[str, str | bool]]]] = [
        list(_entries(document[axis], axis, known, where)) if axis in document else [("", {})]
        for axis in AXES
    ]
    count = math.prod(len(axis) for axis in axes)
    if count > MOST_RUNS:
        raise UsageError(f"{where}: expected at most {MOST_RUNS} runs, got {count}: split the file")
    return _named([
        (
            "-".join(label for label, _ in parts if label),
            {**common, **{key: value for _, options in parts for key, value in options.items()}},
        )
        for parts in itertools.product(*axes)
    ])


def _load(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "a sweep file needs PyYAML: type  pip install 'splitdeploy[workstation]'"
        ) from error
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"expected a sweep file at {path}, there is none") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the sweep file {path}: {error}") from error
    try:
        _check_twice(yaml.compose(text, Loader=yaml.SafeLoader), path.name)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is no YAML: {told[:300]}") from error


def _check_twice(node: Any, where: str) -> None:
    """Refuse a key that stands twice: YAML would take the last without a word."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            if isinstance(inner, yaml.MappingNode):
                _check_twice(inner, where)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen and isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            raise UsageError(f"{where}, line {line}: the key {key.value!r} stands there twice")
        if isinstance(key, yaml.ScalarNode):
            seen.add(key.value)
        if isinstance(value, yaml.SequenceNode):
            _check_twice(value, where)


def _check_key(key: object, known: Sequence[str], where: str) -> None:
    if key not in known:
        raise UnknownNameError(f"key of {where}", str(key), known)


def _entries(
    listed: object, axis: str, known: Mapping[str, bool], where: str
) -> Iterator[tuple[str, dict[str, str | bool]]]:
    """The label and the options of every entry of a list."""
    option = AXES[axis]
    if not isinstance(listed, list) or not listed:
        raise UsageError(
            f"{where}: expected {axis} to be a list such as [NAME, …], got {_kind(listed)}"
        )
    for entry in listed:
        given = entry if isinstance(entry, dict) else {option: entry}
        for key in given:
            _check_key(key, list(known), f"{where} in {axis}")
        options = _options(given, known, f"{where} in {axis}")
        if axis == "models" and "model" not in options:
            raise UsageError(f"{where}: expected a model in every entry of models, got {given}")
        if not options:
            raise UsageError(f"{where}: expected a name in every entry of {axis}, got {given}")
        yield _label(options), options


def _options(
    given: Mapping[Any, Any], known: Mapping[str, bool], where: str
) -> dict[str, str | bool]:
    """As a command line would have them: texts, and true or false for a switch."""
    found: dict[str, str | bool] = {}
    for key, value in given.items():
        is_switch = known[key]
        if is_switch != isinstance(value, bool) or not isinstance(value, str | int | float):
            wanted = "true or false" if is_switch else "a text or a number"
            raise UsageError(
                f"{where}: expected {key} to be {wanted}, got {_kind(value)} (put what YAML reads "
                "as something else in quotes)"
            )
        found[key] = value if isinstance(value, bool) else str(value)
    return found


def _kind(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "nothing" if value is None else repr(value)[:60]


def _label(options: Mapping[str, str | bool]) -> str:
    """The values of an entry, as a part of a file's name."""
    words = [_word(key, value) for key, value in options.items() if value]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")[:_LONGEST_LABEL]


def _word(key: str, value: str | bool) -> str:
    """An option in a name; a batch bears a letter, as in the names of rows."""
    if value is True:
        return key
    return f"b{value}" if key == "batch" else str(value)


def _named(runs: Sequence[tuple[str, dict[str, str | bool]]]) -> tuple[SweepRun, ...]:
    """The runs under names that are each there once, however a file system writes them."""
    taken: dict[str, int] = {}
    named = []
    for label, options in runs:
        label = label or "run"
        nth = taken[label.lower()] = taken.get(label.lower(), 0) + 1
        while nth > 1 and f"{label}-{nth}".lower() in taken:
            nth += 1
        name = label if nth == 1 else f"{label}-{nth}"
        taken.setdefault(name.lower(), 1)
        named.append(SweepRun(name, options))
    return tuple(named)
