"""From a report to the JSON document of ``report.json``, schema version 1."""

from __future__ import annotations

import math
from typing import Any

from splitdeploy.profiles.bandwidth_trace import outcome_to_json
from splitdeploy.profiles.certainty import certainty_to_json
from splitdeploy.profiles.codec_record import codec_to_json
from splitdeploy.profiles.cut_document import cut_to_json
from splitdeploy.profiles.figure import figure_to_json
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import (
    SCHEMA_VERSION,
    AttackRecord,
    Baseline,
    CutReport,
    Estimate,
    LeakageRecord,
    PlaceInfo,
    Recommendation,
    SweepReport,
    row_name,
)
from splitdeploy.profiles.throughput import throughput_per_s


def report_to_json(report: SweepReport) -> dict[str, Any]:
    """The document of a report.

    Args:
        report: What to write.

    Returns:
        Dicts, lists, strings, numbers, flags and None, ready for ``json.dumps``.
    """
    model = report.model
    return {
        "schema_version": SCHEMA_VERSION,
        "created": report.created,
        "command": list(report.command),
        "environment": dict(report.environment),
        "seed": report.seed,
        "model": {
            "name": model.name,
            "weights": model.weights,
            "weights_sha256": model.weights_sha256,
            "input": {"shape": list(model.input_shape), "dtype": model.input_dtype},
            "parameters": model.parameters,
            "macs": model.macs,
        },
        "edge": _place(report.edge),
        "cloud": _place(report.cloud),
        "network": network_to_json(report.network),
        "result_bytes": report.result_bytes,
        "return_at": report.return_at,
        **({} if report.batch == 1 else {"batch": report.batch}),
        "constraints": dict(vars(report.constraints)),
        "objective": dict(vars(report.objective)),
        "cuts": [
            row_to_json(row)
            | {
                "throughput_per_s": throughput_per_s(
                    row.latency_s, report.network, report.batch_of(row)
                )
            }
            for row in report.cuts
        ],
        "pareto": list(report.pareto),
        "recommendation": (
            recommendation_to_json(report.recommendation) if report.recommendation else None
        ),
        "warnings": list(report.warnings),
    }


def recommendation_to_json(recommendation: Recommendation) -> dict[str, Any]:
    """The document of a recommendation, as ``recommend --format json`` prints it.

    Args:
        recommendation: What to write.

    Returns:
        Its document.
    """
    certainty, trace, precision = (
        recommendation.certainty, recommendation.trace, recommendation.precision,
    )  # fmt: skip
    batch = recommendation.batch
    together = {"precision": precision, "run": recommendation.run}
    return {
        "cut": recommendation.cut.removesuffix(row_name("", precision, batch)),
        **({} if precision is None else together),
        **({} if batch is None else {"batch": batch}),
        "objective": recommendation.objective,
        "why": list(recommendation.why),
        "warnings": list(recommendation.warnings),
        "runner_up": recommendation.runner_up,
        "stable_while": {name: list(ends) for name, ends in recommendation.stable_while.items()},
        **(certainty_to_json(certainty) if certainty else {}),
        **({"trace": outcome_to_json(trace)} if trace else {}),
    }


def network_to_json(network: NetworkProfile) -> dict[str, Any]:
    """The document of a network.

    Args:
        network: What to write.

    Returns:
        Its document.
    """
    return dict(vars(network))


def _place(place: PlaceInfo) -> dict[str, Any]:
    document = dict(vars(place))
    if place.messages is None:
        del document["messages"]
    else:
        document["messages"] = dict(vars(place.messages))
    return document


def row_to_json(row: CutReport) -> dict[str, Any]:
    """The document of one cut, as it stands in ``cuts``.

    Args:
        row: What to write.

    Returns:
        Its document.
    """
    latency, strongest = row.latency_s, row.strongest_attack
    return {
        **cut_to_json(row.cut),
        "name": row.name,
        "uplink_bps_needed": row.uplink_bps_needed,
        "verified": row.verified
        and {
            "ok": row.verified.ok,
            "max_abs_error": finite_or_none(row.verified.max_abs_error),
            "max_rel_error": finite_or_none(row.verified.max_rel_error),
            "images": row.verified.images,
            "ran": row.verified.ran,
        },
        "latency_s": latency
        and {
            "edge": _measurement(latency.edge),
            "uplink": _measurement(latency.uplink),
            "cloud": _measurement(latency.cloud),
            "downlink": _measurement(latency.downlink),
            "total": _measurement(latency.total),
        },
        "energy_j": row.energy_j and dict(vars(row.energy_j)),
        "edge_memory_bytes": row.edge_memory_bytes,
        "leakage": row.leakage and _leakage(row.leakage),
        "attacks": [attack_to_json(attack) for attack in row.attacks],
        "baseline": row.baseline and baseline_to_json(row.baseline),
        "strongest_attack": strongest and strongest.name,
        "attack_notes": list(row.attack_notes),
        "feasible": row.feasible,
        "violations": list(row.violations),
        "error": row.error,
        "codec_loss": row.codec_loss and codec_to_json(row.codec_loss),
        **({} if row.precision is None else {"precision": row.precision, "run": row.run}),
        **({} if row.batch is None else {"batch": row.batch}),
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return dict(vars(measurement))


def _leakage(record: LeakageRecord) -> dict[str, Any]:
    document = dict(vars(record))
    for key in ("fsinfo", "gain", "exact_fsinfo", "bayesian_fsinfo", "dfil"):
        document[key] = _estimate(document[key])
    document["notes"] = list(record.notes)
    document["figures"] = [figure_to_json(figure) for figure in record.figures]
    return document


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else dict(vars(estimate))


def attack_to_json(attack: AttackRecord) -> dict[str, Any]:
    """The document of an attack, as it stands in a cut's ``attacks``.

    Args:
        attack: What to write.

    Returns:
        Its document.
    """
    document = dict(vars(attack))
    document["psnr_db"] = finite_or_none(attack.psnr_db)
    for key in ("ssim_ci95", "psnr_ci95_db", "mse_ci95", "identified_ci95"):
        document[key] = None if document[key] is None else list(document[key])
    document["notes"] = list(attack.notes)
    return document


def baseline_to_json(baseline: Baseline) -> dict[str, Any]:
    """The document of the best guess without smashed data.

    Args:
        baseline: What to write.

    Returns:
        Its document.
    """
    return {**vars(baseline), "psnr_db": finite_or_none(baseline.psnr_db)}


def finite_or_none(value: float) -> float | None:
    """The value, or None where it is infinite or not a number."""
    return value if math.isfinite(value) else None
