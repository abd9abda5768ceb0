"""The fit of the device model: its rows, its way back to known constants, what is stored of it."""

import dataclasses

import pytest

from splitdeploy.partitioner.fit import (
    EXPECTED,
    OVERLAP,
    SHARED,
    PublishedLatency,
    fit,
    fit_constants,
    published_latencies,
    relative_error,
)
from splitdeploy.profiles.device import DEVICES
from splitdeploy.profiles.kernel import KernelGroup


def test_the_fit_finds_the_way_back_to_constants_that_made_the_rows() -> None:
    graphs = {
        f"resnet{place}": (
            KernelGroup("a", "conv", 10**8 * place, 10**5, 10**5, 10**5, 64, 9, 1, 576),
            KernelGroup("b", "pointwise", 10**8, 10**6 * place, 10**6, 10**4, 64, 1, 1, 64),
        )
        for place in range(1, 9)
    }
    expected = fit_constants([], graphs, DEVICES)
    truth = {
        board: dataclasses.replace(
            constants,
            compute_efficiency=constants.compute_efficiency * 1.3,
            memory_efficiency=constants.memory_efficiency * 0.8,
        )
        for board, constants in expected.items()
    }
    rows = []
    for name in graphs:
        row = PublishedLatency("jetson-nano", name, "fp16", 1.0, "", "")
        latency_s = 1 + relative_error(row, graphs, DEVICES, truth)
        rows.append(dataclasses.replace(row, latency_s=latency_s))
    before = [abs(relative_error(row, graphs, DEVICES, expected)) for row in rows]
    found = fit_constants(rows, graphs, DEVICES)
    after = [abs(relative_error(row, graphs, DEVICES, found)) for row in rows]
    # The second sum keeps pulling, so rows are met within a fraction of their width of 5 %.
    assert max(after) < 0.02 < 0.1 < max(before)
    assert found["jetson-agx-xavier"].sync_s == pytest.approx(expected["jetson-agx-xavier"].sync_s)


def test_the_stored_constants_are_shared_as_the_fit_shares_them() -> None:
    boards = [DEVICES[name].constants for name in EXPECTED]
    for key in (*SHARED, "overlap"):
        assert len({getattr(constants, key) for constants in boards}) == 1
    assert boards[0].overlap == OVERLAP


def test_disputed_rows_are_october_densenets_on_xavier_alone() -> None:
    rows = published_latencies()
    disputed = [row for row in rows if row.disputed]
    assert {row.family for row in disputed} == {"densenet"}
    assert {row.device for row in disputed} == {"jetson-agx-xavier"}
    assert len(disputed) == 3
    assert len({row.family for row in rows}) == 8
    for row in disputed:
        june = next(
            other for other in rows
            if (other.device, other.model) == (row.device, row.model) and not other.disputed
        )  # fmt: skip
        assert row.latency_s > 1.8 * june.latency_s


def test_a_family_is_left_out_on_every_board_at_once() -> None:
    graphs = {
        name: (KernelGroup("a", "conv", macs, 10**5, 10**5, 10**5, 64, 9, 1, 576),)
        for name, macs in (("resnet18", 10**9), ("vgg11", 10**10))
    }
    rows = [
        PublishedLatency(board, name, "fp16", latency_s, "", "")
        for board in EXPECTED
        for name, latency_s in (("resnet18", 5e-3), ("vgg11", 40e-3))
    ]
    result = fit(rows, graphs, DEVICES)
    blind = fit_constants([row for row in rows if row.family == "vgg"], graphs, DEVICES)
    for row, left_out in zip(rows, result.left_out, strict=True):
        if row.family == "resnet":
            assert left_out == relative_error(row, graphs, DEVICES, blind)
    error = result.error("jetson-nano")
    assert error.left_out_worst == max(abs(e) for e in result.left_out[:2])
    assert error.fitted_median <= error.fitted_worst
