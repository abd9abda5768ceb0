"""Defending by another cut: deeper, or behind a fully connected layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import SmallResNet, Token
from torch import Tensor, nn

from splitdeploy.attacks.defences.cut_choice import behind_fully_connected, deeper_cuts
from splitdeploy.partitioner.cuts import find_cuts
from splitdeploy.partitioner.fully_connected import cuts_behind_fully_connected, is_fully_connected
from splitdeploy.partitioner.trace import trace_module
from splitdeploy.profiles.cut import CLOUD_ONLY, EDGE_ONLY, CutPoint
from splitdeploy.profiles.errors import DefenceError, UnknownNameError


def cuts_of(*names: str) -> list[CutPoint]:
    return [CutPoint(name, index, (), 0, 0, 0) for index, name in enumerate(names)]


SIX = cuts_of(CLOUD_ONLY, "a", "b", "c", "d", EDGE_ONLY)


@given(st.permutations(SIX), st.sampled_from([cut.name for cut in SIX]))
def test_deeper_cuts_follow_in_order_without_the_ends(cuts: list[CutPoint], name: str) -> None:
    order = [cut.name for cut in SIX]
    expected = [n for n in order[order.index(name) + 1 :] if n in "abcd"]
    assert [cut.name for cut in deeper_cuts(cuts, name)] == expected


def test_an_unknown_cut_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown cut 'e'"):
        deeper_cuts(SIX, "e")


def test_no_cut_behind_a_fully_connected_layer_is_told() -> None:
    with pytest.raises(DefenceError, match="none of 6 is: .* choose a deeper cut"):
        behind_fully_connected(SIX, lambda cut: False)
    found = behind_fully_connected(SIX[::-1], lambda cut: cut.index > 2)
    assert [cut.name for cut in found] == ["c", "d", EDGE_ONLY]


class Squeeze(nn.Module):
    """A fully connected side branch that gates the feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Conv2d(6, 6, 1)
        self.after = nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))
        return self.out(self.after(x).mean(dim=(2, 3)))


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 64, 20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip


def covering() -> nn.Module:
    """A convolution that covers its whole input, and one that does not."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 10, 8), nn.ReLU(),
        nn.Flatten(), nn.Unflatten(1, (10, 1, 1)), nn.Conv2d(10, 2, 1, groups=2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "first"),
    [(perceptron(), "3"), (covering(), "2"), (Squeeze(), EDGE_ONLY), (SmallResNet(), EDGE_ONLY)],
    ids=["perceptron", "covering convolution", "side branch", "resnet"],
)
def test_cuts_behind_a_fully_connected_layer(model: nn.Module, first: str) -> None:
    graph = trace_module(model.eval(), (torch.zeros(1, 3, 8, 8),)).graph
    cuts = find_cuts(graph, "layer")
    found = cuts_behind_fully_connected(graph, cuts)
    start = next(cut.index for cut in cuts if cut.name == first)
    assert [cut.index for cut in found] == [cut.index for cut in cuts if cut.index >= start]


def test_a_linear_layer_on_tokens_is_not_fully_connected() -> None:
    graph = trace_module(Token().eval(), (torch.zeros(1, 3, 16, 16),)).graph
    layers = [node for node in graph.nodes if node.name.startswith("linear")]
    full = [node.name for node in layers if is_fully_connected(graph, node)]
    assert full == [layers[-1].name]  # the classifier; those of the attention see 17 tokens
