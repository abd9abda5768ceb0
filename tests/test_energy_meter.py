"""Energy out of samples: known powers come back, too little is refused, never a zero."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitdeploy.edge_runtime.power.energy import EnergyMeasurement, EnergyMeter, Window
from splitdeploy.edge_runtime.power.reader import (
    NotMeasured,
    PowerReader,
    PowerSample,
    RailReading,
)
from splitdeploy.edge_runtime.power.samples import (
    BLOCKS,
    LEAST_SAMPLES,
    Trace,
    block_means,
    standard_error,
    too_few,
    trace_of,
)
from splitdeploy.profiles.errors import SensorError


class Made(PowerReader):
    """A sensor whose power follows a function of the time."""

    def __init__(
        self, power_w: Callable[[float], float | None], interval_s: float | None = None
    ) -> None:
        self.name, self.covers, self.total_rails = "made", "module", ("VDD_IN",)
        self.interval_s = interval_s
        self._power_w = power_w

    def sample(self) -> PowerSample:
        now = time.perf_counter()
        power_w = self._power_w(now)
        if power_w is None:
            return PowerSample(now, (), None, ("VDD_IN",))
        return PowerSample(now, (RailReading("VDD_IN", power_w),), power_w)


def meter(reader: PowerReader, **given: float) -> EnergyMeter:
    settings = {"interval_s": 0.004, "window_s": 0.4, "idle_s": 0.2, "warmup_s": 0.0}
    return EnergyMeter(reader, **{**settings, **given})


def test_idle_is_taken_off_and_the_energy_of_one_inference_comes_back() -> None:
    busy = threading.Event()

    def infer() -> None:
        busy.set()
        time.sleep(0.01)

    found = meter(Made(lambda _: 7.0 if busy.is_set() else 3.0)).measure(infer)
    assert isinstance(found, EnergyMeasurement), found
    each_s = found.window_s / found.inferences
    assert found.energy_j == pytest.approx(4.0 * each_s, rel=0.02)
    assert found.gross_energy_j == pytest.approx(7.0 * each_s, rel=0.02)
    assert found.idle_w == pytest.approx(3.0, rel=0.05)
    assert found.source == "measured"
    assert found.samples >= LEAST_SAMPLES
    assert found.sample_rate_hz == pytest.approx(found.samples / found.window_s)
    assert found.to_json()["rails"] == ("VDD_IN",)


@pytest.mark.parametrize(
    ("power", "settings", "interval", "why"),
    [
        (lambda _: 5.0, {"window_s": 0.05}, None, "busy: expected 20 samples"),
        (lambda _: 5.0, {"idle_s": 0.02}, None, "idle: expected 20 samples"),
        (lambda _: 5.0, {}, 0.1, "idle: expected 20 samples .* got 3 in"),
        (lambda _: None, {}, None, "VDD_IN could not be read, and the total is VDD_IN"),
        (lambda _: 5.0, {}, None, r"the draw while computing \(5.000 W\) is not above"),
    ],
    ids=["short window", "short idle", "slow sensor", "rail missing", "nothing drawn"],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(
    power: Callable[[float], float | None],
    settings: dict[str, float],
    interval: float | None,
    why: str,
) -> None:
    found = meter(Made(power, interval), **settings).measure(lambda: time.sleep(0.005))
    assert isinstance(found, NotMeasured)
    with pytest.raises(ValueError, match=why):
        raise ValueError(found.reason)


def test_a_sensor_that_fails_too_often_is_refused_and_seldom_is_told() -> None:
    class Failing(Made):
        every = 2
        count = 0

        def sample(self) -> PowerSample:
            self.count += 1
            if self.count % self.every == 0:
                raise SensorError("the bus is busy")
            return super().sample()

    reader = Failing(lambda now: 5.0)
    refused = meter(reader).measure(lambda: time.sleep(0.005))
    assert isinstance(refused, NotMeasured)
    assert "readings failed, at most 10% may; the last: the bus is busy" in refused.reason
    began = time.perf_counter()
    seldom = Failing(lambda now: 5.0 + (now - began > 0.2))
    seldom.every = 40
    found = meter(seldom).measure(lambda: time.sleep(0.005))
    assert isinstance(found, EnergyMeasurement), found
    assert found.failed_readings >= 1


def test_an_error_of_the_work_ends_the_sampling(tmp_path: object) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        meter(Made(lambda _: 5.0)).measure(_fail)
    assert threading.active_count() == before


def _fail() -> None:
    raise RuntimeError("out of memory")


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), min_size=2, max_size=40),
    st.floats(0, 5),
    st.floats(5.1, 10),
)
def test_the_integral_is_that_of_the_line_through_the_samples(
    samples: list[tuple[float, float]], start_s: float, end_s: float
) -> None:
    trace = trace_of(samples)
    grid = np.unique(np.clip([start_s, *trace.times_s, end_s], start_s, end_s))
    power = np.interp(grid, trace.times_s, trace.power_w)
    expected = float(np.sum(np.diff(grid) * (power[1:] + power[:-1]) / 2))
    assert trace.joules(start_s, end_s) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    middle = (start_s + end_s) / 2
    parts = trace.joules(start_s, middle) + trace.joules(middle, end_s)
    assert parts == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_real_times_count_and_not_the_number_of_samples() -> None:
    trace = Trace((0.0, 1.0, 1.1, 1.2, 2.0), (1.0, 1.0, 9.0, 1.0, 1.0))
    assert trace.joules(0.0, 2.0) == pytest.approx(2.0 + 8.0 * 0.1)


def test_a_sensor_that_repeats_itself_counts_once() -> None:
    assert trace_of([(1.0, 5.0), (1.0, 6.0), (0.5, 4.0)]) == Trace((0.5, 1.0), (4.0, 5.0))


def test_samples_faster_than_the_sensor_do_not_count() -> None:
    times = tuple(np.linspace(0, 1, 1001))
    trace = Trace(times, (5.0,) * 1001)
    assert too_few(trace, 0, 1, None) is None
    assert too_few(trace, 0, 1, 0.05) is None
    assert "got 11 in 1 s: measure for longer" in (too_few(trace, 0, 1, 0.1) or "")


def test_the_standard_error_covers_what_it_should() -> None:
    generator = np.random.default_rng(0)
    times = np.arange(0, 60, 0.02)
    busy_at = 30.0
    truth_j, inferences = (8.0 - 3.0) * 30 / 1000, 1000
    inside = 0
    runs = 200
    for _ in range(runs):
        power = np.where(times < busy_at, 3.0, 8.0) + generator.normal(0, 1.5, len(times))
        trace = Trace(tuple(times), tuple(power))
        window = Window(0.0, busy_at - 0.1, busy_at, 60.0, inferences)
        found = EnergyMeter(Made(lambda _: 0.0)).energy(trace, window)
        assert isinstance(found, EnergyMeasurement)
        inside += abs(found.energy_j - truth_j) < 2.1 * found.standard_error_j
    # Student's t with some 18 degrees of freedom: 95 % within 2.1 standard errors.
    assert 0.90 <= inside / runs <= 0.99


def test_blocks_are_equal_parts_of_the_window() -> None:
    trace = Trace((0.0, 10.0), (0.0, 10.0))
    means = block_means(trace, 0.0, 10.0)
    assert means == pytest.approx([0.5 + place for place in range(BLOCKS)])
    assert standard_error([1.0, 3.0]) == pytest.approx(math.sqrt(2) / math.sqrt(2))
