"""The kernels that a compiler makes of an ONNX graph: operators in fused groups.

The rules are those that TensorRT documents, kept to what decides time:

- a convolution or matrix product takes in the batch norm, activations and additions behind it;
- element-wise chains become one kernel, so SiLU, GELU and hard-swish join what produces them;
- layer norm and softmax that an exporter took apart are one kernel again;
- reshapes, casts and whatever depends on weights alone cost nothing;
- slices and transpositions copy; a concatenation is written in place by what it joins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto

from splitdeploy.partitioner.onnx_macs import inner_size, node_macs
from splitdeploy.partitioner.onnx_shapes import Shapes, graph_shapes
from splitdeploy.profiles.kernel import KernelGroup, KernelKind

_FREE = frozenset({
    "Cast", "CastLike", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze",
})  # fmt: skip
_COPY = frozenset({
    "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Resize",
    "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose",
})  # fmt: skip
_POOL = frozenset({
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool",
})  # fmt: skip
_REDUCE = frozenset({
    "ArgMax", "ArgMin", "CumSum", "GroupNormalization", "Hardmax", "InstanceNormalization",
    "LRN", "LayerNormalization", "LogSoftmax", "LpNormalization", "RMSNormalization", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "TopK",
})  # fmt: skip
_PRODUCT = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
_ABSORBING = frozenset({
    "conv", "pointwise", "grouped", "depthwise", "dense", "matmul", "elementwise", "reduce", "copy",
})  # fmt: skip


@dataclass
class _Draft:
    """A group while it grows."""

    kind: KernelKind
    first: NodeProto
    nodes: list[NodeProto] = field(default_factory=list)


@dataclass(frozen=True)
class KernelPart:
    """A part of a fused kernel, behind which the graph can be cut.

    Attributes:
        reads: The values that it reads from other parts or from outside.
        makes: The values that it makes.
        before: The kernel that this part and those before it make without the rest.
        after: The kernel that this part and those behind it make without the rest.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    before: KernelGroup
    after: KernelGroup


@dataclass(frozen=True)
class KernelGraph:
    """A graph's fused kernels and the values between them.

    Attributes:
        kernels: The parts of each, in an order in which they can run: one for each value within the
            kernel that others read too, or that is smaller than what the kernel makes.
        views: What a reshaped or cast value is a view of; kernels read and make no views.
        results: The values that are the graph's results, views resolved.
    """

    kernels: tuple[tuple[KernelPart, ...], ...]
    views: Mapping[str, str]
    results: tuple[str, ...]


def kernel_graph(model: onnx.ModelProto, batch: int = 1) -> KernelGraph:
    """Group a graph's operators as `kernel_groups` does, and keep how the groups are connected.

    Args:
        model: As `kernel_groups` takes it.
        batch: Likewise.

    Returns:
        The kernels with the values between them.
    """
    return _Grouping(model, batch).kernel_graph()


def kernel_groups(model: onnx.ModelProto, batch: int = 1) -> tuple[KernelGroup, ...]:
    """Group a graph's operators as a compiler would fuse them.

    A batch multiplies arithmetic and activations, and reads the weights once. A transposition that
    moves nothing for one input, since the batch is of size one, does for several. Weights may lie
    outside the model: nothing but their shapes is read.

    Args:
        model: A whole model, a head or a tail, from any exporter; shapes that it does not carry
            are inferred.
        batch: How many inputs it computes at once: what symbolic sizes stand for.

    Returns:
        The groups, in an order in which they can run.
    """
    return _Grouping(model, batch).groups()


class _Grouping:
    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        self.graph = model.graph
        self.shapes: Shapes = graph_shapes(model, batch)
        self.constants = {tensor.name for tensor in self.graph.initializer}
        self.constants |= {tensor.values.name for tensor in self.graph.sparse_initializer}
        self.root: dict[str, str] = {}
        self.maker: dict[str, int] = {}
        self.drafts: list[_Draft] = []
        self.read_by = self._count_readers()

    def _count_readers(self) -> Counter[str]:
        """How many nodes and results read each value, or a reshaped view of it."""
        view: dict[str, str] = {}
        for node in self.graph.node:
            if node.input and (node.op_type in _FREE or self._moves_nothing(node)):
                view.update((name, view.get(node.input[0], node.input[0])) for name in node.output)
        readers = Counter(
            view.get(name, name)
            for node in self.graph.node
            if node.output[0] not in view and node.op_type not in {"Shape", "Size"}
            for name in node.input
        )
        readers.update(view.get(value.name, value.name) for value in self.graph.output)
        return readers

    def groups(self) -> tuple[KernelGroup, ...]:
        return tuple(self._finish(draft, leaving) for draft, leaving in self._drafted())

    def kernel_graph(self) -> KernelGraph:
        kernels = tuple(tuple(self._parts(draft, leaving)) for draft, leaving in self._drafted())
        results = dict.fromkeys(self._origin(value.name) for value in self.graph.output)
        return KernelGraph(kernels, dict(self.root), tuple(results))

    def _drafted(self) -> list[tuple[_Draft, set[str]]]:
        """Every group with the values that are read outside it."""
        for node in self.graph.node:
            self._place(node)
        read: list[set[str]] = [set(self._reads(draft)) for draft in self.drafts]
        leaving = {self._origin(value.name) for value in self.graph.output}.union(*read)
        return [(draft, leaving.intersection(_made(draft.nodes))) for draft in self.drafts]

    def _parts(self, draft: _Draft, leaving: set[str]) -> Iterator[KernelPart]:
        nodes, start = draft.nodes, 0
        size = self.shapes.elements(_made(nodes)[-1])
        for end, node in enumerate(nodes, start=1):
            made = _made([node])
            small = sum(self.shapes.elements(name) for name in made) < size
            if end < len(nodes) and not small and not leaving.intersection(made):
                continue
            own, later = nodes[start:end], {self._origin(n) for n in _read(nodes[end:])}
            kind = self._kind(nodes[start]) if start else draft.kind
            before = _Draft(draft.kind, draft.first, nodes[:end])
            yield KernelPart(
                reads=tuple(self._reads(_Draft(kind, nodes[start], own))),
                makes=tuple(_made(own)),
                before=self._finish(before, leaving | later),
                after=self._finish(_Draft(kind, nodes[start], nodes[start:]), leaving),
            )
            start = end

    def _origin(self, name: str) -> str:
        return self.root.get(name, name)

    def _place(self, node: NodeProto) -> None:
        read = [name for name in node.input if name]
        if node.op_type in {"Constant", "Shape", "Size"} or (
            read and all(name in self.constants for name in read)
        ):
            self.constants.update(node.output)
            return
        if read and (node.op_type in _FREE or self._moves_nothing(node)):
            # Where it stands first is what is reshaped; the rest says how.
            for name in node.output:
                self.root[name] = self._origin(read[0])
            return
        kind = self._kind(node)
        target = self._absorber(node, kind)
        if target is None:
            target = len(self.drafts)
            self.drafts.append(_Draft(kind, node))
        self.drafts[target].nodes.append(node)
        for name in node.output:
            self.maker[name] = target

    def _moves_nothing(self, node: NodeProto) -> bool:
        """Whether it is a transposition that moves none but axes of size one."""
        if node.op_type != "Transpose":
            return False
        sizes = self.shapes.of(node.input[0])
        moved = _ints(node, "perm") or list(range(len(sizes)))[::-1]
        long = [axis for axis in moved if axis < len(sizes) and sizes[axis] != 1]
        return long == sorted(long)

    def _kind(self, node: NodeProto) -> KernelKind:
        op = node.op_type
        if op in {"Conv", "ConvTranspose"}:
            return self._convolution_kind(node)
        if op in _PRODUCT:
            constant = any(name in self.constants for name in node.input[:2])
            return "dense" if constant else "matmul"
        if op in _POOL:
            return "pool"
        if op in _REDUCE:
            return "reduce"
        if op == "Concat":
            return "concat"
        return "copy" if op in _COPY else "elementwise"

    def _convolution_kind(self, node: NodeProto) -> KernelKind:
        weight = self.shapes.of(node.input[1])
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups == 1:
            return "pointwise" if math.prod(weight[2:]) == 1 else "conv"
        return "depthwise" if groups == self.shapes.of(node.input[0])[1] else "grouped"

    def _absorber(self, node: NodeProto, kind: KernelKind) -> int | None:
        """The group that the node joins; None where it begins one of its own."""
        # It joins the last group that it reads, so that no group ever waits for itself.
        made = [self.maker[v] for v in map(self._origin, node.input) if v in self.maker]
        if not made or kind not in {"elementwise", "reduce", "copy"}:
            return None
        last = max(made)
        draft = self.drafts[last]
        if kind == "copy":
            # Data that was moved and is then moved again is moved once, to where it ends; but
            # each part of a split has its own end.
            origin = self._origin(node.input[0])
            alone = self.maker.get(origin) == last and self.read_by[origin] == 1
            alone &= len(node.output) == 1
            return last if alone and draft.kind == "copy" else None
        if kind == "reduce":
            # The second half of a layer norm or softmax that was taken apart: it reduces what
            # the same group has just computed from the first half.
            inside = draft.kind == "reduce" and len(draft.nodes) > 1
            return last if inside and node.op_type.startswith("Reduce") else None
        if draft.kind not in _ABSORBING:
            return None
        size = self.shapes.elements(node.output[0])
        if draft.kind == "reduce":
            read = [self._origin(name) for name in draft.first.input[:1]]
            own = any(self._origin(name) in read for name in node.input)
            return last if own or len(draft.nodes) > 1 or self._is_small(draft, size) else None
        joined = [
            name for name in node.input if self.maker.get(self._origin(name)) == last
        ]  # a value that is broadcast comes from a kernel too small to compute the result
        return last if any(self.shapes.elements(name) == size for name in joined) else None

    def _is_small(self, draft: _Draft, size: int) -> bool:
        return size <= self.shapes.elements(draft.first.output[0])

    def _reads(self, draft: _Draft) -> Iterator[str]:
        """Activations that the group's nodes read and the group does not make."""
        own = {name for node in draft.nodes for name in node.output}
        seen: set[str] = set()
        for node in draft.nodes:
            for name in node.input:
                origin = self._origin(name)
                if name and origin not in self.constants and origin not in own | seen:
                    seen.add(origin)
                    yield origin

    def _finish(self, draft: _Draft, read_outside: set[str]) -> KernelGroup:
        made = _made(draft.nodes)
        leaving = [name for name in made if name in read_outside] or made[-1:]
        written = sum(self.shapes.elements(name) for name in leaving)
        read = sum(self.shapes.elements(name) for name in self._reads(draft))
        if draft.nodes[0].op_type in {"Slice", "Gather", "GatherND", "GatherElements"}:
            read = min(read, written)
        shape = self.shapes.of(leaving[-1])
        weight = self._filter(draft.first)
        return KernelGroup(
            name=leaving[-1],
            kind=draft.kind,
            macs=node_macs(draft.first, self.shapes),
            input_elements=read,
            output_elements=written,
            weight_elements=self._weights(draft),
            output_channels=self._channels(draft, shape),
            kernel_size=math.prod(weight[2:]),
            stride=math.prod(_ints(draft.first, "strides")) if weight else 1,
            reduction=math.prod(weight[1:]) if weight else inner_size(draft.first, self.shapes),
        )

    def _filter(self, node: NodeProto) -> tuple[int, ...]:
        is_filter = node.op_type in {"Conv", "ConvTranspose"}
        return self.shapes.of(node.input[1]) if is_filter else ()

    def _channels(self, draft: _Draft, shape: tuple[int, ...]) -> int:
        if not shape:
            return 1
        last = draft.kind in {"dense", "matmul", "reduce"} or len(shape) < 2
        return shape[-1] if last else shape[1]

    def _weights(self, draft: _Draft) -> int:
        if draft.kind in {"copy", "concat"}:
            return 0
        # What a reduction reads besides its data says along which axes.
        names = {
            name
            for node in draft.nodes
            for name in (node.input[:1] if node.op_type.startswith("Reduce") else node.input)
            if name in self.constants
        }
        return sum(self.shapes.elements(name) for name in names)


def _made(nodes: Iterable[NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output if name]


def _read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    return (name for node in nodes for name in node.input if name)


def _ints(node: NodeProto, name: str) -> list[int]:
    """An attribute that is a list of integers; empty where the node has none."""
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
