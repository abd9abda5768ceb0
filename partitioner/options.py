"""What a sweep is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitdeploy.partitioner.lent import Lent
from splitdeploy.partitioner.remote.options import RemoteOptions
from splitdeploy.profiles.bandwidth_trace import TraceSample
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.report import Constraints, Objective


@dataclass(frozen=True)
class ProfileOptions:
    """The settings of one sweep.

    Attributes:
        model: A torchvision name, ``package.module:factory``, a ``.pt2`` or an ``.onnx`` file.
        device: ``local``, a device profile's name or ``ssh://user@host``; resolved, not an alias.
        cloud: ``local`` or a device profile's name.
        precision: What the edge computes and sends in: ``fp32``, ``fp16`` or ``int8``.
        power_mode: Of the edge, by name; None for its default.
        network: Between edge and cloud.
        cuts: ``block``, ``layer``, ``op``, or names with commas between them.
        weights: ``auto``, ``none`` or a file.
        input_shape: Without the batch; None for the model's own.
        images: A folder; None for the photographs that scikit-image carries.
        labels: A CSV file with the columns ``file`` and ``label``, for pictures of the folder; None
            where there are none, or where the folder has one sub-folder a class.
        image_count: How many pictures are verified, measured and attacked.
        budget_s: Seconds that the whole sweep may take; attacks get what the rest leaves.
        privacy: Whether leakage is measured and attacks are run.
        noise: What the smashed data carries: a precision, ``snr:DB`` or ``sigma:VALUE``.
        queries: How often each picture is sent, with fresh noise: its information counts so often.
        fps: Inputs a second of a stream; None where there is none. A schedule over a trace has one
            a second then.
        batch: Inputs that a request carries: the latency is that of the request, energy, payload
            and throughput are an input's.
        constraints: Hard limits.
        objective: What to minimise.
        trace: The link over time, for whose medians the decision is made; None for ``network``.
        switch_cost_s: What a change of the cut costs in a schedule over the trace.
        return_at: A second cut, behind which the edge computes again; None where there is one cut.
        lent: What the attacker has of his own: pictures, a generator.
        seed: Of everything random.
        remote: How a device behind ssh is reached.
        resume: Whether to go on where an interrupted sweep of the same settings stopped.
    """

    model: str
    device: str = "jetson-orin-nano"
    cloud: str = "t4"
    precision: str = "fp16"
    power_mode: str | None = None
    network: NetworkProfile = NETWORKS["wifi"]
    cuts: str = "block"
    weights: str = "auto"
    input_shape: tuple[int, ...] | None = None
    images: Path | None = None
    labels: Path | None = None
    image_count: int = 4
    budget_s: float = 60.0
    privacy: bool = True
    noise: str = "snr:30"
    queries: int = 1
    fps: float | None = None
    batch: int = 1
    constraints: Constraints = Constraints()
    objective: Objective = Objective()
    trace: tuple[TraceSample, ...] | None = None
    switch_cost_s: float = 0.0
    return_at: str | None = None
    lent: Lent = Lent()
    remote: RemoteOptions = RemoteOptions()
    seed: int = 0
    resume: bool = False
