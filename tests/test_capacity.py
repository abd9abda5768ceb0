"""The capacity model against exact results of queueing theory that it does not use."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitdeploy.cloud_runtime.capacity import (
    BatchTime,
    Server,
    fit_batch_time,
    predict,
    responses,
    servers_needed,
)
from splitdeploy.profiles.errors import UsageError

SINGLE = Server(BatchTime(0.0, 0.010))
BATCHED = Server(BatchTime(0.008, 0.002), max_batch=16)


def poisson(mean: float, size: int) -> Any:
    """Probabilities of 0, 1, … arrivals."""
    counts = np.arange(size)
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in counts])
    return np.exp(logs)


def exact_mean_s(time: BatchTime, most: int, rate: float, size: int = 400) -> float:
    """Mean response time of one server that takes batches, from its embedded Markov chain.

    The chain is the number waiting when a batch ends; the time average of the number in the
    system over a cycle gives the mean response by Little's law.
    """
    moves = np.zeros((size, size))
    length, area = np.zeros(size), np.zeros(size)
    for waiting in range(size):
        batch = min(max(waiting, 1), most)
        lasts, left = time(batch), max(waiting, 1) - batch
        arrivals = poisson(rate * lasts, size)
        moves[waiting, left:] = arrivals[: size - left]
        moves[waiting, -1] += 1 - moves[waiting].sum()
        length[waiting] = lasts + (1 / rate if waiting == 0 else 0.0)
        area[waiting] = (left + batch) * lasts + rate * lasts**2 / 2
    share = np.full(size, 1 / size)
    for _ in range(5_000):
        after = share @ moves
        if np.abs(after - share).max() < 1e-14:
            break
        share = after
    return float(share @ area / (share @ length) / rate)


def exact_wait_s(service_s: float, workers: int, load: float) -> float:
    """Mean wait of M/D/c, after Crommelin (1932)."""
    total = 0.0
    for step in range(1, 400):
        mean = step * workers * load
        chances = poisson(mean, 4 * step * workers + 400)
        above = chances[step * workers :].sum()
        beyond = chances[step * workers + 1 :].sum()
        total += above - beyond / load
    return total * service_s


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_worker_without_batches_is_as_pollaczek_and_khinchine_say(load: float) -> None:
    found = predict(SINGLE, load / 0.010)
    waits = load * 0.010 / (2 * (1 - load))
    assert found.mean_s == pytest.approx(0.010 + waits, rel=0.03)
    assert found.utilisation == pytest.approx(load, rel=0.02)
    assert found.mean_batch == 1


@pytest.mark.parametrize(("workers", "load"), [(1, 0.7), (2, 0.5), (2, 0.8), (4, 0.8)])
def test_several_workers_are_as_crommelin_says(workers: int, load: float) -> None:
    found = predict(replace(SINGLE, workers=workers), load * workers / 0.010)
    waits = exact_wait_s(0.010, workers, load)
    assert found.mean_s - 0.010 == pytest.approx(waits, rel=0.05)


@pytest.mark.parametrize("most", [2, 4, 16])
@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_batches_are_as_the_embedded_chain_says(most: int, load: float) -> None:
    server = replace(BATCHED, max_batch=most)
    rate = load * server.saturation_per_s
    found = predict(server, rate)
    assert found.mean_s == pytest.approx(exact_mean_s(server.time, most, rate), rel=0.03)


def test_three_requests_by_hand() -> None:
    server = replace(BATCHED, max_batch=2, overhead_s=0.001)
    assert responses(server, [0.0, 0.001, 0.002]) == pytest.approx([0.011, 0.022, 0.021])
    both = replace(server, workers=2)  # the second worker takes the second request at once
    assert responses(both, [0.0, 0.001, 0.002]) == pytest.approx([0.011, 0.011, 0.019])


def test_batching_lets_a_server_bear_more() -> None:
    assert BATCHED.saturation_per_s == pytest.approx(16 / 0.040)
    assert replace(BATCHED, max_batch=1).saturation_per_s == pytest.approx(100)
    light, heavy = predict(BATCHED, 10), predict(BATCHED, 360)
    assert light.mean_batch < 1.1 and heavy.mean_batch > 8
    assert BATCHED.alone_s == pytest.approx(0.010) and light.p50_s == pytest.approx(0.010, rel=0.05)
    assert light.p50_s <= light.p95_s <= light.p99_s <= heavy.p99_s


def test_the_message_s_way_is_added_and_occupies_nobody() -> None:
    plain, slow = predict(SINGLE, 50), predict(replace(SINGLE, overhead_s=0.005), 50)
    assert slow.p95_s == pytest.approx(plain.p95_s + 0.005)
    assert slow.utilisation == plain.utilisation


def test_one_question_has_one_answer() -> None:
    assert predict(BATCHED, 200) == predict(BATCHED, 200)
    other = predict(BATCHED, 200, seed=1)
    assert other != predict(BATCHED, 200)
    assert other.p95_s == pytest.approx(predict(BATCHED, 200).p95_s, rel=0.05)


@given(
    st.floats(1e-5, 1.0), st.floats(1e-5, 1.0),
    st.lists(st.integers(1, 64), min_size=2, max_size=8, unique=True),
)  # fmt: skip
def test_a_line_is_found_again(fixed_s: float, each_s: float, sizes: list[int]) -> None:
    found = fit_batch_time(sizes, [fixed_s + each_s * size for size in sizes])
    for size in sizes:
        assert found(size) == pytest.approx(fixed_s + each_s * size, rel=1e-6)


def test_neither_part_of_a_line_is_negative() -> None:
    assert fit_batch_time([1, 4], [0.4, 0.1]).each_s == 0
    steep = fit_batch_time([1, 2, 4], [0.1, 0.3, 0.7])
    assert steep.fixed_s == 0 and steep.each_s > 0.1


@given(st.integers(1, 2000), st.floats(0.5, 30), st.floats(0.03, 0.5))
@settings(max_examples=4)
def test_one_server_less_would_not_do(edges: int, rate: float, target_s: float) -> None:
    plan = servers_needed(edges, rate, BATCHED, target_p95_s=target_s)
    assert plan.rate_per_s == pytest.approx(edges * rate)
    assert plan.each.p95_s <= target_s
    assert plan.each.rate_per_s == pytest.approx(plan.rate_per_s / plan.servers)
    if plan.servers > 1:
        less = plan.rate_per_s / (plan.servers - 1)
        assert less >= BATCHED.saturation_per_s or predict(BATCHED, less).p95_s > target_s


def test_room_that_is_asked_for_is_left() -> None:
    tight = servers_needed(1000, 5, BATCHED, target_p95_s=1.0)
    roomy = servers_needed(1000, 5, BATCHED, target_p95_s=1.0, max_load=0.6)
    assert tight.servers < roomy.servers and roomy.each.rate_per_s <= 0.6 * BATCHED.saturation_per_s


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict(SINGLE, 100), "between 0 and the 100 a second at which this server sat"),
        (lambda: predict(SINGLE, 0), "expected a rate between 0 and"),
        (lambda: predict(replace(SINGLE, workers=0), 1), "batches and workers of at least 1"),
        (lambda: predict(Server(BatchTime(0, 0)), 1), "a tail above 0 s"),
        (lambda: predict(Server(BatchTime(-1, 2)), 1), "times of 0 s or more"),
        (lambda: fit_batch_time([1, 1], [0.1, 0.2]), "batches of at least 2 sizes"),
        (lambda: fit_batch_time([1, 2], [0.1]), "batches of at least 2 sizes"),
        (lambda: fit_batch_time([1, 2], [0.1, 0.0]), "sizes and times above 0"),
        (lambda: servers_needed(0, 1, SINGLE, target_p95_s=1), "edges and requests above 0"),
        (
            lambda: servers_needed(9, 1, SINGLE, target_p95_s=0.01),
            "no number of servers answers within 0.01 s: one request alone takes 0.01 s",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_the_worked_example_says_what_the_document_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    exec(found[1], {})
    assert capsys.readouterr().out == found[2]
