"""The best downset of a graph for a sum of costs: a minimum cut.

A downset is a set of steps that holds, with each of its steps, all that come before it; it runs on
the edge, the rest in the cloud. Its cost is

    sum of the edge costs of its steps + sum of the cloud costs of all others
        + the cost of every value that is made or given on the edge and read in the cloud, once

which is the capacity of a cut between a source (the edge) and a sink (the cloud) in this network::

    source --cloud cost--> step --edge cost--> sink
    maker --cost of the value--> value --unbounded--> each reader
    reader --unbounded--> maker

The vertex of a value has it paid once, however many steps read it; the edges back forbid a step on
the edge that reads what the cloud makes. The maximum flow is SciPy's, in integers: 2^30 stand for
the cost of the best downset along the order of the steps. What a rounded cut of k edges misses is
at most k / 2^30 of that cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_WHOLE = 1 << 30
_UNBOUNDED = (1 << 31) - 1
"""More than any cut that is looked for: SciPy's capacities have 32 bits."""

_SOURCE, _SINK = 0, 1


@dataclass(frozen=True)
class Step:
    """One step of a graph, with what it costs on either side.

    Attributes:
        reads: Names of the values that it reads: of steps before it, or given to the graph.
        makes: Names of the values that it makes.
        edge: Its cost on the edge, zero or more.
        cloud: Its cost in the cloud, zero or more.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    edge: float
    cloud: float


@dataclass(frozen=True)
class CutProblem:
    """A graph and what crossing costs.

    Attributes:
        steps: In an order in which they can run.
        crossing: The cost of sending a value; infinite, or left out, for one that cannot be sent.
        results: Values that the cloud must have in the end, such as what it answers with.
    """

    steps: tuple[Step, ...]
    crossing: dict[str, float] = field(default_factory=dict)
    results: tuple[str, ...] = ()

    def crossing_values(self, head: frozenset[int]) -> tuple[str, ...]:
        """The values that cross, each once.

        Args:
            head: Positions of the steps on the edge: a downset.

        Returns:
            Names, given values first, then in the order of the steps.
        """
        here = {name for at in head for name in self.steps[at].makes}
        made = {name for step in self.steps for name in step.makes}
        wanted = set(self.results)
        for at, step in enumerate(self.steps):
            if at not in head:
                wanted.update(step.reads)
        given = dict.fromkeys(n for step in self.steps for n in step.reads if n not in made)
        order = [*given, *(name for step in self.steps for name in step.makes)]
        return tuple(n for n in dict.fromkeys(order) if n in wanted and (n in here or n in given))

    def cost(self, head: frozenset[int]) -> float:
        """What a downset costs.

        Args:
            head: Positions of the steps on the edge.

        Returns:
            The sum; infinite where a value crosses that cannot be sent.
        """
        steps = math.fsum(s.edge if at in head else s.cloud for at, s in enumerate(self.steps))
        crossing = (self.crossing.get(name, math.inf) for name in self.crossing_values(head))
        return steps + math.fsum(crossing)


def min_cut(problem: CutProblem, *, between: bool = False) -> frozenset[int] | None:
    """The downset of least cost; of several, one that no other one's head lies within.

    Args:
        problem: The graph and its costs.
        between: Whether at least one step must lie on either side.

    Returns:
        Positions of the steps on the edge; None where every downset that is asked for has a value
        cross that cannot be sent.
    """
    if not between:
        return _solve(problem, frozenset(), frozenset())
    best: tuple[float, frozenset[int]] | None = None
    for first, last in _ends(problem):
        found = _solve(problem, frozenset({first}), frozenset({last}))
        if found is not None and (best is None or problem.cost(found) < best[0]):
            best = problem.cost(found), found
    return None if best is None else best[1]


def _ends(problem: CutProblem) -> Iterator[tuple[int, int]]:
    """Every pair of a step before which and one behind which there is none."""
    # A downset that is not empty holds one of the former; what it leaves out, one of the latter.
    made = {name for step in problem.steps for name in step.makes}
    read = {name for step in problem.steps for name in step.reads}
    firsts = [at for at, step in enumerate(problem.steps) if made.isdisjoint(step.reads)]
    lasts = [at for at, step in enumerate(problem.steps) if read.isdisjoint(step.makes)]
    return ((first, last) for first in firsts for last in lasts if first != last)


def _solve(
    problem: CutProblem, on_edge: frozenset[int], in_cloud: frozenset[int]
) -> frozenset[int] | None:
    network = _Network(problem, on_edge, in_cloud)
    if network.is_uncuttable():
        return None
    bound = _ordered_bound(problem, on_edge, in_cloud)
    capacities = network.capacities(bound if math.isfinite(bound) else network.total())
    flow = maximum_flow(capacities, _SOURCE, _SINK).flow
    residual = csr_array(capacities.astype(np.int64) - flow.astype(np.int64))
    residual.eliminate_zeros()
    reached = _reached(residual)
    return frozenset(at for at in range(len(problem.steps)) if network.step(at) in reached)


def _reached(edges: csr_array) -> set[int]:
    """The vertices that the source leads to."""
    return set(breadth_first_order(edges, _SOURCE, return_predecessors=False).tolist())


def _ordered_bound(problem: CutProblem, on_edge: frozenset[int], in_cloud: frozenset[int]) -> float:
    """What the best downset along the order costs beyond what any costs; infinite for none."""
    last_read = {name: at for at, step in enumerate(problem.steps) for name in step.reads}
    last_read |= dict.fromkeys(problem.results, len(problem.steps))
    made = {name for step in problem.steps for name in step.makes}
    live = {name: problem.crossing.get(name, math.inf) for name in last_read if name not in made}
    # What is paid on either side is in no capacity.
    compute = math.fsum(max(0.0, step.cloud - step.edge) for step in problem.steps)
    first = max(on_edge, default=-1)
    last = min(in_cloud, default=len(problem.steps))
    best = compute + math.fsum(live.values()) if first < 0 else math.inf
    for at, step in enumerate(problem.steps[:last]):
        compute += step.edge - step.cloud
        live |= {n: problem.crossing.get(n, math.inf) for n in step.makes if n in last_read}
        live = {name: cost for name, cost in live.items() if last_read[name] > at}
        if at >= first:
            best = min(best, compute + math.fsum(live.values()))
    return max(0.0, best)


class _Network:
    """The edges of the flow network: source, sink, steps, values."""

    def __init__(
        self, problem: CutProblem, on_edge: frozenset[int], in_cloud: frozenset[int]
    ) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.costs: list[float] = []
        maker = {name: at for at, step in enumerate(problem.steps) for name in step.makes}
        values = dict.fromkeys(name for step in problem.steps for name in step.reads)
        values |= dict.fromkeys(name for name in problem.results if name in maker)
        vertices = {name: 2 + len(problem.steps) + at for at, name in enumerate(values)}
        self.size = 2 + len(problem.steps) + len(vertices)
        for at, step in enumerate(problem.steps):
            shared = min(step.edge, step.cloud)  # paid either way
            self._add(_SOURCE, self.step(at), math.inf if at in on_edge else step.cloud - shared)
            self._add(self.step(at), _SINK, math.inf if at in in_cloud else step.edge - shared)
            for name in dict.fromkeys(step.reads):
                self._add(vertices[name], self.step(at), math.inf)
            for before in {maker[name] for name in step.reads if name in maker}:
                self._add(self.step(at), self.step(before), math.inf)
        for name, vertex in vertices.items():
            source = self.step(maker[name]) if name in maker else _SOURCE
            self._add(source, vertex, problem.crossing.get(name, math.inf))
            if name in problem.results:
                self._add(vertex, _SINK, math.inf)

    @staticmethod
    def step(at: int) -> int:
        return 2 + at

    def _add(self, row: int, column: int, cost: float) -> None:
        if cost > 0:
            self.rows.append(row)
            self.columns.append(column)
            self.costs.append(cost)

    def is_uncuttable(self) -> bool:
        """Whether unbounded edges alone lead from the source to the sink."""
        unbounded = np.isinf(np.array(self.costs))
        return _SINK in _reached(self._matrix(unbounded.astype(np.int32)))

    def total(self) -> float:
        return math.fsum(cost for cost in self.costs if math.isfinite(cost)) or 1.0

    def capacities(self, bound: float) -> csr_array:
        costs = np.array(self.costs, dtype=np.float64)
        scale = _WHOLE / bound if bound > 0 else math.inf
        # An edge that costs more than the bound, but for rounding, is in no cut that is looked for.
        scaled = np.where(costs > bound * (1 + 1e-9), np.inf, costs * scale)
        whole = np.where(np.isinf(scaled), _UNBOUNDED, np.rint(scaled)).astype(np.int32)
        return self._matrix(whole)

    def _matrix(self, entries: NDArray[np.int32]) -> csr_array:
        places = (np.array(self.rows, dtype=np.int32), np.array(self.columns, dtype=np.int32))
        matrix = csr_array((entries, places), shape=(self.size, self.size))
        matrix.eliminate_zeros()
        return matrix


def hull(problems: Sequence[CutProblem], *, between: bool = False) -> tuple[frozenset[int], ...]:
    """The downsets that are best for some weighted sum of two costs.

    They are the corners of the lower left hull of all downsets' costs. A score that is concave and
    rises in both costs, such as a sum of logarithms, has its least at one of them.

    Args:
        problems: The same graph with the one cost and with the other.
        between: Whether at least one step must lie on either side.

    Returns:
        Heads, from the least of the first cost to the least of the second; none where nothing can
        be sent.
    """
    one, other = problems
    first, last = min_cut(one, between=between), min_cut(other, between=between)
    if first is None or last is None:
        return ()
    found = [first, *_corners(one, other, first, last, between), last]
    return tuple(dict.fromkeys(found))


def _corners(
    one: CutProblem,
    other: CutProblem,
    left: frozenset[int],
    right: frozenset[int],
    between: bool,
) -> list[frozenset[int]]:
    """The corners between two: the best by the weights that make these two equal, and so on."""
    weights = other.cost(left) - other.cost(right), one.cost(right) - one.cost(left)
    if min(weights) <= 0:
        return []
    both = weighted(one, other, *weights)
    middle = min_cut(both, between=between)
    if middle is None or both.cost(middle) >= both.cost(left) * (1 - 1e-6):
        return []
    return [
        *_corners(one, other, left, middle, between),
        middle,
        *_corners(one, other, middle, right, between),
    ]


def weighted(
    one: CutProblem, other: CutProblem, weight_one: float, weight_other: float
) -> CutProblem:
    """The same graph with a weighted sum of two costs.

    Args:
        one: With the one cost.
        other: With the other.
        weight_one: Of the one, zero or more.
        weight_other: Of the other, zero or more.

    Returns:
        The problem.
    """

    def both(a: float, b: float) -> float:
        return weight_one * a + weight_other * b

    steps = tuple(
        Step(a.reads, a.makes, both(a.edge, b.edge), both(a.cloud, b.cloud))
        for a, b in zip(one.steps, other.steps, strict=True)
    )
    names = one.crossing.keys() & other.crossing.keys()
    crossing = {name: both(one.crossing[name], other.crossing[name]) for name in names}
    return CutProblem(steps, crossing, one.results)
