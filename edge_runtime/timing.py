"""How long a session takes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from splitdeploy.edge_runtime.session import Array, Session
from splitdeploy.profiles.errors import SessionError
from splitdeploy.profiles.measurement import Measurement


def time_session(
    session: Session,
    feeds: Mapping[str, Array],
    *,
    warmup: int = 3,
    repeats: int = 20,
    budget_s: float = 2.0,
) -> Measurement:
    """Time a session on the same feeds, over and over.

    A run ends when its results lie in the host's memory, so whatever the backend does beside the
    caller is waited for.

    Args:
        session: What to time.
        feeds: Its inputs.
        warmup: Runs before the clock counts: they allocate memory and fill caches.
        repeats: Runs that are timed, at least one.
        budget_s: After this long, in seconds, no further run is begun; one is always timed.

    Returns:
        The distribution of the wall-clock time of a run; its count says how many were timed.

    Raises:
        SessionError: A number is out of range, or a run fails.
    """
    if warmup < 0 or repeats < 1 or budget_s <= 0:
        raise SessionError(
            "expected warmup >= 0, repeats >= 1 and budget_s > 0, "
            f"got {warmup}, {repeats} and {budget_s}"
        )
    deadline = time.perf_counter() + budget_s
    for _ in range(warmup):
        session.run(feeds)
        if time.perf_counter() >= deadline:
            break
    samples_s: list[float] = []
    while len(samples_s) < repeats:
        start = time.perf_counter()
        session.run(feeds)
        end = time.perf_counter()
        samples_s.append(end - start)
        if end >= deadline:
            break
    return Measurement.from_samples(samples_s)
