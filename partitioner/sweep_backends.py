"""Where the runs of a sweep go: processes of this machine, or a cluster of Ray or Dask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.sweep_jobs import GroupJob, Outcome, run_group
from splitdeploy.profiles.errors import MissingExtraError, SplitdeployError, UsageError

BACKENDS = ("processes", "ray", "dask")

_AS_THEY_COME = {"loky", "dask"}
"""Those of joblib's backends that hand results over as they come."""


@dataclass(frozen=True)
class Spread:
    """How a sweep is spread.

    Attributes:
        backend: One of `BACKENDS`.
        jobs: How many side by side; -1 for all that a cluster has.
        cluster: Its address; None for one on this machine.
        threads: That every run may use.
        shards: Into how many a run's cuts are dealt.
    """

    backend: str = "processes"
    jobs: int = 1
    cluster: str | None = None
    threads: int = 1
    shards: int = 1


@dataclass(frozen=True)
class Workers:
    """Processes that groups are sent to, for as long as they are `connected`.

    Attributes:
        backend: As joblib calls it.
        spread: How the sweep is spread.
    """

    backend: str
    spread: Spread

    def run(self, groups: Sequence[GroupJob], reporter: Reporter) -> list[Outcome]:
        """Run groups side by side.

        Args:
            groups: Each on one worker.
            reporter: Told after every run, or at the end where the backend keeps results back.

        Returns:
            The outcomes, in the order in which they ended.
        """
        from joblib import Parallel, delayed

        how = "generator_unordered" if self.backend in _AS_THEY_COME else "list"
        parallel = Parallel(
            n_jobs=self.spread.jobs, batch_size=1, pre_dispatch="all", return_as=how
        )
        outcomes: list[Outcome] = []
        for finished in parallel(delayed(run_group)(group) for group in groups):
            outcomes += finished
            reporter.advance(len(finished))
        return outcomes


@contextlib.contextmanager
def connected(spread: Spread) -> Iterator[Workers]:
    """Connect to a backend.

    Args:
        spread: Which, and how many processes of it.

    Yields:
        Its workers.

    Raises:
        MissingExtraError: What the backend needs is not installed.
        SplitdeployError: The cluster cannot be reached, or a worker of it was lost.
        UsageError: This backend has no cluster.
    """  # noqa: DOC502
    from joblib import parallel_config

    if spread.backend == "processes":
        if spread.cluster is not None:
            raise UsageError(
                f"expected --backend ray or dask with --cluster {spread.cluster}, got processes"
            )
        with parallel_config(backend="loky", inner_max_num_threads=1):
            yield Workers("loky", spread)
        return
    open_cluster = _ray if spread.backend == "ray" else _dask
    opened = open_cluster(spread.cluster, spread.jobs)
    with opened, parallel_config(backend=spread.backend):
        yield Workers(spread.backend, spread)


@contextlib.contextmanager
def _ray(cluster: str | None, jobs: int) -> Iterator[None]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise MissingExtraError(_install("ray")) from error
    own: dict[str, Any] = {"num_cpus": _count(jobs), "include_dashboard": False}
    try:
        ray.init(address=cluster or "local", log_to_driver=False, **({} if cluster else own))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _unreachable("Ray", cluster, "ray start --head") from error
    try:
        register_ray()
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _dask(cluster: str | None, jobs: int) -> Iterator[None]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError(_install("dask")) from error
    with contextlib.ExitStack() as opened:
        place: Any = cluster
        if cluster is None:
            place = opened.enter_context(
                LocalCluster(
                    n_workers=_count(jobs), threads_per_worker=1, dashboard_address=None,
                    host="127.0.0.1",
                )
            )  # fmt: skip
        try:
            opened.enter_context(Client(place, timeout="20s"))
        except (OSError, TimeoutError, ValueError) as error:
            raise _unreachable("Dask", cluster, "dask scheduler") from error
        yield


def _count(jobs: int) -> int:
    return jobs if jobs > 0 else (os.cpu_count() or 1)


def _install(extra: str) -> str:
    return (
        f"--backend {extra} needs a package that is not installed: type  "
        f"pip install 'splitdeploy[workstation,{extra}]'"
    )


def _unreachable(name: str, cluster: str | None, start: str) -> SplitdeployError:
    where = cluster or "this machine"
    return SplitdeployError(
        f"expected a cluster of {name} at {where}, none answered: start one with  {start}  and "
        "name its address with --cluster"
    )
