"""How many directions can pass at most: the narrowest tensor between pixels and smashed data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Node = Any  # torch.autograd.graph.Node, whose attributes PyTorch leaves untyped


def narrowest(output: Tensor, leaf: Tensor, u: Tensor) -> Tensor:
    """The fewest elements with a gradient among the tensors that every path goes through.

    If all paths from x to z pass T, then ∂z/∂x = ∂z/∂T·∂T/∂x has at most the rank of ∂z/∂T, which
    is at most its number of non-zero columns; with a random cotangent a column's product is zero
    only where the column is (with probability one).

    Args:
        output: ``[n, k]``, with its graph, which is kept.
        leaf: ``[n, …]``, what it is differentiated by.
        u: Random cotangents ``[n, k]``.

    Returns:
        For each image the bound, ``[n]`` int64.
    """
    counts = [u.ne(0).sum(dim=1)]

    def count(grads: tuple[Tensor | None, ...]) -> None:
        # A node of several outputs has several gradients, of which all count.
        present = [g for g in grads if g is not None]
        if present and all(g.dim() > 0 and g.shape[0] == len(u) for g in present):
            found = [g.reshape(len(u), -1).ne(0).sum(dim=1) for g in present]
            counts.append(torch.stack(found).sum(dim=0))

    handles = [node.register_prehook(count) for node in _bottlenecks(output.grad_fn)]
    try:
        (gradient,) = torch.autograd.grad(output, leaf, u, retain_graph=True)
    finally:
        for handle in handles:
            handle.remove()
    counts.append(gradient.flatten(1).ne(0).sum(dim=1))
    return torch.stack(counts).amin(dim=0)


def _bottlenecks(root: Node) -> list[Node]:
    """The nodes that all paths from the root to the leaf go through.

    In a topological order they are those that no edge jumps over.

    Returns:
        Them, from the root.
    """
    order = _topological(root)
    place = {node: i for i, node in enumerate(order)}
    reach, found = 0, []
    for i, node in enumerate(order):
        if reach <= i:
            found.append(node)
        reach = max([reach, *(place[child] for child in _children(node) if child in place)])
    return found


def _topological(root: Node) -> list[Node]:
    """Every node that the root depends on, parents first; without recursion, as nets are deep."""
    finished: list[Node] = []
    seen = {root}
    stack = [(root, iter(_children(root)))]
    while stack:
        node, children = stack[-1]
        for child in children:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(_children(child))))
                break
        else:
            finished.append(node)
            stack.pop()
    return finished[::-1]


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]
