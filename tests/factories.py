"""Reports made by hand, with plausible figures, for tests that need no model."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint, TensorSpec
from splitdeploy.profiles.figure import Figure
from splitdeploy.profiles.measurement import Measurement
from splitdeploy.profiles.network import NETWORKS, NetworkProfile
from splitdeploy.profiles.power import radio_energy_j
from splitdeploy.profiles.report import (
    AttackRecord,
    Baseline,
    CutReport,
    Energy,
    Estimate,
    LeakageRecord,
    ModelInfo,
    PlaceInfo,
    StageLatency,
    SweepReport,
    Verification,
)

MACS = 1_814_073_344
RESULT_BYTES = 4000
DIMENSIONS = 3 * 224 * 224

# name, boundary shape, share of the MACs in the head, edge ms, cloud ms, gain, SSIM, converged
RESNET18 = (
    (CLOUD_ONLY, (1, 3, 224, 224), 0.000, 0.00, 2.10, 4.61, 1.000, True),
    ("maxpool", (1, 64, 56, 56), 0.065, 0.42, 1.93, 3.72, 0.941, True),
    ("layer1.0", (1, 64, 56, 56), 0.193, 0.86, 1.66, 3.41, 0.902, True),
    ("layer1.1", (1, 64, 56, 56), 0.320, 1.31, 1.40, 3.08, 0.853, True),
    ("layer2.0", (1, 128, 28, 28), 0.419, 1.66, 1.19, 1.61, 0.702, True),
    ("layer2.1", (1, 128, 28, 28), 0.547, 2.05, 0.97, 1.42, 0.618, True),
    ("layer3.0", (1, 256, 14, 14), 0.646, 2.38, 0.78, 0.70, 0.437, False),
    ("layer3.1", (1, 256, 14, 14), 0.774, 2.79, 0.55, 0.61, 0.371, False),
    ("layer4.0", (1, 512, 7, 7), 0.873, 3.21, 0.36, 0.29, 0.268, False),
    ("layer4.1", (1, 512, 7, 7), 0.999, 3.74, 0.12, 0.23, 0.219, False),
    ("avgpool", (1, 512, 1, 1), 0.9997, 3.79, 0.08, 0.019, 0.181, False),
    (EDGE_ONLY, (1, 1000), 1.000, 3.85, 0.00, 0.012, 0.164, False),
)


def make_report(
    network: NetworkProfile = NETWORKS["wifi"],
    *,
    pictures: bool = False,
    rows: tuple[tuple[object, ...], ...] = RESNET18,
) -> SweepReport:
    """A sweep of ResNet-18, undecided: twelve rows, nothing failed."""
    return SweepReport(
        created="2025-03-01T12:00:00+00:00",
        command=("splitdeploy", "profile", "resnet18", "--device", "jetson"),
        environment={"python": "3.11.4", "torch": "2.9.0", "onnxruntime": "1.22.0", "cores": 2},
        seed=0,
        model=ModelInfo(
            name="resnet18",
            weights="IMAGENET1K_V1",
            weights_sha256="f37072fd" * 8,
            input_shape=(1, 3, 224, 224),
            input_dtype="float32",
            parameters=11_689_512,
            macs=MACS,
        ),
        edge=PlaceInfo(
            "jetson-orin-nano", "fp16", "15W", "simulated",
            "the constants of this board were not fitted to latencies measured on it",
        ),
        cloud=PlaceInfo("t4", "fp16", None, "predicted", "roofline of published peak figures"),
        network=network,
        cuts=tuple(make_row(index, *row, network=network, picture=pictures)  # type: ignore[arg-type]
                   for index, row in enumerate(rows)),
        warnings=("The attack had 4 photographs.",),
        result_bytes=RESULT_BYTES,
    )  # fmt: skip


def make_row(
    index: int,
    name: str,
    shape: tuple[int, ...],
    head_share: float,
    edge_ms: float,
    cloud_ms: float,
    gain: float,
    ssim: float,
    converged: bool,
    *,
    network: NetworkProfile,
    picture: bool = False,
) -> CutReport:
    """One row, its network figures computed the way a sweep does."""
    tensor = TensorSpec("input" if name == CLOUD_ONLY else f"{name}.out", shape, "float16")
    sends = name != EDGE_ONLY
    up_s = network.uplink_s(tensor.bytes) if sends else 0.0
    down_s = network.downlink_s(RESULT_BYTES) if sends else 0.0
    radio = radio_energy_j(network, tensor.bytes if sends else 0, RESULT_BYTES if sends else 0)
    edge_s, cloud_s = edge_ms / 1e3, cloud_ms / 1e3
    compute = 0.5e-3 + 7.5 * edge_s
    head_macs = round(MACS * head_share)
    return CutReport(
        cut=CutPoint(name, index, (tensor,), tensor.bytes, head_macs, MACS - head_macs,
                     round(11.7e6 * head_share**2), 3_211_264, index * 6),
        uplink_bps_needed=tensor.bytes * 8 * 30 if sends else 0.0,
        verified=Verification(True, 1.2e-5, 3.1e-6, 4),
        latency_s=StageLatency(
            edge=Measurement.single(edge_s, "simulated", edge_s * 1.1),
            uplink=Measurement.single(up_s, "predicted"),
            cloud=Measurement.single(cloud_s, "predicted"),
            downlink=Measurement.single(down_s, "predicted"),
            total=Measurement.single(
                edge_s + up_s + cloud_s + down_s, "simulated",
                edge_s * 1.1 + up_s + cloud_s + down_s,
            ),
        ),
        energy_j=Energy(compute, radio, compute + radio, "simulated"),
        edge_memory_bytes=round(23.4e6 * head_share**2) + 6_422_528,
        leakage=make_leakage(gain, shape),
        attacks=(make_attack(name, ssim, converged, picture),),
        baseline=Baseline(12.9, 0.161, 0.0512),
    )  # fmt: skip


def make_leakage(gain: float, shape: tuple[int, ...]) -> LeakageRecord:
    elements = math.prod(shape)
    return LeakageRecord(
        fsinfo=Estimate(gain - 1.9, 0.02 + 0.03 * gain),
        gain=Estimate(gain, 0.02 + 0.03 * gain),
        exact_fsinfo=Estimate(gain - 1.95, 0.05) if elements >= DIMENSIONS else None,
        rank_at_most=min(elements, DIMENSIONS),
        dimensions=DIMENSIONS,
        dfil=Estimate(math.exp(2 * gain) / 50, 0.4),
        fil_max=math.exp(2 * gain),
        noise_sigma=0.01,
        noise="1 % of the smashed data's root mean square",
        prior="smoothness of photographs (DCT, variance by frequency)",
        images=4,
        notes=("no bayesian FSInfo for lack of time: a longer budget gives it",),
        figures=make_figures(gain, elements),
    )


def make_figures(gain: float, elements: int) -> tuple[Figure, ...]:
    """Some of the family: with and without an error, infinite, binding each kind of attacker."""
    share = min(1.0, elements / DIMENSIONS)
    full = elements >= DIMENSIONS
    return (
        Figure("gain", "what is added", gain, 0.02 + 0.03 * gain, "nats/d", "", "prior", 4),
        Figure(
            "exact_fsinfo", "without a prior", gain - 1.95 if full else -math.inf, 0.0, "nats/d",
            "unbiased", "local", 4,
        ),
        Figure("rank_share", "directions that pass", share, 0.0, "share", "", "local", 4),
        Figure("fil_max", "largest eigenvalue", math.exp(2 * gain), None, "1/MSE", "", "local", 4),
        Figure("distance_correlation", "squared", 0.9, 0.03, "1", "", "samples", 32),
        Figure(
            "mse_van_trees", "error at least", math.exp(-2 * gain) / 20, None, "MSE", "any",
            "prior", 4,
        ),
    )  # fmt: skip


def make_attack(cut: str, ssim: float, converged: bool, picture: bool = False) -> AttackRecord:
    perfect = ssim == 1.0
    mse = 0.0 if perfect else 0.08 * (1 - ssim) ** 1.5
    return AttackRecord(
        name="rmle",
        preset="sweep",
        threat_model="white box: knows the head and its weights, sees the smashed data",
        psnr_db=math.inf if perfect else -10 * math.log10(mse),
        ssim=ssim,
        mse=mse,
        ssim_ci95=(1.0, 1.0) if perfect else (max(0.0, ssim - 0.05), min(1.0, ssim + 0.05)),
        images=4,
        seconds=0.0 if perfect else 2.4,
        converged=converged,
        steps=0 if perfect else 300,
        picture=f"reconstructions/{cut}/rmle.png" if picture and not perfect else None,
    )


def only(report: SweepReport, *names: str) -> SweepReport:
    """The report with these rows alone."""
    return replace(report, cuts=tuple(row for row in report.cuts if row.name in names))


def with_row(report: SweepReport, name: str, **changes: object) -> SweepReport:
    """The report with one row changed."""
    return replace(
        report,
        cuts=tuple(
            replace(row, **changes) if row.name == name else row  # type: ignore[arg-type]
            for row in report.cuts
        ),
    )


def write_png(path: Path, width: int, height: int) -> None:
    """A small picture with a gradient, written without an image library."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (x * 255 // width, y * 255 // height, 128))
        for y in range(height)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
