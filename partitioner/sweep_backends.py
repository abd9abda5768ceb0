"""Where the runs of a sweep go: processes of this machine, or a cluster of Ray or Dask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from splitdeploy.partitioner.progress import Reporter
from splitdeploy.partitioner.sweep_jobs import GroupJob, Outcome, run_group
from splitdeploy.profiles.errors import MissingExtraError, SplitdeployError, UsageError

BACKENDS = ("processes", "ray", "dask")

_AS_THEY_COME = {"loky", "dask"}
"""Those of joblib's backends that hand results over as they come."""


def run_groups(
    groups: Sequence[GroupJob],
    *,
    backend: str,
    jobs: int,
    cluster: str | None,
    reporter: Reporter,
) -> list[Outcome]:
    """Run groups side by side.

    Args:
        groups: Each on one worker.
        backend: One of `BACKENDS`.
        jobs: How many side by side; on a cluster -1 stands for all that it has.
        cluster: The address of a cluster; None for one on this machine.
        reporter: Told after every run, or at the end where the backend keeps results back.

    Returns:
        The outcomes, in the order in which they ended.

    Raises:
        MissingExtraError: What the backend needs is not installed.
        SplitdeployError: The cluster cannot be reached, or a worker of it was lost.
        UsageError: This backend has no cluster.
    """  # noqa: DOC502
    if not groups:
        return []
    from joblib import Parallel, delayed

    outcomes: list[Outcome] = []
    with _connected(backend, cluster, jobs) as name:
        how = "generator_unordered" if name in _AS_THEY_COME else "list"
        parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="all", return_as=how)
        for finished in parallel(delayed(run_group)(group) for group in groups):
            outcomes += finished
            reporter.advance(len(finished))
    return outcomes


@contextlib.contextmanager
def _connected(backend: str, cluster: str | None, jobs: int) -> Iterator[str]:
    """With joblib set to a backend; its name there."""
    from joblib import parallel_config

    if backend == "processes":
        if cluster is not None:
            raise UsageError(
                f"expected --backend ray or dask with --cluster {cluster}, got processes"
            )
        with parallel_config(backend="loky", inner_max_num_threads=1):
            yield "loky"
        return
    opened = _ray(cluster, jobs) if backend == "ray" else _dask(cluster, jobs)
    with opened, parallel_config(backend=backend):
        yield backend


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
