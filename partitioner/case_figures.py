"""The figures of every row in every case: what ``splitdeploy.partitioner.scoring`` does for one.

Arrays are of cases by rows; rows are the valid ones, in the report's order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitdeploy.partitioner.rebase import downlink_bytes
from splitdeploy.partitioner.scoring import (
    COST_FLOOR,
    PRIVACY_FLOOR,
    Table,
    is_valid,
)
from splitdeploy.partitioner.side_cases import Array
from splitdeploy.partitioner.uncertainty import Cases
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.power import RADIOS, RadioPower
from splitdeploy.profiles.report import Constraints, CutReport, Objective, SweepReport


@dataclass(frozen=True)
class CaseFigures:
    """What a decision rests on, by case and row; less is better."""

    names: tuple[str, ...]
    latency_s: Array
    energy_j: Array
    leakage: Array
    slowest_s: Array


def case_figures(report: SweepReport, table: Table, cases: Cases) -> CaseFigures:
    """The figures in every case.

    Args:
        report: A report; its network is that which factors of the link apply to.
        table: Its central figures, which say what kinds of figure there are.
        cases: What the parts are.

    Returns:
        Arrays that broadcast to cases by rows.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    zero = np.zeros((1, len(rows)))
    return CaseFigures(
        names=tuple(row.name for row in rows),
        latency_s=_latency_s(report, rows, cases) if table.has_latency else zero,
        energy_j=_energy_j(report, rows, cases) if table.has_energy else zero,
        leakage=_indices(rows, cases) if table.has_leakage else zero,
        slowest_s=_slowest_s(report, rows, cases) if table.has_latency else zero,
    )


def _latency_s(report: SweepReport, rows: Sequence[CutReport], cases: Cases) -> Array:
    batches = _batches(report, rows)
    up_bits, down_bits = (batches * bits for bits in _bits(report, rows))
    up_bps, down_bps, rtt_s = cases.rates(report.network)
    trips = ((up_bits > 0).astype(float) + (down_bits > 0)) / 2
    rest = np.array([[_rest_s(row) for row in rows]])
    link = up_bits / up_bps + down_bits / down_bps + trips * rtt_s
    total: Array = cases.edge_s + cases.cloud_s + link + rest
    return total


def _slowest_s(report: SweepReport, rows: Sequence[CutReport], cases: Cases) -> Array:
    """The slowest stage's time for an input, as ``splitdeploy.profiles.throughput`` has it."""
    up_bits, down_bits = _bits(report, rows)
    up_bps, down_bps, _ = cases.rates(report.network)
    missing = np.array([[math.inf if row.latency_s is None else 0.0 for row in rows]])
    computing = np.maximum(cases.edge_s, cases.cloud_s) / _batches(report, rows)
    sending = np.maximum(up_bits / up_bps, down_bits / down_bps)
    slowest: Array = np.maximum(computing, sending) + missing
    return slowest


def _rest_s(row: CutReport) -> float:
    """What joins the total besides its stages; infinite where there is no latency."""
    if row.latency_s is None:
        return math.inf
    s = row.latency_s
    return max(
        0.0,
        s.total.median - s.edge.median - s.uplink.median - s.cloud.median - s.downlink.median,
    )


def _bits(report: SweepReport, rows: Sequence[CutReport]) -> tuple[Array, Array]:
    """What goes up and comes down for an input; zero where the row took no time for it."""
    sends = [row.latency_s is not None and row.latency_s.uplink.median > 0 for row in rows]
    receives = [row.latency_s is not None and row.latency_s.downlink.median > 0 for row in rows]
    up = [8.0 * row.cut.payload_bytes * s for row, s in zip(rows, sends, strict=True)]
    down = [8.0 * downlink_bytes(report, row) * r for row, r in zip(rows, receives, strict=True)]
    return np.array([up]), np.array([down])


def _batches(report: SweepReport, rows: Sequence[CutReport]) -> Array:
    """How many inputs a request of each row has."""
    return np.array([[float(report.batch_of(row)) for row in rows]])


def _energy_j(report: SweepReport, rows: Sequence[CutReport], cases: Cases) -> Array:
    """Computing goes with the head's time and the board's draw, the radio's share with the link."""
    compute = np.array([[math.inf if r.energy_j is None else r.energy_j.compute for r in rows]])
    edge = np.array([[0.0 if r.latency_s is None else r.latency_s.edge.median for r in rows]])
    slower = np.divide(cases.edge_s, edge, out=np.ones_like(cases.edge_s), where=edge > 0)
    up_bits, down_bits = _bits(report, rows)
    network = report.network
    radio = RADIOS[network.radio] if network.radio in RADIOS else RADIOS["wifi"]
    up_bps, down_bps, _ = cases.rates(network)
    sent = _radio_j(radio, up_bits, up_bps, radio.uplink_mw_per_mbps)
    sent = sent + _radio_j(radio, down_bits, down_bps, radio.downlink_mw_per_mbps)
    # A report may hold a radio's energy by other coefficients; it keeps its own scale.
    modelled = _central_radio_j(radio, up_bits[0], down_bits[0], network)
    scale = np.array([[_radio_scale(*pair) for pair in zip(rows, modelled, strict=True)]])
    fixed = np.array([[_fixed_radio_j(*pair) for pair in zip(rows, modelled, strict=True)]])
    total: Array = compute * slower * cases.power + (sent * scale + fixed) * cases.radio
    return total


def _radio_j(radio: RadioPower, bits: Array, rate_bps: Array, slope: float) -> Array:
    watts = 1e-3 * (slope * np.minimum(rate_bps, radio.highest_bps) / 1e6 + radio.base_mw)
    joules: Array = watts * bits / rate_bps
    return joules


def _central_radio_j(
    radio: RadioPower, up_bits: Array, down_bits: Array, network: NetworkProfile
) -> list[float]:
    up = _radio_j(radio, up_bits, np.array(network.uplink_bps), radio.uplink_mw_per_mbps)
    down = _radio_j(radio, down_bits, np.array(network.downlink_bps), radio.downlink_mw_per_mbps)
    return [float(joules) for joules in up + down]


def _radio_scale(row: CutReport, modelled_j: float) -> float:
    if row.energy_j is None or modelled_j <= 0:
        return 0.0
    return row.energy_j.radio / modelled_j


def _fixed_radio_j(row: CutReport, modelled_j: float) -> float:
    """What the model does not explain, as of a row without stages: it stays as it is."""
    return row.energy_j.radio if row.energy_j is not None and modelled_j <= 0 else 0.0


def _indices(rows: Sequence[CutReport], cases: Cases) -> Array:
    """The leakage index, by the definition in ``splitdeploy.partitioner.scoring``."""
    gain = np.maximum(cases.gain, 0.0)
    has_gain = np.array([row.leakage is not None for row in rows])
    largest = np.where(has_gain, gain, 0.0).max(axis=1, keepdims=True)
    share = np.divide(gain, largest, out=np.zeros_like(gain), where=largest > 0)
    baseline = np.array([row.baseline.ssim if row.baseline else 0.0 for row in rows])
    beyond = np.clip((cases.ssim - baseline) / np.maximum(1e-9, 1.0 - baseline), 0.0, 1.0)
    attacked = np.array([row.strongest_attack is not None for row in rows])
    converged = np.array([bool((a := row.strongest_attack) and a.converged) for row in rows])
    beyond = np.where(attacked, beyond, 0.0)
    unknown = np.array([0.0 if row.cut.name == EDGE_ONLY else 1.0 for row in rows])
    index = np.where(
        has_gain, np.maximum(np.where(has_gain, share, 0.0), beyond),
        np.where(converged, beyond, unknown),
    )  # fmt: skip
    index[:, [row.cut.name == CLOUD_ONLY for row in rows]] = 1.0
    return index


def _memory_bytes(rows: Sequence[CutReport]) -> Array:
    known = [row.edge_memory_bytes for row in rows]
    return np.array([[math.inf if value is None else float(value) for value in known]])


def _limited_ssim(rows: Sequence[CutReport], cases: Cases) -> Array:
    """The SSIM as a limit sees it: what sends the input has 1, what was not attacked is unknown."""
    ssim = _or_missing(rows, cases.ssim, [bool(row.attacks) for row in rows])
    ssim[:, [row.cut.name == CLOUD_ONLY for row in rows]] = 1.0
    return ssim


def _limited_fsinfo(rows: Sequence[CutReport], cases: Cases) -> Array:
    return _or_missing(rows, cases.fsinfo, [row.leakage is not None for row in rows])


def _or_missing(rows: Sequence[CutReport], values: Array, known: Sequence[bool]) -> Array:
    """Infinite where a figure is missing; minus infinite on the edge alone, which sends nothing."""
    nothing = np.array([-math.inf if row.cut.name == EDGE_ONLY else math.inf for row in rows])
    return np.where(np.array(known), values, nothing)


def case_scores(figures: CaseFigures, table: Table, objective: Objective) -> Array:
    """What is minimised, by case and row.

    Args:
        figures: The figures.
        table: Which kinds of figure there are.
        objective: What to minimise.

    Returns:
        Seconds, joules, the index, or the balanced score.
    """
    if objective.name == "latency":
        return figures.latency_s
    if objective.name == "energy":
        return figures.energy_j
    if objective.name == "throughput":
        return figures.slowest_s
    if objective.name == "leakage":
        return figures.leakage
    terms: list[tuple[float, Array]] = []
    between = np.array([not row.is_end for row in table.rows])
    if table.has_latency and objective.weight_latency:
        terms.append((objective.weight_latency, _price(figures.latency_s, between)))
    if table.has_energy and objective.weight_energy:
        terms.append((objective.weight_energy, _price(figures.energy_j, between)))
    if table.has_leakage and objective.weight_leakage:
        kept = np.maximum(PRIVACY_FLOOR, 1.0 - figures.leakage)
        terms.append((objective.weight_leakage, -np.log(kept)))
    score: Array = sum(
        (weight * term for weight, term in terms), start=np.zeros((1, len(figures.names)))
    )
    return score / sum(weight for weight, _ in terms)


def _price(values: Array, between: NDArray[np.bool_]) -> Array:
    """ln(value / least) by case, with the floor under it; the least is of what lies between."""
    counts = np.where((values > 0) & np.isfinite(values), values, math.inf)
    least = np.where(between, counts, math.inf).min(axis=1, keepdims=True)
    least = np.where(np.isfinite(least), least, counts.min(axis=1, keepdims=True))
    if not np.isfinite(least).all():
        return np.zeros_like(values)
    price: Array = np.log(np.maximum(COST_FLOOR, values / least))
    return price


def limit_values(
    report: SweepReport, cases: Cases, constraints: Constraints
) -> Mapping[str, Array]:
    """What each limit that is set is on, by case and row; infinite where a figure is missing.

    Less is better: a figure that has a floor comes with the other sign. What no limit is on is not
    computed.

    Args:
        report: A report.
        cases: What the parts are.
        constraints: The limits.

    Returns:
        Figures by the limit's name.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    values: dict[str, Callable[[], Array]] = {
        "max_latency_s": lambda: _latency_s(report, rows, cases),
        "max_energy_j": lambda: _energy_j(report, rows, cases),
        "max_edge_memory_bytes": lambda: _memory_bytes(rows),
        "max_ssim": lambda: _limited_ssim(rows, cases),
        "max_fsinfo": lambda: _limited_fsinfo(rows, cases),
        "min_agreement": lambda: np.where(np.isnan(cases.agreement), math.inf, -cases.agreement),
    }
    return {
        name: value() for name, value in values.items() if getattr(constraints, name) is not None
    }
