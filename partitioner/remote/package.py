"""What goes to a device: its part of a bundle, and outputs that it must reproduce."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitdeploy.edge_runtime.bundle import Bundle, read_bundle
from splitdeploy.edge_runtime.bundle_part import copy_edge_part
from splitdeploy.edge_runtime.onnxruntime_session import OnnxRuntimeSession
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.edge_runtime.recorded_outputs import BUNDLE, write_recorded
from splitdeploy.edge_runtime.seeded import seeded_feeds
from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.partitioner.remote.transfer import files_to_send
from splitdeploy.profiles.digest import bytes_sha256
from splitdeploy.profiles.errors import ReportError

_SEED = 0


@dataclass(frozen=True)
class Package:
    """A version, ready to be sent.

    Attributes:
        version: Twelve digits of the digest of the device's part of the bundle.
        record: What is to be known of it on the device.
        files: The name there, the file here.
        sent: With digests and sizes.
    """

    version: str
    record: Mapping[str, Any]
    files: Mapping[str, Path]
    sent: list[Sent]

    @property
    def size_bytes(self) -> int:
        """What all files weigh."""
        return sum(file.size_bytes for file in self.sent)


def pack(folder: Path, aside: Path, *, local_tail: bool) -> Package:
    """Take a device's part of a bundle, and record what it must give.

    Args:
        folder: The bundle.
        aside: An empty folder to work in.
        local_tail: Whether the tail goes too.

    Returns:
        The version.

    Raises:
        ReportError: The bundle is damaged, or its head gives what is no number.
    """  # noqa: DOC502
    bundle = read_bundle(folder)
    copy_edge_part(bundle, aside / BUNDLE, local_tail=local_tail)
    parts = {
        path.relative_to(aside).as_posix(): path
        for path in sorted((aside / BUNDLE).rglob("*"))
        if path.is_file()
    }
    sent = files_to_send(parts)
    digest = bytes_sha256(json.dumps([(file.name, file.sha256) for file in sent]).encode())
    recorded = _record(bundle, aside)
    files = parts | recorded
    record = {
        "model": str(bundle.manifest["model"]),
        "cut": bundle.cut.name,
        "precision": bundle.precision,
        "engine_precision": engine_precision(bundle),
        "served_name": bundle.served_name,
        "local_tail": local_tail,
    }
    return Package(digest[:12], record, files, [*sent, *files_to_send(recorded)])


def engine_precision(bundle: Bundle) -> str:
    """What an engine of a bundle computes in: no finer than what it sends.

    Args:
        bundle: Checked.

    Returns:
        ``int8`` where there is a head with explicit quantisation, ``fp16`` where less than float32
        is sent, else ``fp32``.
    """
    if "int8" in bundle.head_variants:
        return "int8"
    return "fp32" if bundle.precision == "fp32" else "fp16"


def _feeds(bundle: Bundle, head: Session) -> dict[str, Array]:
    """Any input will do for a comparison; one like a picture keeps every head within its range."""
    feeds = seeded_feeds(head.inputs, _SEED)
    taken = bundle.preprocessing
    if taken is not None and len(bundle.head_inputs) == 1:
        name = bundle.head_inputs[0].name
        pixels = np.random.default_rng(_SEED).uniform(0.0, 1.0, feeds[name].shape)
        mean, std = (np.reshape(v, (1, -1, 1, 1)) for v in (taken.mean, taken.std))
        feeds[name] = ((pixels - mean) / std).astype(feeds[name].dtype)
    return feeds


def _record(bundle: Bundle, aside: Path) -> dict[str, Path]:
    with OnnxRuntimeSession(bundle.head) as head, OnnxRuntimeSession(bundle.tail) as tail:
        feeds = _feeds(bundle, head)
        outputs = head.run(feeds)
        results = tail.run({spec.name: outputs[spec.name] for spec in tail.inputs})
    answers = dict[str, Array]()
    if bundle.return_at is not None:
        given = outputs | results
        with OnnxRuntimeSession(bundle.last) as last:
            answers = last.run({spec.name: given[spec.name] for spec in last.inputs})
    for name, value in (outputs | results | answers).items():
        if not np.isfinite(value.astype(np.float64)).all():
            raise ReportError(
                f"{bundle.folder}: {name!r} is NaN or infinite for normal numbers as input, so "
                "that a device cannot be tried on it: export the bundle again"
            )
    before = {path.name for path in aside.iterdir()}
    write_recorded(aside, feeds, outputs, results, answers)
    return {path.name: path for path in aside.iterdir() if path.name not in before}
