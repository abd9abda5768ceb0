"""What the figures of a report are uncertain of, and cases drawn from it.

A *case* is one way that things may truly be. The parts of a figure vary as follows; what varies
together must be drawn together, or ties that errors leave alone would be broken by them.

- ``edge``, ``cloud``: the time of a side is F H B G. The factor F is common to all rows of the
  side, log-normal with median 1: a device that is slower than its model is so for every cut. H is
  common to the rows that compute in one precision: what a precision takes more or less than the
  model's; B to those that compute as many inputs at a time. G is the time of a row by a gamma
  process in the row's time: the share of error that differs between kernels. Heads of one
  precision are nested, so that a longer one takes longer in every case, and two that are nearly
  alike stay so.
- ``network``: rates by one log-normal factor that all rows share (or drawn from a trace), the round
  trip by another one.
- ``power``: the draw of the board, and that of the radio, by a factor each.
- ``leakage``: the gain of each row by its standard error, the SSIM of its strongest attack by its
  interval; normal, each cut its own. In two precisions a cut errs alike: the pictures are the same.

The share of pictures that keep their class with a codec is counted on few: it is drawn from what
the count leaves open (a beta distribution, with Jeffreys' prior).

``docs/decision.md`` says where each number comes from and what is assumed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from splitdeploy.partitioner.limits import agreement
from splitdeploy.partitioner.precision_spread import (
    batch_spreads,
    precision_spreads,
    side_precisions,
)
from splitdeploy.partitioner.scoring import is_valid
from splitdeploy.partitioner.side_cases import Array, normal, side_cases
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.certainty import UncertainPart
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.report import CutReport, SweepReport

DRAWS = 4000
"""Cases that are drawn where nothing else is said."""

SEED = 20_250_301
"""Of the cases; the same for every decision, so that decisions differ by their figures alone."""

Z95 = 1.96
"""Standard normal: 95 of 100 lie within."""

OWN_SHARE = 0.25
"""Share of the variance of a device model's error that is not common to all cuts: an assumption."""

POWER_SPREAD = math.log(1.5) / Z95
"""The model of a board's draw is good to about a half (``splitdeploy.profiles.power``)."""

RADIO_SPREAD = 0.06
"""The model of a radio's draw is good to 6 % on the phones that it was fitted on."""

UNSTEADY_SPREAD = 0.1
"""The least spread of timings that were not stable: what unstable means."""

PARTS = ("edge", "cloud", "network", "power", "leakage")


@dataclass(frozen=True)
class Cases:
    """Cases of every part: arrays of cases by rows, of which either may be one.

    Attributes:
        edge_s: Time of the heads.
        cloud_s: Time of the tails.
        link: Factors of the rates and of the round trip, or uplink, downlink and round trip
            themselves where they were drawn from a trace; a row each.
        link_is_factor: Which of the two.
        power: Factor of the board's draw.
        radio: Factor of the radio's.
        gain: Nats per input element; NaN where there is none.
        ssim: Of the strongest attack; NaN where there is none.
        fsinfo: Nats per input element; NaN where there is none.
        agreement: Share of pictures that keep their class; NaN where it is not known.
    """

    edge_s: Array
    cloud_s: Array
    link: Array
    link_is_factor: bool
    power: Array
    radio: Array
    gain: Array
    ssim: Array
    fsinfo: Array
    agreement: Array

    def rates(self, network: NetworkProfile) -> tuple[Array, Array, Array]:
        """Uplink and downlink in bits per second and the round trip in seconds, by case."""
        up, down, rtt = (self.link[k][:, None] for k in range(3))
        if not self.link_is_factor:
            return up, down, rtt
        return up * network.uplink_bps, down * network.downlink_bps, rtt * network.rtt_s


def uncertain_parts(
    report: SweepReport, trace: Sequence[TraceSample] | None = None
) -> tuple[UncertainPart, ...]:
    """How uncertain each part of the figures is, and where that comes from.

    Args:
        report: A report.
        trace: The link's rates over time, where they are known.

    Returns:
        The parts in the order of ``PARTS``, each with its relative standard deviations; one of
        which nothing is uncertain has zeros.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    return (
        _side("edge", report, rows),
        _side("cloud", report, rows),
        _network(report.network, trace),
        _power(rows),
        _leakage(rows),
    )


def _side(name: str, report: SweepReport, rows: Sequence[CutReport]) -> UncertainPart:
    place = report.edge if name == "edge" else report.cloud
    timed = [
        stage
        for row in rows
        if row.latency_s is not None
        and (stage := row.latency_s.edge if name == "edge" else row.latency_s.cloud).median > 0
    ]
    if not timed:
        return UncertainPart(name, 0.0, 0.0, f"nothing runs on {place.device}")
    common, own = (statistics.median(s) for s in zip(*map(_time_spread, timed), strict=True))
    kinds = side_precisions(report, name, rows)
    if timed[0].source == "measured":
        text = f"{place.device}, measured: the spread of its repetitions"
        if len(set(kinds)) == 1:
            return UncertainPart(name, common, own, text)
        # Half of it is of the day that matters, half of the days on which each run was measured.
        common /= math.sqrt(2)
        return UncertainPart(
            name, common, own, f"{text}, each run by itself", dict.fromkeys(kinds, common)
        )
    apart: Mapping[str, float] = {}
    batches: Mapping[str, float] = {}
    if common or own:
        text = f"{place.device}, {timed[0].source}: the stated error of its device model"
        apart = precision_spreads(report, name, kinds)
        batches = batch_spreads(report.batch_of(row) for row in rows)
    else:
        text = f"{place.device}, {timed[0].source}: no error is stated, and none is assumed"
    if apart:
        told = ", ".join(f"{kind} {spread:.2g}" for kind, spread in apart.items())
        text += f", and one of each precision ({told})"
    if batches:
        told = ", ".join(f"{count} {spread:.2g}" for count, spread in batches.items())
        text += f", and one of several inputs at a time ({told})"
    return UncertainPart(name, common, own, text, apart, batches)


def _time_spread(time: Measurement) -> tuple[float, float]:
    """The common and the own part, as standard deviations of the logarithm."""
    if time.source == "measured" and time.count:
        spread = time.spread / 1.349
        if time.stability != "stable":
            spread = max(spread, UNSTEADY_SPREAD)
        # Machines are not the same from day to day; a repetition more does not show that.
        return spread, 1.2533 * spread / math.sqrt(time.count)
    stated = math.log(max(1.0, time.p95 / time.median)) / Z95
    return stated * math.sqrt(1 - OWN_SHARE), stated * math.sqrt(OWN_SHARE)


def _network(network: NetworkProfile, trace: Sequence[TraceSample] | None) -> UncertainPart:
    if trace is not None:
        rates = np.array([sample.uplink_bps for sample in trace])
        weights = np.array([sample.duration_s for sample in trace])
        mean = float(np.average(rates, weights=weights))
        spread = math.sqrt(float(np.average((rates - mean) ** 2, weights=weights))) / mean
        return UncertainPart("network", spread, 0.0, "the rates of the trace")
    known = "given" if network.uplink_spread is not None else f"usual of {network.radio}, assumed"
    return UncertainPart("network", network.spread, 0.0, f"spread of the rates, {known}")


def _power(rows: Sequence[CutReport]) -> UncertainPart:
    energies = [row.energy_j for row in rows if row.energy_j is not None]
    if not energies:
        return UncertainPart("power", 0.0, 0.0, "no energy figures")
    if _board_is_measured(rows):
        return UncertainPart(
            "power", 0.0, 0.0, "the board's power was measured; the radio's is a model's"
        )
    return UncertainPart("power", POWER_SPREAD, 0.0, "the model of the board's power, to a half")


def _board_is_measured(rows: Sequence[CutReport]) -> bool:
    """Whether joules were measured: only a device whose times were can say so."""
    return any(
        row.energy_j is not None
        and row.latency_s is not None
        and row.latency_s.edge.source == "measured"
        for row in rows
    )


def _leakage(rows: Sequence[CutReport]) -> UncertainPart:
    errors = [
        row.leakage.gain.standard_error / row.leakage.gain.value
        for row in rows
        if row.leakage is not None and row.leakage.gain.value > 0
    ]
    own = statistics.median(errors) if errors else 0.0
    text = "standard errors of FSInfo, intervals of the attacks" if rows else "no figures"
    return UncertainPart("leakage", 0.0, own, text)


def central_cases(report: SweepReport) -> Cases:
    """The one case in which every figure is what the report says.

    Args:
        report: A report.

    Returns:
        Cases of one.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    one = np.ones((1, 1))
    return Cases(
        edge_s=_times(rows, "edge")[None],
        cloud_s=_times(rows, "cloud")[None],
        link=np.ones((3, 1)),
        link_is_factor=True,
        power=one,
        radio=one,
        gain=_column(row.leakage.gain.value if row.leakage else math.nan for row in rows),
        ssim=_column(a.ssim if (a := row.strongest_attack) else math.nan for row in rows),
        fsinfo=_column(row.leakage.fsinfo.value if row.leakage else math.nan for row in rows),
        agreement=_column(math.nan if (share := agreement(row)) is None else share for row in rows),
    )


def draw_cases(
    report: SweepReport,
    parts: Sequence[UncertainPart],
    *,
    trace: Sequence[TraceSample] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
    leakage: bool = True,
    codec: bool = True,
    names: Collection[str] | None = None,
) -> Cases:
    """Draw cases from the stated errors; the same seed gives the same cases.

    Each part has random numbers of its own, so that what one part is does not change the others.

    Args:
        report: A report.
        parts: How uncertain it is.
        trace: The link's rates over time: cases are drawn from it by duration.
        draws: How many cases.
        seed: Of the random numbers.
        leakage: Whether leakage varies; where nothing asks for it that saves time.
        codec: Whether what the codec costs varies; likewise.
        names: Of the rows that are asked for; None for all. Their cases are the same either way.

    Returns:
        The cases.
    """
    rows = [row for row in report.cuts if is_valid(row)]
    kept = [k for k, row in enumerate(rows) if names is None or row.name in names]
    by_name = {part.name: part for part in parts}
    seeds = {name: (seed, place) for place, name in enumerate(PARTS)}
    sides = {
        name: side_cases(
            _times(rows, name),
            side_precisions(report, name, rows),
            [report.batch_of(row) for row in rows],
            by_name[name],
            draws,
            seeds[name],
            kept,
        )
        for name in ("edge", "cloud")
    }
    link, is_factor = _link_cases(
        report.network, by_name["network"], trace, draws, seeds["network"]
    )
    factors = normal(seeds["power"], (draws, 2))
    asked = [rows[k] for k in kept]
    middle = central_cases(replace(report, cuts=tuple(asked)))
    sends = any(row.energy_j and row.energy_j.radio for row in asked)
    if leakage:
        cuts = list(dict.fromkeys(row.cut.name for row in rows))
        numbers = normal(seeds["leakage"], (2, draws, len(cuts)))
        columns = [cuts.index(row.cut.name) for row in asked]
        middle = _leakage_cases(asked, middle, numbers[:, :, columns])
    return replace(
        middle,
        agreement=_agreement_cases(asked, middle, draws, seed) if codec else middle.agreement,
        edge_s=sides["edge"],
        cloud_s=sides["cloud"],
        link=link,
        link_is_factor=is_factor,
        power=np.exp(by_name["power"].common * factors[:, :1]),
        radio=np.exp(RADIO_SPREAD * factors[:, 1:]) if sends else middle.radio,
    )


def _times(rows: Sequence[CutReport], stage: str) -> Array:
    return np.array([
        0.0 if row.latency_s is None else getattr(row.latency_s, stage).median for row in rows
    ])


def _column(values: Iterable[float]) -> Array:
    return np.array(list(values), dtype=np.float64)[None]


def _link_cases(
    network: NetworkProfile,
    part: UncertainPart,
    trace: Sequence[TraceSample] | None,
    draws: int,
    seed: tuple[int, int],
) -> tuple[Array, bool]:
    if trace is None:
        rate, rtt = np.exp(part.common * normal(seed, (2, draws)))
        return np.stack([rate, rate, rtt]), True
    rates = np.array([sample.over(network) for sample in trace])
    weights = np.array([sample.duration_s for sample in trace])
    picked = np.random.default_rng(seed).choice(len(rates), size=draws, p=weights / weights.sum())
    return rates[picked].T, False


def _agreement_cases(rows: Sequence[CutReport], middle: Cases, draws: int, seed: int) -> Array:
    """Shares that the pictures leave open; a row without a codec has none to draw."""
    found = np.repeat(middle.agreement, draws, axis=0)
    for column, row in enumerate(rows):
        loss = row.codec_loss
        if loss is not None and loss.same_class is not None:
            kept = round(loss.images * loss.same_class)
            # Rows with the same count have the same cases: nothing tells one from the other.
            found[:, column] = _shares(kept, loss.images, draws, (seed, len(PARTS)))
    return found


@lru_cache(maxsize=256)
def _shares(kept: int, images: int, draws: int, seed: tuple[int, ...]) -> Array:
    numbers = np.random.default_rng(seed)
    return numbers.beta(kept + 0.5, images - kept + 0.5, size=draws)


def _leakage_cases(rows: Sequence[CutReport], middle: Cases, normal: Array) -> Cases:
    """With gain, SSIM and FSInfo. Gain and FSInfo are of one determinant, so they err together."""
    gain_error = _column(row.leakage.gain.standard_error if row.leakage else 0.0 for row in rows)
    fsinfo_error = _column(
        row.leakage.fsinfo.standard_error if row.leakage else 0.0 for row in rows
    )
    ssim_error = _column(
        (a.ssim_ci95[1] - a.ssim_ci95[0]) / (2 * Z95) if (a := row.strongest_attack) else 0.0
        for row in rows
    )
    one, other = normal
    ssim = np.clip(middle.ssim + ssim_error * other, -1.0, 1.0)
    gain, fsinfo = middle.gain + gain_error * one, middle.fsinfo + fsinfo_error * one
    return replace(middle, gain=gain, ssim=ssim, fsinfo=fsinfo)
