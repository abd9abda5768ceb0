"""The minimum cut against every downset of random graphs, and against another library's flow."""

from __future__ import annotations

import math
from itertools import product

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitdeploy.partitioner.min_cut import CutProblem, Step, hull, min_cut, weighted

costs = st.floats(0, 10).map(lambda value: round(value, 3))


@st.composite
def problems(draw: st.DrawFn, most: int = 14) -> CutProblem:
    """A random DAG of up to 14 steps, with fan-out, several inputs and results, and free steps."""
    count = draw(st.integers(1, most))
    given_values = ["x", "y"][: draw(st.integers(1, 2))]
    names, steps = list(given_values), []
    for at in range(count):
        reads = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        makes = [f"v{at}", f"w{at}"][: draw(st.integers(1, 2))]
        names += makes
        steps.append(Step(tuple(reads), tuple(makes), draw(costs), draw(costs)))
    read = {name for step in steps for name in step.reads}
    made = [name for step in steps for name in step.makes]
    results = [name for name in made if name not in read or draw(st.integers(0, 5)) == 0]
    crossing = {
        name: math.inf if name not in given_values and draw(st.integers(0, 7)) == 0 else draw(costs)
        for name in names
    }
    return CutProblem(tuple(steps), crossing, tuple(results))


def downsets(problem: CutProblem) -> list[frozenset[int]]:
    """Every downset, found by trying all subsets step by step."""
    maker = {name: at for at, step in enumerate(problem.steps) for name in step.makes}
    found = [frozenset[int]()]
    for at, step in enumerate(problem.steps):
        before = {maker[name] for name in step.reads if name in maker}
        found += [head | {at} for head in found if before <= head]
    return found


def cost_by_hand(problem: CutProblem, head: frozenset[int]) -> float:
    """The sum, by the edges between the two sides."""
    total = 0.0
    for at, step in enumerate(problem.steps):
        total += step.edge if at in head else step.cloud
    made = {name for step in problem.steps for name in step.makes}
    for name in problem.crossing:
        here = any(name in problem.steps[at].makes for at in head) or name not in made
        there = name in problem.results or any(
            name in step.reads for at, step in enumerate(problem.steps) if at not in head
        )
        total += problem.crossing[name] if here and there else 0.0
    return total


@given(problems())
@settings(max_examples=60, deadline=None)
def test_no_downset_is_cheaper(problem: CutProblem) -> None:
    every = downsets(problem)
    for between in (False, True):
        allowed = [h for h in every if not between or 0 < len(h) < len(problem.steps)]
        best = min((cost_by_hand(problem, head) for head in allowed), default=math.inf)
        found = min_cut(problem, between=between)
        if found is None:
            assert best == math.inf
            continue
        assert found in allowed
        assert cost_by_hand(problem, found) == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert problem.cost(found) == pytest.approx(cost_by_hand(problem, found))


@given(problems(10), problems(10))
@settings(max_examples=80, deadline=None)
def test_the_least_sum_of_logarithms_is_on_the_hull(one: CutProblem, prices: CutProblem) -> None:
    """Two costs of one graph: what is best for their product is best for some weighted sum."""
    other = CutProblem(
        tuple(
            Step(step.reads, step.makes, price.edge + 0.1, price.cloud + 0.1)
            for step, price in zip(one.steps, list(prices.steps) * 10, strict=False)
        ),
        {name: cost * (1 + at % 3) for at, (name, cost) in enumerate(one.crossing.items())},
        one.results,
    )
    found = hull((one, other))
    if not found:
        return
    assert set(found) <= set(downsets(one))

    def score(head: frozenset[int]) -> float:
        return math.log(1e-3 + one.cost(head)) + 2 * math.log(1e-3 + other.cost(head))

    best = min(score(head) for head in downsets(one))
    assert min(map(score, found)) == pytest.approx(best, abs=1e-4)


def test_a_value_with_many_readers_is_paid_once() -> None:
    readers = tuple(Step(("wide",), (f"r{at}",), 5.0, 0.0) for at in range(4))
    problem = CutProblem(
        (Step(("x",), ("wide",), 1.0, 9.0), *readers),
        {"x": 8.0, "wide": 3.0} | {f"r{at}": 1.0 for at in range(4)},
        tuple(f"r{at}" for at in range(4)),
    )
    assert min_cut(problem) == {0}
    assert problem.cost(frozenset({0})) == 1.0 + 3.0
    assert problem.crossing_values(frozenset({0, 2})) == ("wide", "r1")


def test_a_downset_off_the_order_beats_every_one_along_it() -> None:
    """Two branches: the second is worth computing on the edge, the first is not."""
    problem = CutProblem(
        (
            Step(("x",), ("stem",), 0.1, 0.1),
            Step(("stem",), ("slow",), 10.0, 0.1),
            Step(("y",), ("quick",), 0.1, 0.1),
            Step(("slow", "quick"), ("end",), 10.0, 0.1),
        ),
        {"x": 9.0, "y": 9.0, "stem": 1.0, "slow": 1.0, "quick": 1.0, "end": 1.0},
        ("end",),
    )
    ordered = [frozenset(range(count)) for count in range(5)]
    found = min_cut(problem)
    assert found == {0, 2}
    assert problem.cost(found) < min(problem.cost(head) for head in ordered)


def test_what_cannot_be_sent_keeps_its_maker_and_its_readers_together() -> None:
    steps = (Step(("x",), ("a",), 1.0, 0.0), Step(("a",), ("b",), 1.0, 5.0))
    problem = CutProblem(steps, {"x": 4.0, "b": 0.5}, ("b",))
    assert min_cut(problem) == {0, 1}
    assert min_cut(problem, between=True) is None


def test_costs_far_apart_are_not_rounded_away() -> None:
    steps = tuple(
        Step((f"v{at - 1}" if at else "x",), (f"v{at}",), 1e-6, 2e-6) for at in range(200)
    )
    crossing = {f"v{at}": 1e-6 * (500 - at) for at in range(200)} | {"x": 1e6}
    assert min_cut(CutProblem(steps, crossing, ("v199",))) == set(range(200))


@given(problems(40))
@settings(max_examples=25, deadline=None)
def test_larger_graphs_agree_with_another_maximum_flow(problem: CutProblem) -> None:
    """The oracle: networkx's minimum cut, in floating point, of a network built here."""
    network = nx.DiGraph()
    network.add_nodes_from(["edge", "cloud"])
    made = {name: at for at, step in enumerate(problem.steps) for name in step.makes}
    for at, step in enumerate(problem.steps):
        network.add_edge("edge", at, capacity=step.cloud)
        network.add_edge(at, "cloud", capacity=step.edge)
        for name in step.reads:
            network.add_edge(f"of {name}", at)
            if name in made:
                network.add_edge(at, made[name])
    for name, cost in problem.crossing.items():
        bounds = {} if math.isinf(cost) else {"capacity": cost}
        network.add_edge(made.get(name, "edge"), f"of {name}", **bounds)
        if name in problem.results:
            network.add_edge(f"of {name}", "cloud")
    found = min_cut(problem)
    if found is None:
        with pytest.raises(nx.NetworkXUnbounded):
            nx.minimum_cut_value(network, "edge", "cloud")
        return
    expected = nx.minimum_cut_value(network, "edge", "cloud")
    assert problem.cost(found) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_weighted_sum_of_two_costs() -> None:
    one = CutProblem((Step(("x",), ("a",), 1.0, 2.0),), {"x": 3.0, "a": 4.0}, ("a",))
    other = CutProblem((Step(("x",), ("a",), 10.0, 0.0),), {"x": 1.0, "a": 2.0}, ("a",))
    both = weighted(one, other, 2.0, 0.5)
    for head in map(frozenset, ((), (0,))):
        expected = 2.0 * one.cost(frozenset(head)) + 0.5 * other.cost(frozenset(head))
        assert both.cost(frozenset(head)) == pytest.approx(expected)


def test_downsets_of_the_oracle_are_complete() -> None:
    """The oracle itself, against the definition."""
    steps = (
        Step(("x",), ("a",), 1, 1), Step(("x",), ("b",), 1, 1), Step(("a", "b"), ("c",), 1, 1),
    )  # fmt: skip
    problem = CutProblem(steps, {}, ("c",))
    maker = {"a": 0, "b": 1, "c": 2}
    expected = set()
    for bits in product((False, True), repeat=3):
        head = frozenset(at for at, there in enumerate(bits) if there)
        if all(maker[n] in head for at in head for n in steps[at].reads if n in maker):
            expected.add(head)
    assert set(downsets(problem)) == expected
