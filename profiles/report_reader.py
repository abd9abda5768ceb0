"""From the JSON document of ``report.json``, schema version 1, to a report."""

from __future__ import annotations

from typing import cast, get_args

from splitdeploy.profiles.bandwidth_trace import outcome_from_json
from splitdeploy.profiles.certainty import certainty_from_json
from splitdeploy.profiles.codec_record import codec_from_json
from splitdeploy.profiles.cut_document import cut_from_json
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError
from splitdeploy.profiles.figure import figure_from_json
from splitdeploy.profiles.measurement import Measurement, Source, Stability
from splitdeploy.profiles.message_cost import MessageCost
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import (
    HALVES,
    SCHEMA_VERSION,
    AttackRecord,
    Baseline,
    Constraints,
    CutReport,
    Energy,
    Estimate,
    LeakageRecord,
    ModelInfo,
    Objective,
    PlaceInfo,
    Recommendation,
    StageLatency,
    SweepReport,
    Verification,
    row_name,
)


def report_from_json(document: object) -> SweepReport:
    """The report of a document. Keys that this version does not know are passed over.

    Args:
        document: What ``json.loads`` gave.

    Returns:
        The report.

    Raises:
        ReportError: The document is of another schema version, or a value in it is missing or of
            another type; the message names its JSON path.
    """
    root = Node(document)
    version = root["schema_version"].value
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ReportError(
            f"report at $.schema_version: expected {SCHEMA_VERSION}, the version that this "
            f"splitdeploy supports, got {_age(version)}; "
            "read it with the splitdeploy that wrote it, or profile anew"
        )
    recommendation = root.get("recommendation")
    constraints, objective = root.get("constraints"), root.get("objective")
    return SweepReport(
        created=root["created"].text(),
        command=_texts(root["command"]),
        environment={key: node.value for key, node in root["environment"].items()},
        seed=root["seed"].integer(),
        model=_model(root["model"]),
        edge=_place(root["edge"]),
        cloud=_place(root["cloud"]),
        network=_network(root["network"]),
        cuts=tuple(_cut(node) for node in root["cuts"]),
        constraints=_constraints(constraints) if constraints else Constraints(),
        objective=_objective(objective) if objective else Objective(),
        pareto=_texts(root["pareto"]),
        recommendation=_recommendation(recommendation) if recommendation else None,
        warnings=_optional_texts(root, "warnings"),
        result_bytes=_optional_integer(root, "result_bytes"),
        return_at=_optional_text(root, "return_at"),
        batch=_optional_batch(root) or 1,
    )


def _age(version: object) -> str:
    """A version that is not supported, and whether it is older or newer."""
    if isinstance(version, bool) or not isinstance(version, int):
        return repr(version)[:60]
    return f"{version}, which is {'older' if version < SCHEMA_VERSION else 'newer'}"


def row_from_json(document: object) -> CutReport:
    """One cut from its document, as it stands in ``cuts``.

    Args:
        document: What ``json.loads`` gave.

    Returns:
        The row.

    Raises:
        ReportError: A value in it is missing or of another type; the message names its JSON path.
    """
    return _cut(Node(document, document="cut"))


def _texts(node: Node) -> tuple[str, ...]:
    return tuple(element.text() for element in node)


def _integers(node: Node) -> tuple[int, ...]:
    return tuple(element.integer() for element in node)


def _optional_texts(node: Node, key: str) -> tuple[str, ...]:
    child = node.get(key)
    return _texts(child) if child else ()


def _optional_text(node: Node, key: str) -> str | None:
    child = node.get(key)
    return child.text() if child else None


def _optional_integer(node: Node, key: str) -> int | None:
    child = node.get(key)
    return child.integer() if child else None


def _optional_batch(node: Node) -> int | None:
    batch = _optional_integer(node, "batch")
    if batch is not None and batch < 1:
        raise ReportError(
            f"report at {node['batch'].path}: expected a batch of one input or more, got {batch}"
        )
    return batch


def _optional_number(node: Node, key: str) -> float | None:
    child = node.get(key)
    return child.number() if child else None


def _source(node: Node) -> Source:
    return cast("Source", node["source"].choice(get_args(Source)))


def _model(node: Node) -> ModelInfo:
    return ModelInfo(
        name=node["name"].text(),
        weights=node["weights"].text(),
        weights_sha256=node["weights_sha256"].text(),
        input_shape=_integers(node["input"]["shape"]),
        input_dtype=node["input"]["dtype"].text(),
        parameters=node["parameters"].integer(),
        macs=node["macs"].integer(),
    )


def _messages(node: Node | None) -> MessageCost | None:
    if not node:
        return None
    return MessageCost(node["request_s"].number(), node["byte_s"].number())


def _place(node: Node) -> PlaceInfo:
    return PlaceInfo(
        device=node["device"].text(),
        precision=node["precision"].text(),
        power_mode=_optional_text(node, "power_mode"),
        source=_source(node),
        note=_optional_text(node, "note") or "",
        messages=_messages(node.get("messages")),
    )


def _network(node: Node) -> NetworkProfile:
    return NetworkProfile(
        name=node["name"].text(),
        uplink_bps=node["uplink_bps"].number(),
        downlink_bps=node["downlink_bps"].number(),
        rtt_s=node["rtt_s"].number(),
        radio=_optional_text(node, "radio") or "wifi",
        source=_optional_text(node, "source") or "",
        uplink_spread=_optional_number(node, "uplink_spread"),
    )


def _constraints(node: Node) -> Constraints:
    return Constraints(
        max_latency_s=_optional_number(node, "max_latency_s"),
        max_energy_j=_optional_number(node, "max_energy_j"),
        max_edge_memory_bytes=_optional_integer(node, "max_edge_memory_bytes"),
        max_ssim=_optional_number(node, "max_ssim"),
        max_fsinfo=_optional_number(node, "max_fsinfo"),
        confidence=_optional_number(node, "confidence"),
        min_agreement=_optional_number(node, "min_agreement"),
    )


def _objective(node: Node) -> Objective:
    return Objective(
        name=node["name"].text(),
        weight_latency=node["weight_latency"].number(),
        weight_energy=node["weight_energy"].number(),
        weight_leakage=node["weight_leakage"].number(),
    )


def _recommendation(node: Node) -> Recommendation:
    stable, trace = node.get("stable_while"), node.get("trace")
    precision, batch = _optional_text(node, "precision"), _optional_batch(node)
    return Recommendation(
        cut=row_name(node["cut"].text(), precision, batch),
        why=_texts(node["why"]),
        warnings=_optional_texts(node, "warnings"),
        runner_up=_optional_text(node, "runner_up"),
        stable_while={key: _interval(ends) for key, ends in stable.items()} if stable else {},
        objective=_optional_text(node, "objective") or "balanced",
        certainty=certainty_from_json(node) if node.get("candidates") else None,
        trace=outcome_from_json(trace) if trace else None,
        precision=precision,
        run=_optional_text(node, "run"),
        batch=batch,
    )


def _ends(node: Node) -> tuple[Node, Node]:
    ends = list(node)
    if len(ends) != 2:
        raise ReportError(f"report at {node.path}: expected two numbers, got {len(ends)}")
    return ends[0], ends[1]


def _pair(node: Node) -> tuple[float, float]:
    low, high = _ends(node)
    return low.number(), high.number()


def _optional_pair(node: Node, key: str) -> tuple[float, float] | None:
    child = node.get(key)
    return _pair(child) if child else None


def _interval(node: Node) -> tuple[float, float | None]:
    low, high = _ends(node)
    return low.number(), None if high.value is None else high.number()


def _cut(node: Node) -> CutReport:
    verified, latency = node.get("verified"), node.get("latency_s")
    energy, leakage = node.get("energy_j"), node.get("leakage")
    baseline, codec = node.get("baseline"), node.get("codec_loss")
    precision, batch = _optional_text(node, "precision"), _optional_batch(node)
    return CutReport(
        cut=cut_from_json(node, node["name"].text().removesuffix(row_name("", precision, batch))),
        uplink_bps_needed=_optional_number(node, "uplink_bps_needed"),
        verified=_verification(verified) if verified else None,
        latency_s=_latency(latency) if latency else None,
        energy_j=_energy(energy) if energy else None,
        edge_memory_bytes=_optional_integer(node, "edge_memory_bytes"),
        leakage=_leakage(leakage) if leakage else None,
        attacks=tuple(_attack(attack) for attack in node["attacks"]),
        baseline=_baseline(baseline) if baseline else None,
        feasible=node["feasible"].flag(),
        violations=_texts(node["violations"]),
        error=_optional_text(node, "error"),
        attack_notes=_optional_texts(node, "attack_notes"),
        codec_loss=codec_from_json(codec) if codec else None,
        precision=precision,
        run=_optional_text(node, "run"),
        batch=batch,
    )


def _verification(node: Node) -> Verification:
    return Verification(
        ok=node["ok"].flag(),
        max_abs_error=node["max_abs_error"].number_or_infinity(),
        max_rel_error=node["max_rel_error"].number_or_infinity(),
        images=_optional_integer(node, "images") or 0,
        ran=_optional_text(node, "ran") or HALVES,
    )


def _latency(node: Node) -> StageLatency:
    return StageLatency(
        edge=_measurement(node["edge"]),
        uplink=_measurement(node["uplink"]),
        cloud=_measurement(node["cloud"]),
        downlink=_measurement(node["downlink"]),
        total=_measurement(node["total"]),
    )


def _measurement(node: Node) -> Measurement:
    return Measurement(
        median=node["median"].number(),
        p95=node["p95"].number(),
        spread=node["spread"].number(),
        count=node["count"].integer(),
        stability=cast("Stability", node["stability"].choice(get_args(Stability))),
        source=_source(node),
    )


def _energy(node: Node) -> Energy:
    return Energy(
        compute=node["compute"].number(),
        radio=node["radio"].number(),
        total=node["total"].number(),
        source=_source(node),
    )


def _estimate(node: Node) -> Estimate:
    return Estimate(node["value"].number(), node["standard_error"].number())


def _leakage(node: Node) -> LeakageRecord:
    exact, bayesian = node.get("exact_fsinfo"), node.get("bayesian_fsinfo")
    figures = node.get("figures")
    return LeakageRecord(
        fsinfo=_estimate(node["fsinfo"]),
        gain=_estimate(node["gain"]),
        exact_fsinfo=_estimate(exact) if exact else None,
        rank_at_most=node["rank_at_most"].integer(),
        dimensions=node["dimensions"].integer(),
        dfil=_estimate(node["dfil"]),
        fil_max=node["fil_max"].number(),
        noise_sigma=node["noise_sigma"].number(),
        noise=node["noise"].text(),
        prior=node["prior"].text(),
        images=node["images"].integer(),
        mse_lower_bound=_optional_number(node, "mse_lower_bound"),
        steps=_optional_integer(node, "steps") or 0,
        notes=_optional_texts(node, "notes"),
        bayesian_fsinfo=_estimate(bayesian) if bayesian else None,
        figures=tuple(figure_from_json(figure) for figure in figures) if figures else (),
    )


def attack_from_json(document: object) -> AttackRecord:
    """One attack from its document, as it stands in a cut's ``attacks``.

    Args:
        document: What ``json.loads`` gave.

    Returns:
        The attack.

    Raises:
        ReportError: A value in it is missing or of another type; the message names its JSON path.
    """  # noqa: DOC502
    return _attack(Node(document, document="attack"))


def _attack(node: Node) -> AttackRecord:
    return AttackRecord(
        name=node["name"].text(),
        preset=node["preset"].text(),
        threat_model=node["threat_model"].text(),
        psnr_db=node["psnr_db"].number_or_infinity(),
        ssim=node["ssim"].number(),
        mse=node["mse"].number(),
        ssim_ci95=_pair(node["ssim_ci95"]),
        images=node["images"].integer(),
        seconds=node["seconds"].number(),
        converged=node["converged"].flag(),
        oracle=node["oracle"].flag(),
        steps=_optional_integer(node, "steps") or 0,
        picture=_optional_text(node, "picture"),
        psnr_ci95_db=_optional_pair(node, "psnr_ci95_db"),
        mse_ci95=_optional_pair(node, "mse_ci95"),
        lpips=_optional_number(node, "lpips"),
        identified=_optional_number(node, "identified"),
        identified_ci95=_optional_pair(node, "identified_ci95"),
        identified_chance=_optional_number(node, "identified_chance"),
        class_kept=_optional_number(node, "class_kept"),
        verdict=_optional_text(node, "verdict"),
        notes=_optional_texts(node, "notes"),
    )


def _baseline(node: Node) -> Baseline:
    return Baseline(
        psnr_db=node["psnr_db"].number_or_infinity(),
        ssim=node["ssim"].number(),
        mse=node["mse"].number(),
    )
