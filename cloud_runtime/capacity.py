"""How many servers a fleet of edges needs, from the time that a tail takes for a batch.

Each server is a queue: requests come at random (a Poisson process), wait in one line, and are
taken from its front by the first worker that is free, as many at once as wait there, up to the
largest batch; a batch of b takes a fixed time t(b) = a + c·b. This is the batch-service queue
M/D^[1,B]/w with service times that depend on the batch, studied for inference servers by Inoue
("Queueing analysis of GPU-based inference servers with dynamic batching", Performance Evaluation
147, 2021; arXiv 1912.06322). It has no closed form for percentiles: they come from a simulation
with a fixed seed, so that one question has one answer.

What it assumes, and when it does not hold:

- Many edges, each on its own clock. A few edges that all send at the same instant wait longer; a
  few that send in turn wait less.
- Requests are spread over the servers by chance or evenly by edge, and stay where they are sent.
- Workers do not slow each other. Two workers that share one processor do.
- The tail's time depends on the batch alone. Clocks that throttle and neighbours on the machine
  are not in it: measure t(b) under them, or leave room.
- Nothing is refused, lost or sent again.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from splitdeploy.profiles.errors import UsageError

_ARRIVALS = 100_000
_WARM_UP = 0.1
_MOST_SERVERS = 1_000_000


@dataclass(frozen=True)
class BatchTime:
    """What a batch takes: ``fixed_s + each_s · size``.

    Attributes:
        fixed_s: Whatever the size.
        each_s: For each request in it.
    """

    fixed_s: float
    each_s: float

    def __call__(self, size: int) -> float:
        """What a batch of that size takes."""
        return self.fixed_s + self.each_s * size


def fit_batch_time(sizes: Sequence[int], times_s: Sequence[float]) -> BatchTime:
    """The line through measured times, by least squares of the relative error.

    Args:
        sizes: Batches, of at least two sizes.
        times_s: What each took.

    Returns:
        The line; neither part is below 0.

    Raises:
        UsageError: There are too few, or one is no size or no time.
    """
    if len(sizes) != len(times_s) or len(set(sizes)) < 2:
        raise UsageError(
            f"expected the times of batches of at least 2 sizes, got {len(times_s)} times of "
            f"sizes {sorted(set(sizes))}: measure 1 and the largest"
        )
    if min(sizes) < 1 or not min(times_s) > 0:
        raise UsageError(
            f"expected sizes and times above 0, got sizes {list(sizes)} and times {list(times_s)}"
        )
    # Weights 1/t²: a large batch takes long, but is no more precise for it.
    points = [(1 / time_s**2, size, time_s) for size, time_s in zip(sizes, times_s, strict=True)]
    total = sum(w for w, _, _ in points)
    mean_size = sum(w * n for w, n, _ in points) / total
    mean_s = sum(w * t for w, _, t in points) / total
    together = sum(w * (n - mean_size) * (t - mean_s) for w, n, t in points)
    each_s = max(0.0, together / sum(w * (n - mean_size) ** 2 for w, n, _ in points))
    fixed_s = mean_s - each_s * mean_size
    if fixed_s >= 0:
        return BatchTime(fixed_s, each_s)
    through_zero = sum(w * n * t for w, n, t in points) / sum(w * n * n for w, n, _ in points)
    return BatchTime(0.0, through_zero)


@dataclass(frozen=True)
class Server:
    """One server as a queue.

    Attributes:
        time: What a batch takes.
        max_batch: The largest batch that requests are put together to; the embedded server runs
            each request by itself: 1.
        workers: Batches that run at once: Triton's instances, the embedded server's
            ``--max-concurrent``, each with cores or a GPU of its own.
        overhead_s: What an answer takes beside waiting and the tail: the message's way through
            the server. It occupies no worker.
    """

    time: BatchTime
    max_batch: int = 1
    workers: int = 1
    overhead_s: float = 0.0

    @property
    def saturation_per_s(self) -> float:
        """More requests a second than it can answer."""
        return self.workers * self.max_batch / self.time(self.max_batch)

    @property
    def alone_s(self) -> float:
        """What one request takes on an idle server."""
        return self.overhead_s + self.time(1)

    def check(self) -> None:
        """Refuse what is no server.

        Raises:
            UsageError: A number is out of its range.
        """
        if self.max_batch < 1 or self.workers < 1:
            raise UsageError(
                f"expected batches and workers of at least 1, got {self.max_batch} and "
                f"{self.workers}"
            )
        times = (self.time.fixed_s, self.time.each_s, self.overhead_s)
        if not all(0 <= time_s < float("inf") for time_s in times) or self.time(1) <= 0:
            raise UsageError(f"expected times of 0 s or more and a tail above 0 s, got {times}")


@dataclass(frozen=True)
class Load:
    """What a server does under a load.

    Attributes:
        rate_per_s: Requests that come.
        utilisation: The share of the time that a worker is busy.
        mean_batch: Requests in a batch.
        mean_s: From a request's arrival to its answer.
        p50_s: Half of them take no longer.
        p95_s: 95 % of them take no longer.
        p99_s: 99 % of them take no longer.
    """

    rate_per_s: float
    utilisation: float
    mean_batch: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


def predict(server: Server, rate_per_s: float, *, arrivals: int = _ARRIVALS, seed: int = 0) -> Load:
    """What one server does under a load that it can bear.

    Args:
        server: The queue.
        rate_per_s: Requests that come.
        arrivals: How many of them are simulated; the first tenth is left out.
        seed: Of the simulation.

    Returns:
        The load, with percentiles of the response time.

    Raises:
        UsageError: The rate is not above 0, or is more than the server can answer.
    """
    server.check()
    if not 0 < rate_per_s < server.saturation_per_s:
        raise UsageError(
            f"expected a rate between 0 and the {server.saturation_per_s:.3g} a second at which "
            f"this server saturates, got {rate_per_s:.3g}: give it more servers"
        )
    rng = random.Random(seed)
    came = [0.0] * arrivals
    now = 0.0
    for place in range(arrivals):
        now += rng.expovariate(rate_per_s)
        came[place] = now
    took, batches, busy_s, end = _serve(server, came)
    kept = sorted(took[int(_WARM_UP * arrivals):])  # fmt: skip
    return Load(
        rate_per_s=rate_per_s,
        utilisation=busy_s / (server.workers * end),
        mean_batch=arrivals / batches,
        mean_s=sum(kept) / len(kept),
        p50_s=_percentile(kept, 0.50),
        p95_s=_percentile(kept, 0.95),
        p99_s=_percentile(kept, 0.99),
    )


def responses(server: Server, came: Sequence[float]) -> list[float]:
    """Response times of requests that come at given moments, to an idle server at first.

    Args:
        server: The queue.
        came: When each came, in order, in seconds.

    Returns:
        From its arrival to its answer, in the order of arrival.

    Raises:
        UsageError: A number of ``server`` is out of its range.
    """  # noqa: DOC502
    server.check()
    return _serve(server, came)[0]


def _serve(server: Server, came: Sequence[float]) -> tuple[list[float], int, float, float]:
    """Response times in the order of arrival, batches, the workers' busy time, and the end."""
    times = [0.0, *(server.time(size) for size in range(1, server.max_batch + 1))]
    free_at = [0.0] * server.workers
    took: list[float] = []
    first, batches, busy_s, end = 0, 0, 0.0, 0.0
    while first < len(came):
        start = max(heapq.heappop(free_at), came[first])
        last = min(first + server.max_batch, bisect_right(came, start, lo=first))
        finish = start + times[last - first]
        took += [finish - at + server.overhead_s for at in came[first:last]]
        heapq.heappush(free_at, finish)
        busy_s += finish - start
        end = max(end, finish)
        batches, first = batches + 1, last
    return took, batches, busy_s, end


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Plan:
    """Servers enough for a fleet of edges.

    Attributes:
        servers: How many.
        rate_per_s: Requests of all edges.
        each: What each server does, with an equal share of them.
    """

    servers: int
    rate_per_s: float
    each: Load


def servers_needed(
    edges: int,
    requests_per_s: float,
    server: Server,
    *,
    target_p95_s: float,
    max_load: float = 1.0,
) -> Plan:
    """The fewest servers with which 95 % of the answers are there in time.

    Args:
        edges: How many devices there are.
        requests_per_s: That each of them sends.
        server: Each server, as a queue.
        target_p95_s: From a request's arrival at the server to its answer; the network is extra.
        max_load: The share of its saturation that a server may get; the rest is room for bursts
            and for the share of a server that fails. A server that batches is busy long before it
            saturates, since batches grow with the load: its utilisation would be no measure.

    Returns:
        The plan.

    Raises:
        UsageError: A figure is out of its range, or no number of servers is enough.
    """
    server.check()
    rate = edges * requests_per_s
    if edges < 1 or not 0 < requests_per_s < float("inf") or not 0 < max_load <= 1:
        raise UsageError(
            f"expected edges and requests above 0 and a load of at most 1, got {edges}, "
            f"{requests_per_s:g} and {max_load:g}"
        )
    if target_p95_s <= server.alone_s:
        raise UsageError(
            f"no number of servers answers within {target_p95_s:.3g} s: one request alone takes "
            f"{server.alone_s:.3g} s: allow more time, or take a faster server"
        )

    def enough(count: int) -> Load | None:
        load = rate / count / server.saturation_per_s
        if load > max_load or load >= 1:
            return None
        found = predict(server, rate / count)
        return found if found.p95_s <= target_p95_s else None

    few, many = 0, 1
    while (load := enough(many)) is None:
        few, many = many, 2 * many
        if many > _MOST_SERVERS:
            raise UsageError(
                f"more than {_MOST_SERVERS} servers would not answer 95 % within "
                f"{target_p95_s:.3g} s: allow more time, or take a faster server"
            )
    while many - few > 1:
        middle = (few + many) // 2
        tried = enough(middle)
        if tried is None:
            few = middle
        else:
            many, load = middle, tried
    return Plan(many, rate, load)
