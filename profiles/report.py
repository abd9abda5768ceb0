"""The report of a sweep: what was found of every cut, and what was recommended.

These classes are the shape of ``report.json`` (schema version 1); ``splitdeploy.profiles.store``
reads and writes it. Rendering and recommending read them and compute nothing of the model again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitdeploy.profiles.bandwidth_trace import TraceOutcome
from splitdeploy.profiles.certainty import Certainty
from splitdeploy.profiles.codec_record import CodecRecord
from splitdeploy.profiles.cut import CutPoint
from splitdeploy.profiles.figure import Figure
from splitdeploy.profiles.measurement import Measurement, Source
from splitdeploy.profiles.message_cost import MessageCost
from splitdeploy.profiles.network import NetworkProfile

SCHEMA_VERSION = 1

UNCOMPUTED = "FSInfo without a prior not computed"
"""How the note of a leakage begins whose missing ``exact_fsinfo`` may be finite."""


HALVES, PIECES = "halves", "pieces"
"""What a verification ran."""


@dataclass(frozen=True)
class Verification:
    """Whether the tail on the head's output equals the whole model, tensor by tensor.

    Attributes:
        ok: Whether every output agrees within tolerance and is finite.
        max_abs_error: The largest absolute difference over all outputs and photographs.
        max_rel_error: The largest difference over the largest magnitude of its output tensor.
        images: How many photographs it was tried on.
        ran: ``halves``, the head and the tail as they are; or ``pieces``, the same nodes in pieces
            from each cut to the next, so that one run verifies all cuts.
    """

    ok: bool
    max_abs_error: float
    max_rel_error: float
    images: int
    ran: str = HALVES


@dataclass(frozen=True)
class StageLatency:
    """Seconds of one request, stage by stage: of all its inputs, where it has several."""

    edge: Measurement
    uplink: Measurement
    cloud: Measurement
    downlink: Measurement
    total: Measurement


@dataclass(frozen=True)
class Energy:
    """Joules that one inference costs the device: computing, and sending and receiving.

    Of a request of several inputs, its share for each.
    """

    compute: float
    radio: float
    total: float
    source: Source


@dataclass(frozen=True)
class Estimate:
    """An estimated value and its standard error (both finite)."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class LeakageRecord:
    """What the smashed data of a cut says about the input.

    Attributes:
        fsinfo: Mean over the images of (1/2d)·ln det(J_prior + I(x)) − ½·ln(2πe), in nats per
            input element: FSInfo with the Fisher information of a declared prior added, so that it
            is finite where the head loses information. Higher is worse.
        gain: Mean over the images of (1/2d)·ln det(1 + J_prior^-½ I(x) J_prior^-½), in nats per
            input element: what the smashed data adds to the prior. Zero where nothing leaks.
        exact_fsinfo: FSInfo as published, without a prior; None where it is minus infinity,
            because the head's Jacobian has not full rank, or where it was not computed, which
            ``notes`` says.
        rank_at_most: An upper bound on the rank of the Jacobian, over all images.
        dimensions: Input elements, d.
        dfil: Diagonal Fisher information leakage, trace(I)/d, averaged over the images.
        fil_max: The largest eigenvalue of I over the images, a lower estimate by Lanczos.
        noise_sigma: The standard deviation of the noise on the smashed data, relative to what
            ``noise`` says.
        noise: Where the noise comes from, in words.
        prior: The prior, in words.
        images: How many images stand behind the figures.
        mse_lower_bound: What no attacker's mean squared error on [0, 1] falls below, if pictures
            follow the prior; estimated from the images.
        steps: Quadrature steps behind ``gain``; more narrow its error.
        notes: What a reader has to know besides: a deadline that came, a rank that is not full.
        bayesian_fsinfo: (1/2d)·ln det(J_prior + mean of I(x)) − ½·ln(2πe), in nats per input
            element: at least minus the attacker's remaining uncertainty per element, for any
            attacker and pictures that follow the prior; None where it was not asked for.
        figures: The whole family in one table: those above and their kin, each with its unit and
            the attackers that it binds; empty in reports of before there was one.
    """

    fsinfo: Estimate
    gain: Estimate
    exact_fsinfo: Estimate | None
    rank_at_most: int
    dimensions: int
    dfil: Estimate
    fil_max: float
    noise_sigma: float
    noise: str
    prior: str
    images: int
    mse_lower_bound: float | None = None
    steps: int = 0
    notes: tuple[str, ...] = ()
    bayesian_fsinfo: Estimate | None = None
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class AttackRecord:
    """One attack on one cut, judged on [0, 1].

    Attributes:
        name: The attack: ``rmle``.
        preset: Its settings by name.
        threat_model: What the attacker knows, in words.
        psnr_db: Mean peak signal-to-noise ratio over the images.
        ssim: Mean structural similarity (Gaussian window 11, sigma 1.5, range 1).
        mse: Mean squared error.
        ssim_ci95: A 95 % interval for the mean of ``ssim``.
        images: How many images were attacked.
        seconds: What it took.
        converged: Whether its own loss had stopped falling when it ended.
        oracle: Whether the ground truth chose anything; always False in a sweep.
        steps: How many optimisation steps it made; 0 where it has none.
        picture: The file with originals and reconstructions, relative to the run folder.
        psnr_ci95_db: A 95 % interval for the mean of ``psnr_db``; None where it was not taken.
        mse_ci95: A 95 % interval for the mean of ``mse``.
        lpips: Mean perceptual distance, 0 for the same; None where its network is not at hand.
        identified: The share of originals that their reconstructions pick out of a gallery.
        identified_ci95: A 95 % interval for it (Wilson).
        identified_chance: The share that random picking would tell: one over the gallery.
        class_kept: The share of reconstructions in which a classifier sees the original's class.
        verdict: What it means, in words.
        notes: What a reader has to know besides: a divergence, whose classifier told the class.
    """

    name: str
    preset: str
    threat_model: str
    psnr_db: float
    ssim: float
    mse: float
    ssim_ci95: tuple[float, float]
    images: int
    seconds: float
    converged: bool
    oracle: bool = False
    steps: int = 0
    picture: str | None = None
    psnr_ci95_db: tuple[float, float] | None = None
    mse_ci95: tuple[float, float] | None = None
    lpips: float | None = None
    identified: float | None = None
    identified_ci95: tuple[float, float] | None = None
    identified_chance: float | None = None
    class_kept: float | None = None
    verdict: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """The best reconstruction that needs no smashed data: a flat colour, the mean image."""

    psnr_db: float
    ssim: float
    mse: float


def row_name(cut: str, precision: str | None, batch: int | None = None) -> str:
    """The name of a row: ``layer2.1``, or ``layer2.1@int8`` where several runs are compared.

    Args:
        cut: The cut's name.
        precision: Of its run; None where there is one run.
        batch: Inputs a request of its run; None where all runs have as many.

    Returns:
        The name, such as ``layer2.1@int8@b8``.
    """
    parts = [cut, *([] if precision is None else [precision])]
    return "@".join([*parts, *([] if batch is None else [f"b{batch}"])])


@dataclass(frozen=True)
class CutReport:
    """Everything that is known of one cut. A failed one keeps its row, with ``error`` set.

    ``attack_notes`` say which attacks were not run, and why. ``precision`` and ``run``, the folder,
    are told where the rows of several runs stand in one report, and ``batch`` where these differ in
    it. ``edge_memory_bytes`` is what a whole request takes.
    """

    cut: CutPoint
    uplink_bps_needed: float | None = None
    verified: Verification | None = None
    latency_s: StageLatency | None = None
    energy_j: Energy | None = None
    edge_memory_bytes: int | None = None
    leakage: LeakageRecord | None = None
    attacks: tuple[AttackRecord, ...] = ()
    baseline: Baseline | None = None
    feasible: bool = True
    violations: tuple[str, ...] = ()
    error: str | None = None
    attack_notes: tuple[str, ...] = ()
    codec_loss: CodecRecord | None = None
    precision: str | None = None
    run: str | None = None
    batch: int | None = None

    @property
    def name(self) -> str:
        """The cut's name; with precision and batch behind it where several are compared."""
        return row_name(self.cut.name, self.precision, self.batch)

    @property
    def strongest_attack(self) -> AttackRecord | None:
        """The attack with the highest SSIM, or None where none was run."""
        return max(self.attacks, key=lambda a: a.ssim, default=None)


@dataclass(frozen=True)
class Constraints:
    """Hard limits; None where there is none.

    Attributes:
        max_latency_s: On the median of the total latency.
        max_energy_j: On the device's total energy an inference, a request's share for each input.
        max_edge_memory_bytes: On what the head occupies on the device.
        max_ssim: On the SSIM of the strongest attack that was run.
        max_fsinfo: On ``LeakageRecord.fsinfo``.
        min_agreement: The least share of pictures that keep their class with the codec.
        confidence: With which probability each limit has to hold under the stated errors; None
            where the central figures have to hold it.
    """

    max_latency_s: float | None = None
    max_energy_j: float | None = None
    max_edge_memory_bytes: int | None = None
    max_ssim: float | None = None
    max_fsinfo: float | None = None
    confidence: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class Objective:
    """What to minimise among the feasible cuts.

    Attributes:
        name: ``latency``, ``energy``, ``leakage``, ``balanced``, or ``throughput``: the most
            inputs a second when the stages work side by side.
        weight_latency: Weight of latency in ``balanced``.
        weight_energy: Weight of energy in ``balanced``.
        weight_leakage: Weight of leakage in ``balanced``.
    """

    name: str = "balanced"
    weight_latency: float = 1.0
    weight_energy: float = 1.0
    weight_leakage: float = 1.0


@dataclass(frozen=True)
class Recommendation:
    """The pick, why, and how far it holds.

    Attributes:
        cut: The name of its row.
        why: The reasons, one sentence each.
        warnings: What the pick rests on that should not be relied on.
        runner_up: The second best, or None.
        stable_while: For each quantity the interval in which the pick stays the same, all else
            fixed: ``{"uplink_bps": (low, high)}``; ``high`` is None where there is no upper end.
        objective: The name of the objective.
        certainty: How sure the pick is under the errors of its figures; None in reports of before.
        trace: What a bandwidth trace makes of every cut; None without one.
        precision: Of the pick, where several were compared.
        run: The run folder that the pick is from, where several were compared.
        batch: Inputs a request of the pick, where several were compared.
    """

    cut: str
    why: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    runner_up: str | None = None
    stable_while: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    objective: str = "balanced"
    certainty: Certainty | None = None
    trace: TraceOutcome | None = None
    precision: str | None = None
    run: str | None = None
    batch: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The model that was swept. ``weights`` says in words where they come from."""

    name: str
    weights: str
    weights_sha256: str
    input_shape: tuple[int, ...]
    input_dtype: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class PlaceInfo:
    """A device or cloud that ran (or was simulated to run) one side.

    Attributes:
        device: Its profile's name.
        precision: ``fp32``, ``fp16`` or ``int8``.
        power_mode: By name; None where it has none.
        source: Where its latencies come from.
        note: What its figures were validated against, and their error, in words.
        messages: What of its times a request costs it beside computing; None where that is not
            known and not in them.
    """

    device: str
    precision: str
    power_mode: str | None
    source: Source
    note: str = ""
    messages: MessageCost | None = None


@dataclass(frozen=True)
class SweepReport:
    """A whole run. ``warnings`` are repeated wherever the report is shown.

    ``result_bytes`` is what the downlink carries for one inference; None stands for the payload of
    the row ``edge-only``. ``return_at`` is the second cut, behind which the edge computes again:
    every row then has what comes back there; None where there is one cut. ``batch`` is how many
    inputs a request has; rows of runs that differ in it tell their own.
    """

    created: str
    command: tuple[str, ...]
    environment: Mapping[str, Any]
    seed: int
    model: ModelInfo
    edge: PlaceInfo
    cloud: PlaceInfo
    network: NetworkProfile
    cuts: tuple[CutReport, ...]
    constraints: Constraints = Constraints()
    objective: Objective = Objective()
    pareto: tuple[str, ...] = ()
    recommendation: Recommendation | None = None
    warnings: tuple[str, ...] = ()
    result_bytes: int | None = None
    return_at: str | None = None
    batch: int = 1

    def batch_of(self, row: CutReport) -> int:
        """How many inputs a request of a row has."""
        return self.batch if row.batch is None else row.batch

    def find(self, name: str) -> CutReport:
        """The row of a cut.

        Args:
            name: The cut's name.

        Returns:
            Its row.

        Raises:
            KeyError: There is no such cut in the report.
        """
        for row in self.cuts:
            if row.name == name:
                return row
        raise KeyError(name)
