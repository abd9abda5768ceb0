"""CIFAR-10 and the ResNets trained on it, for the studies: data, weights, heads at every block.

DIR holds ``cifar10/cifar10_jpeg.npz`` (all 60,000 images as JPEG: blob, offset, label, is_test),
``cifar10/cifar10_lossless.npz`` (4,000 training and 393 test images, bit-exact, with their rows in
the JPEG set) and ``weights/cifar10_resnet{20,32,56}.npz`` (option-A shortcuts, names as in a state
dict). Attackers and defences train on the JPEG set's training images; pictures to attack and to
count accuracy on are lossless test images.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.pixel_head import PixelHead

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions and a shortcut that subsamples and pads with zeros (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, rectified."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.padding > 0:
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(inner + x)


class Resnet(nn.Module):
    """A CIFAR ResNet of 6n + 2 layers.

    Args:
        depth: 20, 32, 44, 56.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        each = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, each)
        self.layer2 = self._layer(16, 32, 2, each)
        self.layer3 = self._layer(32, 64, 2, each)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int, each: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(each - 1)))

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """Stem and blocks by name, in order: each ends at a block cut."""
        found: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Sequential(self.conv1, self.bn1, nn.ReLU()))
        ]
        for layer in ("layer1", "layer2", "layer3"):
            found += [(f"{layer}.{n}", b) for n, b in enumerate(getattr(self, layer))]
        return found

    def classify(self, x: Tensor) -> Tensor:
        """From the last block's output to the classes."""
        return self.linear(x.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """Classes for a normalised batch."""
        for _, block in self.blocks():
            x = block(x)
        return self.classify(x)


class Tail(nn.Module):
    """Everything behind a cut."""

    def __init__(self, blocks: nn.Module, classify: nn.Linear) -> None:
        super().__init__()
        self.blocks, self.linear = blocks, classify

    def forward(self, z: Tensor) -> Tensor:
        """Classes for the boundary tensor."""
        return self.linear(self.blocks(z).mean(dim=(2, 3)))


def load_resnet(data: Path, depth: int) -> Resnet:
    """The trained ResNet, in eval mode, without gradients for its parameters."""
    net = Resnet(depth)
    with np.load(data / "weights" / f"cifar10_resnet{depth}.npz", allow_pickle=False) as held:
        state = {name: torch.from_numpy(held[name]) for name in held.files}
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any("num_batches" not in name for name in missing):
        raise SystemExit(f"expected a ResNet-{depth}'s weights, got {missing} {unexpected}")
    return net.eval().requires_grad_(False)


def fused(net: Resnet) -> Resnet:
    """The same function with batch norms folded into the convolutions before them."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in net.modules():
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
                setattr(module, conv, folded)
                setattr(module, norm, nn.Identity())
    return net.requires_grad_(False)


def split_at(net: Resnet, cut: str) -> tuple[PixelHead, Tail]:
    """Head (from pixels on [0, 1]) and tail at a block cut."""
    names = [name for name, _ in net.blocks()]
    place = names.index(cut) + 1
    blocks = [block for _, block in net.blocks()]
    head = PixelHead(nn.Sequential(*blocks[:place]), MEAN, STD).eval()
    return head, Tail(nn.Sequential(*blocks[place:]), net.linear).eval()


def all_cuts(net: Resnet, pixels: Tensor) -> list[Tensor]:
    """The smashed data of every block cut, from one pass."""
    x = (pixels - torch.tensor(MEAN).view(1, -1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1)
    found = []
    for _, block in net.blocks():
        x = block(x)
        found.append(x)
    return found


@dataclass(frozen=True)
class Pictures:
    """Images with labels.

    Attributes:
        images: ``[n, 3, 32, 32]`` uint8.
        labels: ``[n]`` int64.
    """

    images: Tensor
    labels: Tensor

    def pixels(self) -> Tensor:
        """On [0, 1]."""
        return self.images.float() / 255.0


def jpeg_training(data: Path, count: int, seed: int = 0) -> Pictures:
    """JPEG training images in random order, without those that are lossless training images."""
    return _jpeg(data, "train", count, seed)


def jpeg_test(data: Path, count: int, seed: int = 0) -> Pictures:
    """JPEG test images in random order, without those that are lossless test images."""
    return _jpeg(data, "test", count, seed)


def _jpeg(data: Path, part: str, count: int, seed: int) -> Pictures:
    with np.load(data / "cifar10" / "cifar10_lossless.npz", allow_pickle=False) as held:
        left_out = held[f"{part}_jpeg_index"]
    with np.load(data / "cifar10" / "cifar10_jpeg.npz", allow_pickle=False) as held:
        rows = np.flatnonzero(held["is_test"] == (part == "test"))
        rows = np.delete(rows, left_out)
        chosen = np.random.default_rng(seed).permutation(rows)[:count]
        blob, offset, label = held["blob"].tobytes(), held["offset"], held["label"]
    decoded = [
        np.asarray(Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]])).convert("RGB"))
        for i in chosen
    ]
    images = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    return Pictures(images, torch.from_numpy(label[chosen].astype(np.int64)))


def lossless(data: Path, part: str = "test") -> Pictures:
    """The bit-exact images, ``train`` or ``test``."""
    with np.load(data / "cifar10" / "cifar10_lossless.npz", allow_pickle=False) as held:
        images, labels = held[f"x_{part}"], held[f"y_{part}"]
    return Pictures(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
    )
