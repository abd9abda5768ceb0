"""Which node makes which value in an ONNX file, read without the onnx package.

An edge device has no onnx package, yet to tell a profile's kernels apart one must know the graph.
An ONNX file is a protocol buffer (onnx/onnx.proto), whose wire format is simple: a field is a
key, ``number << 3 | kind``, and a value, and what is not asked for is skipped over, so that
weights are never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from splitdeploy.profiles.errors import SessionError

# The numbers of the fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_VALUE_NAME = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class GraphNode:
    """One operator. ``inputs`` holds what the bodies of an If or a Loop capture, too."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The nodes in the order of the file, which is an order of execution, and the ends."""

    nodes: tuple[GraphNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def ancestors(self, values: frozenset[str] | set[str]) -> frozenset[int]:
        """The nodes that must run before these values are there.

        Args:
            values: Names of values; inputs and weights have no ancestors.

        Returns:
            Their places in ``nodes``.
        """
        needed = set(values)
        found = set()
        for place in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[place]
            if not needed.isdisjoint(node.outputs):
                found.add(place)
                needed.update(node.inputs)
        return frozenset(found)


def read_graph(model: bytes) -> Graph:
    """The graph of an ONNX model.

    Args:
        model: A serialised ``ModelProto``.

    Returns:
        Its nodes, and the names of its inputs and outputs.

    Raises:
        SessionError: These bytes are no ONNX model.
    """
    try:
        for number, value in _fields(memoryview(model)):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                return _graph(value)
    except (IndexError, ValueError) as error:
        raise SessionError(f"expected an ONNX model, got {len(model)} damaged bytes") from error
    raise SessionError(f"expected an ONNX model, got {len(model)} bytes without a graph")


def _graph(message: memoryview) -> Graph:
    nodes: list[GraphNode] = []
    ends: dict[int, list[str]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for number, value in _fields(message):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_NODE:
            nodes.append(_node(value))
        elif number in ends:
            ends[number].extend(_texts(value, _VALUE_NAME))
    return Graph(tuple(nodes), tuple(ends[_GRAPH_INPUT]), tuple(ends[_GRAPH_OUTPUT]))


def _node(message: memoryview) -> GraphNode:
    captured: list[str] = []
    for number, attribute in _fields(message):
        if number == _NODE_ATTRIBUTE and isinstance(attribute, memoryview):
            for kind, body in _fields(attribute):
                if kind in {_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS} and isinstance(body, memoryview):
                    captured.extend(_captured(_graph(body)))
    return GraphNode(
        name="".join(_texts(message, _NODE_NAME)),
        op_type="".join(_texts(message, _NODE_OP_TYPE)),
        inputs=(*_texts(message, _NODE_INPUT), *captured),
        outputs=tuple(name for name in _texts(message, _NODE_OUTPUT) if name),
    )


def _captured(body: Graph) -> list[str]:
    """Every value that a body reads or gives and does not make: what it has from outside."""
    own = {name for node in body.nodes for name in node.outputs} | set(body.inputs)
    read = [name for node in body.nodes for name in node.inputs] + list(body.outputs)
    return [name for name in read if name and name not in own]


def _texts(message: memoryview, wanted: int) -> list[str]:
    return [
        bytes(value).decode()
        for number, value in _fields(message)
        if number == wanted and isinstance(value, memoryview)
    ]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: their number, and their bytes or their integer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field ends after its message")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
