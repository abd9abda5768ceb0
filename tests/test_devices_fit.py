"""A device of one's own: a truth that made the latencies comes back, and its file is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import MODEL, SMALL, splitdeploy
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.partitioner.device_fit import (
    LEAST_HEADS,
    FittedDevice,
    MeasuredHead,
    fit_device,
    measured_latencies,
)
from splitdeploy.profiles.device import DEVICES, DeviceProfile, ModelConstants, find_device
from splitdeploy.profiles.device_file import device_to_json, read_device, read_rows
from splitdeploy.profiles.errors import ReportError, UnknownNameError, UsageError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.simulate import simulate_latency
from splitdeploy.profiles.store import read_report, write_report
from splitdeploy.profiles.validation import validated_rows

NANO = DEVICES["jetson-nano"]
XAVIER = DEVICES["jetson-agx-xavier"]


def layers(count: int) -> list[KernelGroup]:
    """A net whose layers lean on arithmetic, on memory and on launches, each to its own degree."""
    generator = np.random.default_rng(0)
    found = []
    for place in range(count):
        size, wide = (int(10 ** generator.uniform(4, 6)) for _ in range(2))
        macs = int(size * 10 ** generator.uniform(1, 3))
        found += [
            KernelGroup(f"c{place}", "conv", macs, size, size, 9 * 64**2, 64, 9, 1, 576),
            KernelGroup(f"p{place}", "pointwise", macs // 20, size, wide, 64**2, 64, 1, 1, 64),
            KernelGroup(f"e{place}", "elementwise", 0, 4 * wide, 4 * wide, 0, 64),
            KernelGroup(f"s{place}", "elementwise", 0, 64, 64, 0, 64),
        ]
    return found


def heads(truth: DeviceProfile, precision: str, count: int = 12) -> list[MeasuredHead]:
    groups = layers(count)
    return [
        MeasuredHead(f"layer{place}", part, _latency_s(part, truth, precision))
        for place, part in ((n, tuple(groups[: 4 * n])) for n in range(1, count + 1))
    ]


def _latency_s(groups: Any, device: DeviceProfile, precision: str) -> float:
    return simulate_latency(groups, device, precision=precision).latency_s


def fitted(measured: list[MeasuredHead], like: DeviceProfile, precision: str) -> FittedDevice:
    return fit_device(
        measured, like, name="mine", title="Mine", precision=precision, power_mode=None,
        origin="layers, made",
    )  # fmt: skip


def truth_of(like: DeviceProfile, **changed: float) -> DeviceProfile:
    mode = replace(like.mode(), gpu_mhz=like.max_gpu_mhz, bandwidth_share=1.0)
    return replace(
        like,
        constants=replace(like.constants, **changed),
        modes={mode.name: mode},
        default_mode=mode.name,
        precision_time={},
    )


def test_constants_that_made_the_latencies_come_back() -> None:
    constants = {
        "compute_efficiency": 0.31, "memory_efficiency": 0.82, "launch_s": 8e-6, "sync_s": 4e-4,
    }  # fmt: skip
    found = fitted(heads(truth_of(NANO, **constants), "fp16"), NANO, "fp16")
    for name, value in constants.items():
        assert getattr(found.device.constants, name) == pytest.approx(value, rel=0.05), name
    assert found.device.error.fitted_worst < 0.002
    assert found.device.error.left_out_worst < 0.05
    assert found.device.constants.winograd_gain == NANO.constants.winograd_gain


def test_a_machine_a_hundred_times_slower_than_the_lender_is_met() -> None:
    truth = truth_of(
        XAVIER, compute_efficiency=0.004, memory_efficiency=0.02, launch_s=2e-6, sync_s=1e-5
    )
    found = fitted(heads(truth, "fp32"), XAVIER, "fp32")
    assert found.device.error.fitted_worst < 0.01
    unseen = tuple(layers(20))
    assert _latency_s(unseen, found.device, "fp32") == pytest.approx(
        _latency_s(unseen, truth, "fp32"), rel=0.03
    )


def test_a_power_mode_of_the_lender_does_not_slow_the_new_device() -> None:
    orin = DEVICES["jetson-orin-nano"]
    found = fitted(heads(truth_of(orin), "fp16"), orin, "fp16")
    assert found.device.mode().gpu_mhz == orin.max_gpu_mhz
    assert found.device.precision_time == {}
    assert found.device.derived_from is None
    assert "Other models, precisions and power modes are not validated" in found.device.validation


def test_depthwise_is_fitted_where_a_head_has_it_and_lent_elsewhere() -> None:
    wide = KernelGroup("d", "depthwise", 10**8, 10**6, 10**6, 9 * 64, 64, 9, 1, 9)
    truth = truth_of(XAVIER, depthwise_efficiency=0.012)
    plain = heads(truth, "fp16")
    parts = [(*head.groups, *(wide,) * (place % 4)) for place, head in enumerate(plain)]
    mixed = [
        MeasuredHead(head.name, part, _latency_s(part, truth, "fp16"))
        for head, part in zip(plain, parts, strict=True)
    ]
    with_it = fitted(mixed, XAVIER, "fp16").device
    assert with_it.constants.depthwise_efficiency == pytest.approx(0.012, rel=0.1)
    assert with_it.provenance["depthwise_efficiency"].startswith("fitted to 12 measured heads")
    without = fitted(plain, XAVIER, "fp16").device
    assert without.constants.depthwise_efficiency == XAVIER.constants.depthwise_efficiency
    assert "not fitted" in without.provenance["depthwise_efficiency"]


def test_every_number_of_a_fitted_device_has_its_provenance() -> None:
    device = fitted(heads(truth_of(NANO), "fp16"), NANO, "fp16").device
    named = {"peak_flops", "bandwidth_bytes_per_s", "multiprocessors", "modes", "idle_w", "error"}
    assert named | set(vars(device.constants)) <= device.provenance.keys()
    assert "Jetson Nano" in device.provenance["peak_flops"]


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    found = fitted(heads(truth_of(NANO), "fp16"), NANO, "fp16")
    path = tmp_path / "mine.json"
    path.write_text(device_to_json(found.device, found.rows))
    assert read_device(path) == found.device
    assert find_device(str(path)) == found.device
    assert read_rows(path) == found.rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "expected a splitdeploy device of schema_version 1"),
        ({"document": "run"}, "expected a splitdeploy device of schema_version 1, got 'run'"),
        ({"max_gpu_mhz": 0}, r"at \$.max_gpu_mhz: expected more than zero"),
        ({"bandwidth_bytes_per_s": "fast"}, r"at \$.bandwidth_bytes_per_s: expected a number"),
        ({"peak_flops": {"fp32": 1e9}}, "expected one of fp32, got 'fp16'"),
        ({"default_mode": "MAXN"}, "expected one of as measured, got 'MAXN'"),
        ({"constants": {}}, "expected the key 'compute_efficiency'"),
    ],
)
def test_a_file_with_something_wrong_says_where(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    found = fitted(heads(truth_of(NANO), "fp16", 6), NANO, "fp16")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(json.loads(device_to_json(found.device, ())) | change))
    with pytest.raises(ReportError, match=message):
        read_device(path)


@given(st.binary(max_size=80))
def test_any_file_at_all_is_a_device_or_a_clear_error(content: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        Path(file.name).write_bytes(content)
        with pytest.raises(ReportError, match="no JSON|expected"):
            read_device(Path(file.name))


def test_a_file_that_is_not_there_says_how_to_make_one() -> None:
    with pytest.raises(UsageError, match="cannot be read .*splitdeploy devices fit RUN"):
        find_device("nowhere.json")
    with pytest.raises(UnknownNameError, match="or a FILE.json of your own"):
        find_device("nowhere")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was measured here, its latencies replaced by those of a known truth."""
    out = tmp_path_factory.mktemp("run") / "run"
    done = splitdeploy(
        "profile", MODEL, *SMALL, "--device", "local", "--cloud", "local", "--no-privacy",
        "--budget", "10s", "--out", out, "-q",
    )  # fmt: skip
    assert done.code == 0, done.err
    return out


def test_a_measured_run_becomes_a_device_that_profile_takes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    done = splitdeploy("devices", "fit", run, "--name", "my-board", "--out", out)
    assert done.code == 0, done.err
    assert "left out" in done.out
    assert f"written: {out}; take it with --device {out}" in done.err
    device = read_device(out)
    assert (device.name, device.fitted_precision, device.idle_w) == ("my-board", "fp32", None)
    assert {row.name for row in read_rows(out)} == measured_latencies(read_report(run)).keys()
    shown = splitdeploy("devices", str(out))
    assert shown.code == 0, shown.err
    assert "measured" in shown.out
    again = splitdeploy(
        "profile", MODEL, *SMALL, "--device", out, "--no-privacy", "--cuts", "pool",
        "--objective", "latency", "--out", tmp_path / "again", "-q",
    )  # fmt: skip
    assert again.code == 0, again.err
    report = read_report(tmp_path / "again")
    assert (report.edge.device, report.edge.source) == ("my-board", "simulated")
    assert report.edge.precision == "fp32"
    assert "not validated" in report.edge.note


def test_latencies_of_a_known_truth_come_back_through_the_command(
    run: Path, tmp_path: Path
) -> None:
    from splitdeploy.partitioner.head_kernels import head_kernels

    report = read_report(run)
    truth = truth_of(NANO, compute_efficiency=0.2, launch_s=5e-6)
    groups = head_kernels(report, measured_latencies(report))
    rows = []
    for row in report.cuts:
        if row.name in groups and row.latency_s is not None:
            latency_s = _latency_s(groups[row.name], truth, "fp32")
            edge = replace(row.latency_s.edge, median=latency_s, p95=latency_s)
            row = replace(row, latency_s=replace(row.latency_s, edge=edge))
        rows.append(row)
    made = tmp_path / "made"
    made.mkdir()
    # Known latencies of heads, without messages.
    edge = replace(report.edge, messages=None)
    write_report(replace(report, edge=edge, cuts=tuple(rows)), made / "report.json")
    out = tmp_path / "made.json"
    done = splitdeploy("devices", "fit", made, "--name", "m", "--like", "jetson-nano", "--out", out)
    assert done.code == 0, done.err
    for row in read_rows(out):
        assert row.simulated_s == pytest.approx(row.measured_s, rel=0.01)
        assert row.left_out_s == pytest.approx(row.measured_s, rel=0.1)


def test_another_model_than_that_of_the_run_is_refused(run: Path, tmp_path: Path) -> None:
    done = splitdeploy(
        "devices", "fit", run, "--name", "m", "--out", tmp_path / "m.json", "--model", "resnet18"
    )
    assert done.code in {1, 2}
    assert "error: " in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--name", "jetson-nano", "--out", "m.json"),
            "expected a name that is free, 'jetson-nano'",
        ),
        (("--name", "My Board", "--out", "m.json"), "expected a device's name of small letters"),
        (("--name", "m", "--out", "m.txt"), "expected --out with a name that ends in .json"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    flags: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = splitdeploy("devices", "fit", tmp_path, *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_simulated_run_and_one_with_too_few_heads_are_refused(run: Path) -> None:
    report = read_report(run)
    simulated = replace(report, edge=replace(report.edge, device="jetson-nano", source="simulated"))
    with pytest.raises(UsageError, match=r"edge was measured, got one whose edge \(jetson-nano\)"):
        measured_latencies(simulated)
    few = replace(report, cuts=report.cuts[: LEAST_HEADS - 1])
    with pytest.raises(UsageError, match="expected 5 measured heads or more, got"):
        measured_latencies(few)


@pytest.mark.parametrize("words", [(), ("list",), ("show",)])
@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
def test_devices_are_listed_with_and_without_a_verb(words: tuple[str, ...], form: str) -> None:
    outcome = splitdeploy("devices", *words, "--format", form)
    assert (outcome.code, outcome.err) == (0, "")
    assert "jetson-agx-orin" in outcome.out


def test_one_device_is_shown_with_its_validated_figures_beside() -> None:
    for words in (("jetson-nano",), ("show", "jetson-nano")):
        document = json.loads(splitdeploy("devices", *words, "--format", "json").out)
        assert document["name"] == "jetson-nano"
        assert len(document["validated"]) == len(validated_rows("jetson-nano")) >= 10
    shown = splitdeploy("devices", "jetson-nano").out
    assert "simulated beside published figures" in shown
    assert "constants.launch_s" in shown


def test_an_unknown_device_offers_the_nearest() -> None:
    outcome = splitdeploy("devices", "jetson-nan")
    assert outcome.code == 2
    assert "did you mean" in outcome.err


def test_the_constants_of_the_model_are_all_in_the_file() -> None:
    found = fitted(heads(truth_of(NANO), "fp16", 6), NANO, "fp16")
    document = json.loads(device_to_json(found.device, found.rows))
    assert set(document["constants"]) == set(ModelConstants.__dataclass_fields__)
