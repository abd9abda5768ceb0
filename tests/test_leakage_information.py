"""The information matrix by windows and by whole rows against the Jacobian as autograd has it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitdeploy.attacks.leakage import jacobian as jacobian_module
from splitdeploy.attacks.leakage.exact import exact_fsinfo, log_det_and_rank
from splitdeploy.attacks.leakage.information import gram, information, squared_columns
from splitdeploy.attacks.leakage.jacobian import HeadJacobian
from splitdeploy.attacks.leakage.locality import find_windows
from splitdeploy.attacks.pixel_head import PixelHead

SIDE = 16
D = 3 * SIDE * SIDE


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1)
    )


class TwoMaps(nn.Module):
    """Two boundary tensors of different strides."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.fine(x)), torch.relu(self.coarse(x))


class FarCorner(nn.Module):
    """Local but for one element that sees the opposite corner."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        far = torch.zeros_like(x[:, :1])
        far[:, :, 0, 0] = x[:, :1, -1, -1]
        return torch.relu(self.conv(x)) + far


def attention() -> nn.Module:
    """Not local at all."""
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 900), nn.Tanh())


def narrow() -> nn.Module:
    """Fewer outputs than pixels, and no map."""
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 50), nn.Tanh())


def jacobian_of(
    module: nn.Module, *, n: int = 1, dtype: torch.dtype = torch.float64
) -> HeadJacobian:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    head = PixelHead(module, (0.5,) * 3, (0.25,) * 3).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    return HeadJacobian(head, torch.rand(n, 3, SIDE, SIDE, generator=generator).to(dtype))


def sigmas(j: HeadJacobian) -> Tensor:
    return torch.linspace(0.1, 0.3, j.outputs, dtype=torch.float64)


def by_autograd(j: HeadJacobian, image: int) -> Tensor:
    one = j._pixels[image : image + 1]
    matrix = torch.autograd.functional.jacobian(j._head.features, one)
    return matrix.reshape(j.outputs, j.inputs).double()


HEADS = [convolutional, TwoMaps, FarCorner, attention, narrow]


@pytest.mark.parametrize("make", HEADS, ids=lambda make: make.__name__)
def test_the_information_is_autograd_s(make: type[nn.Module]) -> None:
    j = jacobian_of(make(), n=2)
    white = by_autograd(j, 1) / sigmas(j).unsqueeze(1)
    expected = white.T @ white
    torch.testing.assert_close(information(j, 1, sigmas(j)), expected, rtol=1e-9, atol=1e-9)
    diagonal = squared_columns(j, 1, sigmas(j).square())
    torch.testing.assert_close(diagonal, expected.diagonal(), rtol=1e-9, atol=1e-9)


def test_windows_are_the_receptive_field() -> None:
    j = jacobian_of(convolutional())
    windows = find_windows(j, 0)
    assert windows is not None and windows.hold(j, 0)
    assert windows.parts[0].values.shape == (8, 8, 12, 3, 5, 5)


def test_windows_that_lack_an_entry_or_misplace_one_do_not_hold() -> None:
    j = jacobian_of(convolutional())
    windows = find_windows(j, 0)
    assert windows is not None
    part = windows.parts[0]
    rimless = part.values.clone()
    rimless[3, 3, :, :, 0, 0] = 0.0
    moved = part.top.clone()
    moved[4] += 1
    for wrong in (replace(part, values=rimless), replace(part, top=moved)):
        assert not replace(windows, parts=(wrong,)).hold(j, 0)


@pytest.mark.parametrize("make", [FarCorner, attention, narrow], ids=lambda make: make.__name__)
def test_heads_that_are_not_local_have_no_windows(make: type[nn.Module]) -> None:
    assert find_windows(jacobian_of(make()), 0) is None


def test_single_precision_is_enough_for_the_derivatives() -> None:
    # Entries of J have 24 bits; ln det is the mean of logarithms whose errors hardly add up.
    values = [
        exact_fsinfo(j, sigmas(j)).values[0]
        for j in (jacobian_of(TwoMaps(), dtype=t) for t in (torch.float32, torch.float64))
    ]
    assert math.isfinite(values[1])
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_exact_fsinfo_is_the_log_determinant() -> None:
    j = jacobian_of(TwoMaps())
    white = by_autograd(j, 0) / sigmas(j).unsqueeze(1)
    log_det = float(torch.linalg.slogdet(white.T @ white).logabsdet)
    expected = log_det / (2 * D) - 0.5 * math.log(2 * math.pi * math.e)
    found = exact_fsinfo(j, sigmas(j))
    assert found.values[0] == pytest.approx(expected, rel=1e-9)
    assert (found.ranks, found.left_out) == ((D,), 0)


@pytest.mark.parametrize("least", [1e-9, 1e-5])
def test_rank_is_told_with_and_without_eigenvalues(least: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))
    eigenvalues = torch.linspace(1, 2, 60, dtype=torch.float64)
    eigenvalues[7] = least
    matrix = q @ torch.diag(eigenvalues) @ q.T
    log_det, rank = log_det_and_rank(matrix, 1e-6)
    if least < 1e-6:
        assert (log_det, rank) == (-math.inf, 59)
    else:
        assert rank == 60
        assert log_det == pytest.approx(float(eigenvalues.log().sum()), rel=1e-8)


def test_a_deadline_leaves_images_out_and_says_how_many() -> None:
    j = jacobian_of(TwoMaps(), n=3)
    found = exact_fsinfo(j, sigmas(j), deadline_s=0.0)
    assert (len(found.values), len(found.ranks), found.left_out) == (1, 1, 2)


def test_chunks_give_the_products_of_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    directions, found = torch.randn(7, D, dtype=torch.float64), []
    for budget in (1, 1 << 28):
        monkeypatch.setattr(jacobian_module, "_CHUNK_BYTES", budget)
        j = jacobian_of(convolutional(), n=2)
        assert (j.chunk == 1) == (budget == 1)
        found.append(j.jvps(1, directions))
    both = torch.stack([directions[2], directions[2]])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0][2], j.jvp(both)[1])


def test_a_symmetric_product_by_parts_is_the_product() -> None:
    rows = torch.randn(20, 300, dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows.T @ rows)
