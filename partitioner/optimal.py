"""The best cuts of all downsets of a model, not of one order alone: for latency, energy and both.

The whole model is exported once without any boundary, its kernels are fused as a compiler would,
and each is priced on both sides; a minimum cut over them tells what runs where. A kernel may be cut
in two where a value within it leaves it or is smaller than its result; both parts are then priced
as kernels of their own. What does not depend on the cut (the round trip, the result's way
back, synchronisation) decides nothing between the cuts.

A result that the head makes crosses like any other value and comes back, since the tail hands over
all results; that is how halves are deployed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitdeploy.partitioner.checks import device_profile
from splitdeploy.partitioner.codec import sent_tensors
from splitdeploy.partitioner.downset import downset_cut
from splitdeploy.partitioner.export import export_onnx
from splitdeploy.partitioner.graph import TracedGraph
from splitdeploy.partitioner.kernels import KernelGraph, kernel_graph
from splitdeploy.partitioner.min_cut import CutProblem, Step, hull
from splitdeploy.partitioner.models import LoadedModel
from splitdeploy.partitioner.onnx_graph import import_onnx
from splitdeploy.partitioner.options import ProfileOptions
from splitdeploy.partitioner.sweep import cloud_precision
from splitdeploy.partitioner.trace import Trace
from splitdeploy.profiles.cut import CutPoint, TensorSpec
from splitdeploy.profiles.device import DeviceProfile
from splitdeploy.profiles.errors import CutError, UsageError
from splitdeploy.profiles.kernel import KernelGroup
from splitdeploy.profiles.network import NetworkProfile
from splitdeploy.profiles.power import active_power_w, radio_energy_j
from splitdeploy.profiles.simulate import SimulatedLatency, simulate_latency

LATENCY, ENERGY, BALANCED = "optimal-latency", "optimal-energy", "optimal-balanced"


@dataclass(frozen=True)
class Setting:
    """What kernels and tensors are priced with.

    Attributes:
        edge: Runs the head.
        cloud: Runs the tail.
        network: Between them.
        precision: What the edge computes and sends in.
        cloud_precision: What the cloud computes in.
        power_mode: Of the edge; None for its default.
        batch: How many inputs a request has.
        weight_latency: Of the logarithm of latency in the balanced score.
        weight_energy: Of the logarithm of energy.
    """

    edge: DeviceProfile
    cloud: DeviceProfile
    network: NetworkProfile
    precision: str
    cloud_precision: str
    power_mode: str | None = None
    batch: int = 1
    weight_latency: float = 1.0
    weight_energy: float = 1.0


@dataclass(frozen=True)
class Optimum:
    """A cut, and what it is best for.

    Attributes:
        cut: Its name is the first of ``best_for``.
        best_for: ``optimal-latency``, ``optimal-energy``, ``optimal-balanced``.
    """

    cut: CutPoint
    best_for: tuple[str, ...]


@dataclass(frozen=True)
class Priced:
    """A graph's kernels with the values that can cross, priced.

    Attributes:
        latency: In seconds, of a request.
        energy: In joules of the edge, of an input; None where it has no power model.
        names: What a value between kernels is called in the traced graph, by kernel value.
        fixed_s: Latency that every cut between the ends has.
        fixed_j: Energy likewise.
    """

    latency: CutProblem
    energy: CutProblem | None
    names: Mapping[str, str]
    fixed_s: float
    fixed_j: float


def setting_of(options: ProfileOptions) -> Setting:
    """The setting of a sweep.

    Args:
        options: Of the sweep.

    Returns:
        What its optimal cuts are sought with.

    Raises:
        UsageError: A side is to be measured, so that its kernels have no times beforehand.
    """
    edge, cloud = device_profile(options.device), device_profile(options.cloud)
    if edge is None or cloud is None:
        measured = options.device if edge is None else options.cloud
        raise UsageError(
            f"expected simulated devices on both sides for --cuts optimal, got {measured}, which "
            "is measured: name a device (see: splitdeploy devices), such as one that splitdeploy "
            "devices fit made from a run there"
        )
    return Setting(
        edge=edge,
        cloud=cloud,
        network=options.network,
        precision=options.precision,
        cloud_precision=cloud_precision(options),
        power_mode=options.power_mode,
        batch=options.batch,
        weight_latency=options.objective.weight_latency,
        weight_energy=options.objective.weight_energy,
    )


def find_optima(model: LoadedModel, graph: TracedGraph, setting: Setting) -> tuple[Optimum, ...]:
    """The best cuts between the ends, among all downsets.

    Args:
        model: The model.
        graph: The graph that cuts are sought in: its own.
        setting: What runs where.

    Returns:
        A cut for latency, one for energy where the edge has a power model, one for the least sum of
        their weighted logarithms; those that coincide are one. None where nothing can be cut.
    """
    with tempfile.TemporaryDirectory(prefix="splitdeploy-") as folder:
        kernels = whole_kernels(model, Path(folder), setting.batch)
    return optima_of(graph, price(graph, kernels, setting), setting)


def whole_kernels(model: LoadedModel, folder: Path, batch: int = 1) -> KernelGraph:
    """The fused kernels of a model that is not cut.

    Args:
        model: The model.
        folder: Where it is exported to.
        batch: How many inputs it computes at once.

    Returns:
        Its kernels; the values between them bear their names in the traced graph where they can.
    """
    if model.onnx_path:
        return kernel_graph(import_onnx(model.onnx_path, (), folder).proto, batch)
    return traced_kernels(model.trace, folder, batch)


def traced_kernels(trace: Trace, folder: Path, batch: int = 1) -> KernelGraph:
    """The fused kernels of a traced model that is not cut.

    Args:
        trace: The traced model.
        folder: Where it is exported to.
        batch: How many inputs it computes at once.

    Returns:
        As `whole_kernels` does.
    """
    # An exporter keeps the names of outputs alone. What batch normalisation reads is none, or the
    # normalisation would not be folded into what comes before it.
    folded = {
        value
        for node in trace.graph.nodes
        if any(name.endswith("running_mean") for name in node.parameters)
        for value in node.inputs
    }
    made = (value for node in trace.graph.nodes if node.computes for value in node.outputs)
    exported = export_onnx(trace, [value for value in made if value not in folded], folder)
    graph = exported.proto.graph
    outputs = list(graph.output)
    del graph.output[:]
    graph.output.extend(info for info in outputs if info.name in exported.results)
    graph.value_info.extend(info for info in outputs if info.name not in exported.results)
    return kernel_graph(exported.proto, batch)


def told_of(optima: Sequence[Optimum], cuts: Iterable[CutPoint]) -> Iterator[str]:
    """What a reader should know of the optima: which row is which.

    Args:
        optima: As found.
        cuts: Those of the sweep, the optima among them under one name or another.

    Yields:
        A sentence for each that stands under another name, or is best for several.
    """
    if not optima:
        yield "no optimal cut: nothing that can be sent lies between the two ends"
    names = {frozenset(tensor.name for tensor in cut.tensors): cut.name for cut in cuts}
    for optimum in optima:
        name = names[frozenset(tensor.name for tensor in optimum.cut.tensors)]
        others = [label for label in optimum.best_for if label != name]
        if others:
            yield f"{' and '.join(others)}: of all downsets, {name} is the best"


def optima_of(graph: TracedGraph, priced: Priced, setting: Setting) -> tuple[Optimum, ...]:
    """The best cuts of a priced graph; see `find_optima`.

    Args:
        graph: The traced graph.
        priced: Its kernels.
        setting: Whose weights count.

    Returns:
        The optima.
    """
    heads = hull((priced.latency, priced.energy or priced.latency), between=True)
    if not heads:
        return ()
    chosen = {LATENCY: heads[0]}
    if priced.energy is not None:
        chosen[ENERGY] = heads[-1]
        chosen[BALANCED] = min(heads, key=lambda head: _score(priced, setting, head))
    found: dict[frozenset[str], Optimum] = {}
    for name, head in chosen.items():
        crossing = priced.latency.crossing_values(head)
        values = [priced.names[value] for value in crossing if value in priced.names]
        try:
            cut = downset_cut(graph, values, name)
        except CutError:
            continue  # nothing but inputs would cross
        names = frozenset(tensor.name for tensor in cut.tensors)
        same = found.get(names)
        best_for = (name,) if same is None else (*same.best_for, name)
        found[names] = Optimum(cut if same is None else same.cut, best_for)
    return tuple(found.values())


def _score(priced: Priced, setting: Setting, head: frozenset[int]) -> float:
    """The part of the balanced score that latency and energy make up, but for a constant."""
    latency_s = priced.fixed_s + priced.latency.cost(head)
    energy_j = priced.fixed_j + (priced.energy.cost(head) if priced.energy else 0.0)
    return setting.weight_latency * _log(latency_s) + setting.weight_energy * _log(energy_j)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def price(graph: TracedGraph, kernels: KernelGraph, setting: Setting) -> Priced:
    """Price a model's kernels on either side, and the values between them on the network.

    Args:
        graph: The traced graph, for the names and sizes of what can be sent.
        kernels: Those of the whole exported model, for as many inputs as a request has.
        setting: What runs where.

    Returns:
        The problem for latency and the one for energy.
    """
    edge, network, batch = setting.edge, setting.network, setting.batch
    sent = _sent(graph, kernels, setting.precision)
    bytes_of = {name: tensor.bytes for name, tensor in sent.items()}

    def at_edge(group: KernelGroup) -> SimulatedLatency:
        return simulate_latency(
            (group,), edge, precision=setting.precision, power_mode=setting.power_mode
        )

    def in_cloud(group: KernelGroup) -> float:
        return _seconds(
            simulate_latency((group,), setting.cloud, precision=setting.cloud_precision)
        )

    up_s = {
        name: network.uplink_s(batch * size) - network.uplink_s(0)
        for name, size in bytes_of.items()
    }
    latency = _problem(kernels, up_s, lambda group: _seconds(at_edge(group)), in_cloud)
    result_bytes = sum(graph.values[value].bytes for value in dict.fromkeys(graph.outputs))
    energy, fixed_j = None, 0.0
    if edge.idle_w is not None and edge.mode(setting.power_mode).active_w is not None:
        idle_w, full_w = edge.idle_w, active_power_w(edge, power_mode=setting.power_mode)

        def joules(group: KernelGroup) -> float:
            found = at_edge(group)  # full power while it works, idle while it starts
            working_s = found.compute_s + found.memory_s
            return (full_w * working_s + idle_w * found.launch_s) / batch

        up_j = {name: radio_energy_j(network, size, 0) for name, size in bytes_of.items()}
        energy = _problem(kernels, up_j, joules, lambda _: 0.0)
        fixed_j = radio_energy_j(network, 0, result_bytes)
        fixed_j += edge.constants.sync_s * idle_w / batch
    fixed_s = edge.constants.sync_s + setting.cloud.constants.sync_s
    fixed_s += network.uplink_s(0) + network.downlink_s(batch * result_bytes)
    names = {name: tensor.name for name, tensor in sent.items()}
    return Priced(latency, energy, names, fixed_s, fixed_j)


def _problem(
    kernels: KernelGraph,
    crossing: Mapping[str, float],
    edge: Callable[[KernelGroup], float],
    cloud: Callable[[KernelGroup], float],
) -> CutProblem:
    """What the kernels cost on either side; one that is cut in two costs what its halves do."""
    costs, steps = dict(crossing), []
    for place, parts in enumerate(kernels.kernels):
        before = 0.0
        for at, part in enumerate(parts):
            # Each part reads a value of the part before, which costs the cloud the rest alone.
            joint, following = f"kernel {place} part {at}", f"kernel {place} part {at + 1}"
            reads = (*part.reads, joint) if at else part.reads
            makes = (*part.makes, following) if at + 1 < len(parts) else part.makes
            if at:
                costs[joint] = cloud(part.after)
            cost = edge(part.before)
            steps.append(Step(reads, makes, cost - before, 0.0 if at else cloud(part.after)))
            before = cost
    return CutProblem(tuple(steps), costs, kernels.results)


def _seconds(kernel: SimulatedLatency) -> float:
    """A kernel's own time: the synchronisation is that of the whole half."""
    return kernel.compute_s + kernel.memory_s + kernel.launch_s


def _sent(graph: TracedGraph, kernels: KernelGraph, precision: str) -> dict[str, TensorSpec]:
    """By which tensor of the traced graph each value between kernels can be sent, as it is sent."""
    # A value that bears a name of the traced graph, or of which a reshaped view does, can cross;
    # what an exporter made within one operation cannot.
    named: dict[str, list[str]] = {}
    for view, base in kernels.views.items():
        named.setdefault(base, []).append(view)
    computed = {
        value for value, made in graph.producer.items() if made < 0 or graph.nodes[made].computes
    }
    found = {}
    for value in _values(kernels):
        names = [name for name in (value, *named.get(value, ())) if name in computed]
        tensors = list(_in_precision((graph.values[name] for name in names), precision))
        if tensors:
            found[value] = min(tensors, key=lambda tensor: tensor.bytes)
    return found


def _in_precision(tensors: Iterable[TensorSpec], precision: str) -> Iterator[TensorSpec]:
    for tensor in tensors:
        alone = CutPoint(tensor.name, 0, (tensor,), tensor.bytes, 0, 0)
        yield from sent_tensors(alone, precision).tensors


def _values(kernels: KernelGraph) -> Sequence[str]:
    parts = (part for kernel in kernels.kernels for part in kernel)
    read = dict.fromkeys(name for part in parts for name in part.reads)
    return tuple(read | dict.fromkeys(kernels.results))
