"""A cut as it stands in a report: from JSON and to it.

With a second cut the document says besides what comes back for the last part (``returned``, and
what that weighs: ``downlink_bytes``), and what the edge keeps for it (``held``).
"""

from __future__ import annotations

from typing import Any

from splitdeploy.profiles.cut import CutPoint, LastPart, TensorSpec, item_bytes
from splitdeploy.profiles.document import Node
from splitdeploy.profiles.errors import ReportError


def cut_from_json(node: Node, name: str) -> CutPoint:
    """The cut of a row.

    Args:
        node: The row.
        name: The cut's, without what a row's name may carry besides.

    Returns:
        The cut.
    """
    parameters, nodes = node.get("edge_parameters"), node.get("edge_nodes")
    peak = node.get("edge_peak_activation_bytes")
    return CutPoint(
        name=name,
        index=node["index"].integer(),
        tensors=_tensors(node["tensors"]),
        payload_bytes=node["payload_bytes"].integer(),
        head_macs=node["edge_macs"].integer(),
        tail_macs=node["cloud_macs"].integer(),
        head_parameters=parameters.integer() if parameters else 0,
        head_peak_activation_bytes=peak.integer() if peak else 0,
        nodes=nodes.integer() if nodes else 0,
        last=_last(node),
    )


def _last(node: Node) -> LastPart | None:
    returned, held, told = node.get("returned"), node.get("held"), node.get("downlink_bytes")
    if returned is None:
        return None
    last = LastPart(_tensors(returned), _tensors(held) if held else ())
    if told is not None and told.integer() != last.downlink_bytes:
        raise ReportError(
            f"report at {told.path}: expected {last.downlink_bytes}, the sum of what is returned, "
            f"got {told.integer()}"
        )
    return last


def _tensors(nodes: Node) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(node) for node in nodes)


def _tensor(node: Node) -> TensorSpec:
    dtype = node["dtype"].text()
    try:
        item_bytes(dtype)
    except ValueError as error:
        raise ReportError(f"report at {node.path}.dtype: {error}") from None
    shape = tuple(size.integer() for size in node["shape"])
    return TensorSpec(node["name"].text(), shape, dtype)


def cut_to_json(cut: CutPoint) -> dict[str, Any]:
    """The part of a row's document that tells of the cut itself.

    Args:
        cut: What to write.

    Returns:
        Its document.
    """
    return {
        "name": cut.name,
        "index": cut.index,
        "tensors": [_tensor_to_json(tensor) for tensor in cut.tensors],
        "payload_bytes": cut.payload_bytes,
        "edge_macs": cut.head_macs,
        "cloud_macs": cut.tail_macs,
        "edge_parameters": cut.head_parameters,
        "edge_peak_activation_bytes": cut.head_peak_activation_bytes,
        "edge_nodes": cut.nodes,
        **(_last_to_json(cut.last) if cut.last else {}),
    }


def _last_to_json(last: LastPart) -> dict[str, Any]:
    return {
        "returned": [_tensor_to_json(tensor) for tensor in last.returned],
        "held": [_tensor_to_json(tensor) for tensor in last.held],
        "downlink_bytes": last.downlink_bytes,
    }


def _tensor_to_json(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "bytes": tensor.bytes,
    }
