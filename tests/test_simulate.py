"""The latency model against hand calculations, and how it scales."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.profiles.device import DEVICES, DeviceProfile, ModelConstants, find_device
from splitdeploy.profiles.errors import UnknownNameError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.simulate import simulate_latency

CONV = KernelGroup(
    "conv", "conv", macs=10**9, input_elements=2 * 10**5, output_elements=10**5,
    weight_elements=10**6, output_channels=64, kernel_size=9, stride=1, reduction=576,
)  # fmt: skip
ADD = KernelGroup("add", "elementwise", 0, 10**6, 5 * 10**5, 0, 64)
CONCAT = KernelGroup("cat", "concat", 0, 10**6, 10**6, 0, 64)


def plain_device() -> DeviceProfile:
    """A device whose figures a reader can multiply in their head."""
    board = find_device("jetson-nano")
    constants = ModelConstants(
        compute_efficiency=0.5, depthwise_efficiency=0.125, memory_efficiency=0.5,
        launch_s=1e-5, sync_s=1e-3, winograd_gain=2.0, tail_tiles=0.0, overlap=1.0,
    )  # fmt: skip
    return dataclasses.replace(
        board,
        peak_flops={"fp32": 1e12, "fp16": 2e12},
        bandwidth_bytes_per_s=2e10,
        multiprocessors=4,
        constants=constants,
    )


def with_constants(device: DeviceProfile, **changes: float) -> DeviceProfile:
    constants = dataclasses.replace(device.constants, **changes)
    return dataclasses.replace(device, constants=constants)


def test_a_3x3_convolution_by_hand() -> None:
    found = simulate_latency([CONV], plain_device(), precision="fp16")
    # 1e9 MACs halved by Winograd over 0.5 * 2e12 / 2 MACs a second; 2.6 MB over 1e10 bytes/s.
    assert found.compute_s == pytest.approx(1e-3)
    assert found.memory_s == pytest.approx(2.6e-4)
    assert found.launch_s == pytest.approx(1e-5)
    assert found.sync_s == pytest.approx(1e-3)
    assert found.latency_s == pytest.approx(2.27e-3)
    assert found.load == pytest.approx(1.26 / 2.27)


def test_winograd_is_for_3x3_of_stride_one_alone() -> None:
    device = plain_device()
    base = simulate_latency([CONV], device, precision="fp16").compute_s
    for change in ({"stride": 4}, {"kernel_size": 25}, {"kind": "pointwise"}):
        other = dataclasses.replace(CONV, **change)
        assert simulate_latency([other], device, precision="fp16").compute_s == 2 * base


def test_depthwise_and_grouped_run_slower() -> None:
    device = plain_device()
    times = {
        kind: simulate_latency(
            [dataclasses.replace(CONV, kind=kind, stride=4)], device, precision="fp16"
        ).compute_s
        for kind in ("conv", "grouped", "depthwise")
    }
    assert times["grouped"] == pytest.approx(2 * times["conv"])
    assert times["depthwise"] == pytest.approx(4 * times["conv"])


def test_the_tail_costs_a_tile_a_multiprocessor() -> None:
    device = with_constants(plain_device(), tail_tiles=1.0, winograd_gain=1.0)
    more = simulate_latency([CONV], device, precision="fp16").compute_s
    less = simulate_latency(
        [CONV], with_constants(device, tail_tiles=0.0), precision="fp16"
    ).compute_s
    assert more - less == pytest.approx(64 * 64 * 576 * 4 / 0.5e12)


def test_overlap_runs_from_the_sum_to_the_larger() -> None:
    device = plain_device()
    total = simulate_latency([CONV], device, precision="fp16")
    summed = total.compute_s + total.memory_s
    apart = simulate_latency([CONV], with_constants(device, overlap=2.0), precision="fp16")
    larger = simulate_latency([CONV], with_constants(device, overlap=64.0), precision="fp16")
    assert apart.compute_s + apart.memory_s == pytest.approx(
        (total.compute_s**2 + total.memory_s**2) ** 0.5
    )
    assert larger.compute_s + larger.memory_s == pytest.approx(
        max(total.compute_s, total.memory_s), rel=1e-6
    )
    assert summed > apart.compute_s + apart.memory_s


def test_a_concatenation_is_free_and_an_empty_graph_takes_no_time() -> None:
    device = plain_device()
    alone = simulate_latency([CONV], device, precision="fp16")
    assert simulate_latency([CONV, CONCAT], device, precision="fp16") == alone
    assert simulate_latency([], device, precision="fp16").latency_s == 0


def test_precision_scales_rates_and_bytes() -> None:
    device = plain_device()
    half = simulate_latency([CONV, ADD], device, precision="fp16")
    full = simulate_latency([CONV, ADD], device, precision="fp32")
    assert full.compute_s == pytest.approx(2 * half.compute_s)
    assert full.memory_s == pytest.approx(2 * half.memory_s)
    assert (full.launch_s, full.sync_s) == (half.launch_s, half.sync_s)


def test_a_missing_precision_runs_as_fp16_and_says_so() -> None:
    nano = find_device("jetson-nano")
    found = simulate_latency([CONV], nano, precision="int8")
    assert found.precision == "fp16"
    assert found == simulate_latency([CONV], nano, precision="fp16")


def test_published_ratios_between_precisions_go_before_peaks() -> None:
    orin = find_device("jetson-orin-nano")
    times = {p: simulate_latency([CONV], orin, precision=p) for p in ("fp32", "fp16", "int8")}
    for precision, ratio in orin.precision_time.items():
        work = times[precision].compute_s + times[precision].memory_s
        assert work == pytest.approx(ratio * (times["fp16"].compute_s + times["fp16"].memory_s))
    assert times["int8"].precision == "int8"


def test_power_modes_scale_clock_cores_and_bandwidth() -> None:
    device = with_constants(plain_device(), tail_tiles=1.0)
    mode = dataclasses.replace(
        device.mode(), name="half", gpu_mhz=device.max_gpu_mhz / 2, bandwidth_share=0.25
    )
    device = dataclasses.replace(device, modes={**device.modes, "half": mode})
    fast = simulate_latency([CONV], device, precision="fp16")
    slow = simulate_latency([CONV], device, precision="fp16", power_mode="half")
    assert slow.compute_s == pytest.approx(2 * fast.compute_s)
    assert slow.memory_s == pytest.approx(4 * fast.memory_s)
    assert slow.power_mode == "half"


def test_a_mode_with_fewer_cores_has_fewer_tails_to_wait_for() -> None:
    device = with_constants(plain_device(), tail_tiles=1.0, winograd_gain=1.0)
    small = dataclasses.replace(CONV, macs=0)
    mode = dataclasses.replace(device.mode(), name="half", cores_share=0.5)
    device = dataclasses.replace(device, modes={**device.modes, "half": mode})
    fast = simulate_latency([small], device, precision="fp16")
    slow = simulate_latency([small], device, precision="fp16", power_mode="half")
    assert slow.compute_s == pytest.approx(fast.compute_s), "one tile takes as long on one SM"


@pytest.mark.parametrize("name", DEVICES)
def test_the_p95_follows_from_the_error_of_the_fit(name: str) -> None:
    device = find_device(name)
    found = simulate_latency([CONV], device, precision="fp16")
    factor = 1 if device.derived_from is None else 2
    assert found.p95_s / found.latency_s == pytest.approx(1 + factor * device.error.left_out_p95)
    assert found.relative_error_median == pytest.approx(factor * device.error.left_out_median)
    assert found.relative_error_worst == pytest.approx(factor * device.error.left_out_worst)


@given(
    groups=st.lists(
        st.builds(
            KernelGroup,
            name=st.just("k"),
            kind=st.sampled_from(["conv", "pointwise", "depthwise", "dense", "copy", "concat"]),
            macs=st.integers(0, 10**10),
            input_elements=st.integers(0, 10**8),
            output_elements=st.integers(0, 10**8),
            weight_elements=st.integers(0, 10**8),
            output_channels=st.integers(1, 4096),
            kernel_size=st.sampled_from([1, 9, 25]),
            stride=st.sampled_from([1, 4]),
            reduction=st.integers(1, 10**4),
        ),
        min_size=1,
        max_size=6,
    ),
    name=st.sampled_from(sorted(DEVICES)),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
)
def test_parts_sum_up_and_more_work_takes_longer(
    groups: list[KernelGroup], name: str, precision: str
) -> None:
    device = find_device(name)
    found = simulate_latency(groups, device, precision=precision)
    parts = found.compute_s + found.memory_s + found.launch_s + found.sync_s
    assert found.latency_s == pytest.approx(parts)
    assert 0 <= found.load <= 1
    more = simulate_latency([*groups, ADD], device, precision=precision)
    assert found.latency_s < more.latency_s <= more.p95_s


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8': .*fp16"):
        simulate_latency([CONV], find_device("jetson-nano"), precision="fp8")
