"""The heads of all cuts as a job for a device: small graphs that share one file of weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from splitdeploy.edge_runtime.measure_job import JOB_FILE, HeadJob, Settings
from splitdeploy.edge_runtime.received import Sent
from splitdeploy.partitioner.deployed import deployed_halves
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.plan import Plan
from splitdeploy.partitioner.remote.transfer import files_to_send
from splitdeploy.partitioner.slicing import write_slice
from splitdeploy.profiles.cut import CLOUD_ONLY
from splitdeploy.profiles.report import CutReport

_SHARE = 0.2
"""Of a sweep's budget, for timing; as much again goes to energy."""

_TIMING_S = (0.2, 2.0)
_ENERGY_S = (1.0, 3.0)
"""The least and the most that a head gets."""


@dataclass(frozen=True)
class JobFiles:
    """A job, and the files that go with it: the name there, the file here."""

    job: HeadJob
    files: dict[str, Path]
    sent: list[Sent]


def write_job(plan: Plan, rows: Sequence[CutReport], options: ProfileOptions) -> JobFiles:
    """Write the heads beside the export.

    Args:
        plan: The model, its cuts and its export.
        rows: As far as they are; a cut that failed is left out.
        options: Precision, power mode and budget.

    Returns:
        The job.
    """
    whole = plan.exported.path
    heads: dict[str, Path] = {}
    weights: dict[str, Path] = {}
    names, outputs = [], []
    for place, (cut, sent, row) in enumerate(zip(plan.cuts, plan.sent, rows, strict=True)):
        if cut.name == CLOUD_ONLY or row.error is not None:
            continue
        halves, _ = deployed_halves(plan, cut, sent, options.precision)
        path = write_slice(halves.head, whole, f"{place:04d}.onnx")
        heads[path.name] = path
        names.append(cut.name)
        outputs.append(sent.tensors)
        for location in _locations(halves.head):
            weights[location] = whole.with_name(location)
    sent_heads, sent_weights = files_to_send(heads), files_to_send(weights)
    settings = _settings(options, len(names))
    job = HeadJob(tuple(names), tuple(sent_heads), tuple(outputs), tuple(sent_weights), settings)
    path = whole.with_name(JOB_FILE)
    path.write_text(json.dumps(job.to_json()), encoding="utf-8")
    files = heads | weights | {JOB_FILE: path}
    sent_files = [*sent_heads, *sent_weights, *files_to_send({JOB_FILE: path})]
    return JobFiles(job, files, sent_files)


def _settings(options: ProfileOptions, count: int) -> Settings:
    share_s = _SHARE * options.budget_s / max(1, count)
    return Settings(
        precision=options.precision,
        budget_s=min(max(share_s, _TIMING_S[0]), _TIMING_S[1]),
        energy_s=min(max(share_s, _ENERGY_S[0]), _ENERGY_S[1]),
        power_mode=options.power_mode,
        seed=options.seed,
    )


def _locations(model: ModelProto) -> list[str]:
    """The files that a graph's weights lie in."""
    return sorted({
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    })  # fmt: skip
