"""Heads measured one after the other on this device; each result is kept as it comes.

A job is a folder: ``job.json``, the heads with their weights' files, and ``results/``. A result is
of a head's digest and the settings, so that a job that was interrupted measures what is left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitdeploy.edge_runtime.conditions import conditions
from splitdeploy.edge_runtime.head_energy import EnergyGauge, energy_gauge
from splitdeploy.edge_runtime.head_opener import HeadFiles, open_for_measuring
from splitdeploy.edge_runtime.locked import locked
from splitdeploy.edge_runtime.message_cost import measure_messages
from splitdeploy.edge_runtime.power_mode import power_mode
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.edge_runtime.seeded import seeded_feeds
from splitdeploy.edge_runtime.timing import time_session
from splitdeploy.profiles.cut import PRECISIONS, TensorSpec
from splitdeploy.profiles.digest import bytes_sha256, file_sha256
from splitdeploy.profiles.errors import SplitdeployError, WireError
from splitdeploy.profiles.store import write_atomically

JOB_FILE = "job.json"
RESULTS = "results"
BACKENDS = ("auto", "onnxruntime", "tensorrt")
_WAIT_S = 30.0
"""For a measurement that was cut off and ends with the head that it is at."""

Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """How heads are measured.

    Attributes:
        backend: ``auto`` (TensorRT where it is, else ONNX Runtime), ``onnxruntime``, ``tensorrt``.
        precision: What the head computes in, where the backend can choose.
        repeats: Timed runs of each head.
        warmup: Runs before them.
        budget_s: Seconds for the timed runs of each head.
        energy_s: Seconds over which each head's energy is measured; 0 leaves it out.
        threads: For ONNX Runtime; None for all cores.
        power_mode: By name; None leaves the device as it is.
        seed: Of the inputs.
    """

    backend: str = "auto"
    precision: str = "fp32"
    repeats: int = 50
    warmup: int = 5
    budget_s: float = 2.0
    energy_s: float = 3.0
    threads: int | None = None
    power_mode: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            WireError: A number or a name is out of range.
        """
        counts = self.repeats >= 1 and self.warmup >= 0 and (self.threads or 1) >= 1
        times = 0 < self.budget_s <= 3600 and 0 <= self.energy_s <= 3600
        names = self.backend in BACKENDS and self.precision in PRECISIONS
        if not (counts and times and names):
            raise WireError(f"expected settings of a measurement that can be meant, got {self}")


@dataclass(frozen=True)
class HeadJob:
    """Heads to be measured.

    Attributes:
        names: Of the cuts.
        heads: Their graphs, in the same order.
        outputs: What each of them sends.
        weights: Files that several graphs share.
        settings: How.
    """

    names: tuple[str, ...]
    heads: tuple[Sent, ...]
    outputs: tuple[tuple[TensorSpec, ...], ...]
    weights: tuple[Sent, ...]
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """As ``job.json`` has it."""

        def listed(files: tuple[Sent, ...]) -> list[dict[str, Any]]:
            return [{"name": f.name, "sha256": f.sha256, "bytes": f.size_bytes} for f in files]

        return {
            "names": list(self.names),
            "heads": listed(self.heads),
            "outputs": [[asdict(spec) for spec in specs] for specs in self.outputs],
            "weights": listed(self.weights),
            "settings": asdict(self.settings),
        }

    @property
    def digest(self) -> str:
        """Tells jobs apart."""
        return bytes_sha256(json.dumps(self.to_json(), sort_keys=True).encode())

    def key(self, place: int) -> str:
        """What the result of a head depends on."""
        files = [self.heads[place].sha256, *(file.sha256 for file in self.weights)]
        text = json.dumps([files, asdict(self.settings)], sort_keys=True)
        return bytes_sha256(text.encode())


def read_job(folder: Path) -> HeadJob:
    """Read a job, and check that every file of it is the one that was sent.

    Args:
        folder: The job's.

    Returns:
        The job.

    Raises:
        WireError: There is none, it cannot be meant, or a file is missing or another.
    """
    try:
        document = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        settings = Settings(**document["settings"])
        job = HeadJob(
            tuple(str(name) for name in document["names"]),
            tuple(Sent.read(entry) for entry in document["heads"]),
            tuple(tuple(_spec(entry) for entry in specs) for specs in document["outputs"]),
            tuple(Sent.read(entry) for entry in document["weights"]),
            settings,
        )
        settings.check()
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WireError(
            f"expected a job in {folder / JOB_FILE} ({type(error).__name__}): send it again"
        ) from error
    if not len(job.names) == len(job.heads) == len(job.outputs):
        raise WireError(f"{folder}: {len(job.names)} names for {len(job.heads)} heads")
    for file in (*job.heads, *job.weights):
        path = folder / file.name
        if not path.is_file() or file_sha256(path) != file.sha256:
            raise WireError(f"{path} is not the file that the job tells of: send it again")
    return job


def _spec(entry: Any) -> TensorSpec:
    return TensorSpec(
        str(entry["name"]), tuple(int(size) for size in entry["shape"]), str(entry["dtype"])
    )


def measure_heads(folder: Path, tell: Tell, *, fresh: bool = False) -> int:
    """Measure every head of a job that has no result yet.

    Args:
        folder: The job's.
        tell: Told ``conditions`` first, then ``head`` for every head, finished before or now.
        fresh: Measure all of them anew.

    Returns:
        How many were measured now.
    """
    with locked(folder, wait_s=_WAIT_S):
        job = read_job(folder)
        results = folder / RESULTS
        results.mkdir(exist_ok=True)
        if fresh:
            for stale in results.glob("*.json"):
                stale.unlink()
        measured = 0
        settings = job.settings
        with power_mode(settings.power_mode), energy_gauge(settings.energy_s) as gauge:
            tell("conditions", {"device": conditions(), "messages": _messages()})
            for place, name in enumerate(job.names):
                kept = _finished(results / f"{place:04d}.json", job.key(place))
                if kept is None:
                    tell("begin", {"name": name})
                    found = _measured(folder, job, place, gauge)
                    measured += 1
                    if found["error"] is None:
                        write_atomically(results / f"{place:04d}.json", json.dumps(found))
                else:
                    found = kept
                tell("head", {**found, "name": name, "kept": kept is not None})
        return measured


def _messages() -> dict[str, Any]:
    """What a request costs the end that asks, or why that is not known."""
    try:
        return asdict(measure_messages().client)
    except SplitdeployError as error:
        return {"error": str(error)}


def _finished(path: Path, key: str) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def _measured(folder: Path, job: HeadJob, place: int, gauge: EnergyGauge) -> dict[str, Any]:
    """The result of one head; where it fails, why."""
    found: dict[str, Any] = {"key": job.key(place), "error": None, "before": conditions()}
    settings = job.settings
    try:
        head = HeadFiles(job.heads[place], job.weights, job.outputs[place])
        with open_for_measuring(folder, head, settings) as opened:
            feeds = seeded_feeds(opened.session.inputs, settings.seed)
            time_s = time_session(
                opened.session,
                feeds,
                warmup=settings.warmup,
                repeats=settings.repeats,
                budget_s=settings.budget_s,
            )
            if not math.isfinite(time_s.median):
                raise WireError("a time that is no number")
            found["latency"] = asdict(time_s)
            found["backend"] = opened.backend
            found["notes"] = list(opened.notes)
            found["energy"] = gauge.measure(opened.session, feeds)
    except SplitdeployError as error:
        found["error"] = str(error)
    found["after"] = conditions()
    return found
