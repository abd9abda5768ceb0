"""Multiply-accumulates of traced nodes, against closed forms and torchvision's published totals."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from splitdeploy.partitioner.trace import trace_module


def macs(module: nn.Module, *inputs: Tensor) -> int:
    return trace_module(module.eval(), inputs).graph.macs


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 5, padding=2), (1, 3, 10, 12), 8 * 10 * 12 * 3 * 25),
        (nn.Conv2d(6, 8, 3, groups=2), (1, 6, 10, 10), 8 * 8 * 8 * 3 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1, stride=2), (1, 4, 8, 8), 4 * 4 * 4 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 4 * 25 * 6 * 4),
        (nn.Conv1d(2, 3, 3), (1, 2, 10), 3 * 8 * 2 * 3),
        (nn.Linear(7, 5), (1, 4, 7), 4 * 7 * 5),
        (nn.ReLU(), (1, 4), 0),
        (nn.BatchNorm2d(4), (1, 4, 3, 3), 0),
    ],
    ids=repr,
)
def test_closed_forms(module: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert macs(module, torch.randn(shape)) == expected


def test_attention() -> None:
    n, e = 5, 8
    module = nn.MultiheadAttention(e, 2, batch_first=True)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = module

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    projections, products = 4 * n * e * e, 2 * n * n * e
    assert macs(Own(), torch.randn(1, n, e)) == projections + products


class Products(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b) + a @ b


def test_matrix_products() -> None:
    a, b = torch.randn(1, 3, 4), torch.randn(1, 4, 6)
    assert macs(Products(), a, b) == 2 * 3 * 4 * 6


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_published_totals(name: str) -> None:
    """torchvision publishes GFLOPS, which are multiply-accumulates there, rounded to 1e-3."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, weights=None)
    published = weights.meta["_ops"]
    assert macs(model, torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(published, abs=1.1e-3)
