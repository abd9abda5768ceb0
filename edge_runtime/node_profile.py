"""How long every operator of a graph takes, from ONNX Runtime's own profile of whole runs."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitdeploy.edge_runtime.graph_reader import Graph, read_graph
from splitdeploy.edge_runtime.onnxruntime_session import open_native, reason, session_options
from splitdeploy.edge_runtime.session import Array
from splitdeploy.profiles.errors import SessionError

_KERNEL = "_kernel_time"
_RUN = "model_run"
_EVENTS_KEPT = 900_000
"""ONNX Runtime drops events after its first million; up to three tell of one operator."""


@dataclass(frozen=True)
class NodeProfile:
    """Repeated runs of one graph, operator by operator.

    Attributes:
        graph: The graph as ONNX Runtime executes it, after its optimisations.
        kernel_s: Seconds of each operator in each profiled run: ``[runs, nodes]``.
        wall_s: Seconds of each run without the profiler, as its caller saw it: ``[runs]``.
    """

    graph: Graph
    kernel_s: Array
    wall_s: Array

    @property
    def run_s(self) -> float:
        """Seconds of a run without the profiler: the lower quartile.

        A pause of the process lengthens whole runs, and hardly ever the median of one operator;
        the lower quartile is the figure of a run that goes with those medians.
        """
        return float(np.quantile(self.wall_s, 0.25))

    @property
    def operator_s(self) -> Array:
        """Seconds of each operator, so that they add up to a run without the profiler: ``[nodes]``.

        They are the medians, moved by the same amount: up by what no operator accounts for
        (dispatch, the call itself), or down by what the profiler adds to each, though not below
        zero.
        """
        median_s: Array = np.median(self.kernel_s, axis=0)
        count = len(median_s)
        if median_s.sum() <= self.run_s:
            raised_s: Array = median_s + (self.run_s - median_s.sum()) / max(1, count)
            return raised_s
        # Where the largest k operators stay above zero, each loses (their sum - run) / k; k is the
        # largest for which the k-th is longer than that (projection onto a simplex).
        ordered = np.sort(median_s)[::-1]
        losses = (np.cumsum(ordered) - self.run_s) / np.arange(1, count + 1)
        loss = float(losses[ordered > losses][-1])
        kept_s: Array = np.maximum(median_s - loss, 0.0)
        return kept_s

    @property
    def correction_s(self) -> float:
        """What was added to all operators' medians together; negative where it was taken off."""
        return float(self.operator_s.sum() - np.median(self.kernel_s, axis=0).sum())


def profile_nodes(
    model: bytes | Path,
    feeds: Mapping[str, Array],
    *,
    skip: Collection[str] = (),
    threads: int | None = None,
    warmup: int = 3,
    runs: int = 20,
    budget_s: float = 5.0,
) -> NodeProfile:
    """Run a graph repeatedly in one session and time every operator.

    The session runs first with the profiler, and then without it: what the profiler adds to small
    operators and what no operator accounts for are known from the difference.

    Args:
        model: The ONNX file, or its bytes.
        feeds: Its inputs.
        skip: Outputs that are not fetched; they are computed all the same.
        threads: How many threads an operator may use; None leaves it to ONNX Runtime.
        warmup: Runs before those that count.
        runs: Runs that count, at least one, with the profiler and again without it.
        budget_s: Seconds for all of them, half with the profiler; one of each always counts.

    Returns:
        The times of all runs that count.

    Raises:
        SessionError: A number is out of range, the model cannot be opened or run, or the profile
            does not tell its operators apart.
    """
    if warmup < 0 or runs < 1 or budget_s <= 0:
        raise SessionError(
            f"expected warmup >= 0, runs >= 1 and budget_s > 0, got {warmup}, {runs} and {budget_s}"
        )
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        session = _open_profiled(model, Path(folder), threads)
        fetches = [node.name for node in session.get_outputs() if node.name not in skip]
        if not fetches:
            raise SessionError("every output of the graph crosses a cut: say which are its own")
        graph = read_graph((Path(folder) / "graph.onnx").read_bytes())
        profiled = min(runs, max(1, _EVENTS_KEPT // (3 * max(1, len(graph.nodes))) - warmup))
        try:
            counted = len(_run(session, feeds, fetches, warmup, profiled, budget_s / 2))
        finally:
            events = Path(session.end_profiling())
        kernel_s = kernel_times(graph, json.loads(events.read_text(encoding="utf-8")))[-counted:]
    if len(kernel_s) < counted:
        raise SessionError(
            f"expected a profile of {counted} runs, got {len(kernel_s)}: time fewer runs"
        )
    wall_s = _run(session, feeds, fetches, 0, runs, budget_s / 2)
    return NodeProfile(graph, np.array(kernel_s), np.array(wall_s))


def kernel_times(graph: Graph, events: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The time of every operator in every run.

    Operators run in the order of the graph. Events that do not follow it belong to the bodies of
    an If or a Loop, whose time their operator holds already.

    Args:
        graph: The graph that was executed.
        events: ONNX Runtime's profile, in the order in which it was written.

    Returns:
        For each run the seconds of each operator, in the order of the graph's nodes.

    Raises:
        SessionError: A run does not hold every operator of the graph.
    """
    runs: list[list[float]] = []
    times: list[float] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            if len(times) < len(graph.nodes) and _is_of(graph, len(times), event):
                times.append(event["dur"] * 1e-6)
        elif event.get("cat") == "Session" and event["name"] == _RUN:
            if len(times) < len(graph.nodes):
                node = graph.nodes[len(times)]
                raise SessionError(
                    f"expected {len(graph.nodes)} operators in ONNX Runtime's profile of a run, "
                    f"got {len(times)}: {node.op_type} {node.name!r} is missing"
                )
            runs.append(times)
            times = []
    return runs


def _is_of(graph: Graph, place: int, event: Mapping[str, Any]) -> bool:
    node = graph.nodes[place]
    if event["args"]["op_name"] != node.op_type:
        return False
    return not node.name or event["name"] == node.name + _KERNEL


def _open_profiled(model: bytes | Path, folder: Path, threads: int | None) -> Any:
    """Open a session that profiles itself and leaves the optimised graph in ``folder``."""
    options = session_options(threads=threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "graph.onnx")
    # Weights go into a file of their own: a graph above 2 GB could not be written otherwise.
    entry = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(entry + "file_name", "weights.bin")
    options.add_session_config_entry(entry + "min_size_in_bytes", "1024")
    return open_native(model, options)


def _run(
    session: Any,
    feeds: Mapping[str, Array],
    fetches: Sequence[str],
    warmup: int,
    runs: int,
    budget_s: float,
) -> list[float]:
    wall_s: list[float] = []
    deadline = time.perf_counter() + budget_s
    try:
        for number in range(warmup + runs):
            start = time.perf_counter()
            session.run(list(fetches), dict(feeds))
            end = time.perf_counter()
            if number >= warmup:
                wall_s.append(end - start)
            if end >= deadline:
                # Where the warm-up alone ate the budget, its last run is the one that counts.
                return wall_s or [end - start]
    except Exception as error:  # ONNX Runtime's exceptions share no base but this one
        raise SessionError(f"onnxruntime: the graph failed: {reason(error)}") from error
    return wall_s
